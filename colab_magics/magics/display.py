"""Where the panel is drawn: one output of the cell that is updated in place, widgets, or lines in a terminal.

`clear_output` and threads are avoided on purpose: the one flickers and takes the user's own output with it, the
other's updates go to whatever cell runs by then.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.moments import now_at
from colab_magics.panel.details import details, details_text
from colab_magics.panel.html import html
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.panel.style import MOST_BYTES
from colab_magics.panel.text import line, text
from colab_magics.panel.widget import Buttons, Widgets
from colab_magics.run import Run
from colab_magics.session.detect import on_colab

INTERVAL = 0.5  # seconds between two frames at most; VS Code is slow to redraw HTML
# A server keeps every frame of a tab that is closed, for hours: seconds since the first frame -> between two frames.
_PACE = ((60.0, INTERVAL), (600.0, 2.0), (float("inf"), 5.0))
_TERMINAL_INTERVAL = 10.0  # where lines cannot be redrawn
_EMPTY = {"text/html": "", "text/plain": ""}


class Screen(Protocol):
    """Draws frames of a run."""

    interval: float

    def draw(self, state: PanelState, moment: Moment) -> None:
        """Draw one frame, in the place of the last."""

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008 - it is frozen
        """Draw the frame that stays."""


class Panel:
    """Draws a run on a screen: often at first, seldom later, and a new phase at once."""

    def __init__(
        self,
        screen: Screen,
        moments: Callable[[PanelState], Moment] = now_at,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.screen = screen
        self.moments = moments
        self._clock = clock
        self._phase: str | None = None
        self._began: float | None = None
        self._at = float("-inf")
        self._soon = False

    def update(self, state: PanelState) -> None:
        """Show `state`, and the moment, if the last frame is old enough."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        pace = next(pace for until, pace in _PACE if now - self._began < until)
        interval = INTERVAL if self._soon or state.phase != self._phase else max(pace, self.screen.interval)
        if now - self._at < interval:
            return
        self.screen.draw(state, self.moments(state))
        self._phase, self._at, self._soon = state.phase, now, False

    def hurry(self) -> None:
        """Have the next frame come as soon as one may: a person waits for it."""
        self._soon = True

    def settle(self, state: PanelState) -> None:
        """Show `state` before the cell returns, which waits until a frame may come."""
        time.sleep(min(INTERVAL, max(0.0, self._at + INTERVAL - self._clock())))
        self.hurry()
        self.update(state)

    def finish(self, state: PanelState) -> None:
        """Show the last state; it stays. Ages would go stale there, and are left out."""
        self.screen.finish(state)


class Output:
    """One output of the cell, which is updated through its display id; what it shows already is not sent again.

    What is shown after its cell has returned is published as that cell's too, and not as that of the one run last.

    Parameters
    ----------
    beside : Output, optional
        One that is there already, whose cell is this one's too.
    """

    def __init__(self, beside: Output | None = None) -> None:
        self._id = uuid.uuid4().hex
        self._shown: Mapping[str, Any] | None = None
        self._beside = beside
        self._cell: Any = None

    def show(self, frame: Mapping[str, Any]) -> None:
        from IPython import get_ipython
        from IPython.display import display

        if frame == self._shown:
            return
        publisher = get_ipython().display_pub
        how = {} if self._shown is None else {"update": True}
        now = getattr(publisher, "parent_header", None)  # %%capture's has none
        if self._cell is None:
            self._cell = now if self._beside is None else self._beside._cell
        if self._cell is None or now is None:
            display(frame, raw=True, display_id=self._id, **how)
        else:
            publisher.parent_header = self._cell
            try:
                display(frame, raw=True, display_id=self._id, **how)
            finally:
                publisher.parent_header = now
        self._shown = frame


class Notebook:
    """The panel as plain output, whose last frame is what the notebook saves.

    Plan and data are an output of their own below it, so that what a person has unfolded there stays open; and so are
    the buttons, which are widgets: a viewer that has none shows all the rest.
    """

    interval = INTERVAL

    def __init__(self, *, as_html: bool, with_buttons: bool = False) -> None:
        self.as_html = as_html
        self._with_buttons = with_buttons
        self._live = Output()
        self._details, self._row = Output(beside=self._live), Output(beside=self._live)
        self._buttons: Buttons | None = None

    def draw(self, state: PanelState, moment: Moment) -> None:
        self._live.show(bundle(state, moment) if self.as_html else {"text/plain": text(state, moment)})
        if self.as_html and state.plan and (settled := details(state)):
            self._details.show({"text/html": settled, "text/plain": details_text(state)})

    def offer(self, orders: Mapping[str, Callable[[], None]]) -> None:
        """Show buttons from now on: the kernel hears them once the cell has returned."""
        if self._with_buttons and self._buttons is None:
            self._buttons = Buttons()
            self._buttons.offer(orders)
            self._row.show({**_EMPTY, **self._buttons.view()})

    def pending(self, orders: Collection[str]) -> None:
        """Mark the buttons of orders that were given and are not done."""
        if self._buttons is not None:
            self._buttons.pending(orders)

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008
        self.draw(state, moment)
        if self._buttons is not None:
            self._buttons.hide()  # for a page that was loaded again, which does not hear of the output's end
            self._row.show(_EMPTY)
            self._buttons = None


class Widget:
    """The panel as widgets, which move also on a page that was loaded again.

    Plain output takes their place at the end. A page that was loaded again does not hear of it, and shows the widgets
    for as long as the kernel lives: so these hold the last frame too.
    """

    interval = INTERVAL

    def __init__(self, *, with_buttons: bool = False) -> None:
        self._output = Output()
        self._with_buttons = with_buttons
        self._widgets: Widgets | None = None

    def draw(self, state: PanelState, moment: Moment) -> None:
        frame = html(state, moment)
        if self._widgets is None:
            self._widgets = Widgets(with_buttons=self._with_buttons)
            self._widgets.show(frame, details(state))
            # for viewers that have no widgets: a frame would stand still there, and look as if it did not
            told = f"Widgets show {state.name or 'this run'} here. Without them: %panel {state.name} --panel html"
            self._output.show({"text/html": escape(told), "text/plain": told, **self._widgets.view()})
        else:
            self._widgets.show(frame, details(state))

    def offer(self, orders: Mapping[str, Callable[[], None]]) -> None:
        """Show buttons from now on: the kernel hears them once the cell has returned."""
        if self._widgets is not None and self._widgets.buttons is not None:
            self._widgets.buttons.offer(orders)

    def pending(self, orders: Collection[str]) -> None:
        """Mark the buttons of orders that were given and are not done."""
        if self._widgets is not None and self._widgets.buttons is not None:
            self._widgets.buttons.pending(orders)

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008
        self._output.show(snapshot(state, moment))
        if self._widgets is not None:
            self._widgets.show(html(state, moment), details(state))
            if self._widgets.buttons is not None:
                self._widgets.buttons.hide()


class Terminal:
    """A line that is redrawn in place on a terminal; now and then a new line elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._in_place = self._stream.isatty()
        self._width = 0
        self._shown = ""
        self.interval = INTERVAL if self._in_place else _TERMINAL_INTERVAL

    def draw(self, state: PanelState, moment: Moment) -> None:
        now = line(state, moment)
        if now == self._shown:
            return
        self._shown = now
        if self._in_place:
            now = now[: _columns() - 1]
            self._stream.write("\r" + now.ljust(self._width))
            self._width = len(now)
        else:
            self._stream.write(now + "\n")
        self._stream.flush()

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008
        self.write(text(state, moment))

    def write(self, told: str) -> None:
        """Write lines that stay, in the place of the one that was redrawn."""
        if self._in_place and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(told + "\n")
        self._stream.flush()


class Nowhere:
    """`--panel off`."""

    interval = INTERVAL

    def draw(self, state: PanelState, moment: Moment) -> None:
        """Nothing to see."""

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008
        """Nothing to see."""


def state_of(folder: Path, name: str) -> PanelState:
    """What is to be drawn of the run in `folder`, called `name`, that nobody follows.

    Its log may have been written on another machine: the result is looked for here.
    """
    run = Run(folder)
    state = PanelState(name=name).fold_all(run.history())
    return replace(state, path=os.fspath(run.adapter_path or "")) if state.path else state


def screen_for(kind: str, *, in_kernel: bool, free: bool = False) -> Screen:
    """The screen that `--panel` names.

    `auto` is text in a terminal and HTML in a notebook: what is saved there then holds a frame at any time. Where the
    kernel will be `free` (a `--background` run, `%panel`) buttons stand below it, but not on Colab, where any widget
    breaks the saved notebook for GitHub (googlecolab/colabtools#5255).

    Raises
    ------
    ColabMagicsError
        Widgets are asked for, and ipywidgets is not installed.
    """
    if kind == "off":
        return Nowhere()
    if not in_kernel:
        return Terminal()
    has_widgets = find_spec("ipywidgets") is not None
    if kind == "auto":
        return Notebook(as_html=True, with_buttons=free and has_widgets and not on_colab())
    if kind != "widget":
        return Notebook(as_html=kind == "html")
    if not has_widgets:
        raise ColabMagicsError(
            "The panel cannot be a widget here.",
            "ipywidgets is not installed.",
            "Leave --panel widget out, or install it: %pip install ipywidgets",
        )
    return Widget(with_buttons=free)


def bundle(state: PanelState, moment: Moment = Moment()) -> dict[str, str]:  # noqa: B008
    """A frame in both forms, so that every viewer of the saved notebook finds one it can show."""
    return {"text/html": html(state, moment), "text/plain": text(state, moment)}


def snapshot(state: PanelState, moment: Moment = Moment()) -> dict[str, str]:  # noqa: B008
    """A frame with plan and data below it, as far as both are small enough for one output."""
    frame, more = bundle(state, moment), details(state)
    if more and len(frame["text/html"].encode()) + len(more.encode()) < MOST_BYTES:
        frame["text/html"] += more
    return frame


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
