"""Where the panel is drawn: one output of the cell that is updated in place, or lines in a terminal.

`clear_output` and threads are avoided on purpose: the one flickers and takes the user's own output with it, the
other's updates go to whatever cell runs by then.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from colab_magics.panel.html import html
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import line, text
from colab_magics.run import Run

INTERVAL = 0.5  # seconds between two frames; VS Code is slow to redraw HTML
_TERMINAL_INTERVAL = 10.0  # where lines cannot be redrawn


class Screen(Protocol):
    """Draws frames of a run."""

    interval: float

    def draw(self, state: PanelState) -> None:
        """Draw one frame, in the place of the last."""

    def finish(self, state: PanelState) -> None:
        """Draw the frame that stays."""


class Panel:
    """Draws a run on a screen, at most one frame an interval, and none that shows nothing new."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._drawn: PanelState | None = None
        self._at = float("-inf")

    def update(self, state: PanelState) -> None:
        """Show `state` if it is new and the last frame is old enough."""
        now = self._clock()
        phase_changed = self._drawn is None or self._drawn.phase != state.phase
        interval = INTERVAL if phase_changed else self._screen.interval
        if state == self._drawn or now - self._at < interval:
            return
        self._screen.draw(state)
        self._drawn, self._at = state, now

    def finish(self, state: PanelState) -> None:
        """Show the last state; it stays."""
        self._screen.finish(state)
        self._drawn = state


class Notebook:
    """One output of the cell, updated through its display id; its last frame is what the notebook saves."""

    interval = INTERVAL

    def __init__(self, *, as_html: bool) -> None:
        self._as_html = as_html
        self._id = uuid.uuid4().hex
        self._frame: dict[str, str] | None = None

    def draw(self, state: PanelState) -> None:
        from IPython.display import display

        frame = bundle(state) if self._as_html else {"text/plain": text(state)}
        if frame == self._frame:
            return
        again: dict[str, Any] = {} if self._frame is None else {"update": True}
        display(frame, raw=True, display_id=self._id, **again)
        self._frame = frame

    def finish(self, state: PanelState) -> None:
        self.draw(state)


class Terminal:
    """A line that is redrawn in place on a terminal; now and then a new line elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._in_place = self._stream.isatty()
        self._width = 0
        self.interval = INTERVAL if self._in_place else _TERMINAL_INTERVAL

    def draw(self, state: PanelState) -> None:
        now = line(state)
        if self._in_place:
            now = now[: _columns() - 1]
            self._stream.write("\r" + now.ljust(self._width))
            self._width = len(now)
        else:
            self._stream.write(now + "\n")
        self._stream.flush()

    def finish(self, state: PanelState) -> None:
        if self._in_place and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(text(state) + "\n")
        self._stream.flush()


class Nowhere:
    """`--panel off`."""

    interval = INTERVAL

    def draw(self, state: PanelState) -> None:
        """Nothing to see."""

    def finish(self, state: PanelState) -> None:
        """Nothing to see."""


def state_of(folder: Path, name: str) -> PanelState:
    """What is to be drawn of the run in `folder`, called `name`, that nobody follows.

    Its log may have been written on another machine: the result is looked for here.
    """
    run = Run(folder)
    state = PanelState(name=name).fold_all(run.history())
    return replace(state, path=os.fspath(run.adapter_path or "")) if state.path else state


def screen_for(kind: str, *, in_kernel: bool) -> Screen:
    """The screen that `--panel` names; `auto` is HTML in a kernel and text in a terminal."""
    if kind == "off":
        return Nowhere()
    if not in_kernel:
        return Terminal()
    return Notebook(as_html=kind in ("auto", "html"))


def bundle(state: PanelState) -> dict[str, str]:
    """A frame in both forms, so that every viewer of the saved notebook finds one it can show."""
    return {"text/html": html(state), "text/plain": text(state)}


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
