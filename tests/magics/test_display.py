"""Where the panel is drawn: how often, and in which form."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import display
from colab_magics.magics.display import Notebook, Nowhere, Output, Panel, Terminal, Widget, screen_for
from colab_magics.panel.moment import Moment
from colab_magics.panel.parts import Choice
from colab_magics.panel.state import PanelState
from colab_magics.panel.widget import VIEW, Widgets

pytestmark = pytest.mark.face

NEVER = Moment()


@dataclass
class ScreenThatRemembers:
    interval: float = 0.5
    frames: list[tuple[PanelState, Moment]] = field(default_factory=list)

    def draw(self, state: PanelState, moment: Moment) -> None:
        self.frames.append((state, moment))

    def finish(self, state: PanelState, moment: Moment = NEVER) -> None:
        self.frames.append((state, moment))


@dataclass
class ClockThatIsSet:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def at(step: int, phase: str = "training") -> PanelState:
    return PanelState(name="run", phase=phase, step=step, total_steps=1000)


def drawn(until: float, states: Callable[[float], PanelState], tick: float = 0.1) -> list[float]:
    """When a panel that is given a state every `tick` seconds draws one."""
    screen, clock, times = ScreenThatRemembers(), ClockThatIsSet(), []
    panel = Panel(screen, clock=clock)
    for number in range(round(until / tick)):
        clock.now = number * tick
        before = len(screen.frames)
        panel.update(states(clock.now))
        if len(screen.frames) > before:
            times.append(clock.now)
    return times


def test_frames_come_twice_a_second_then_every_2_s_and_after_ten_minutes_every_5_s() -> None:
    times = drawn(660, lambda now: at(int(now * 10)))
    gaps = [(earlier, round(later - earlier, 1)) for earlier, later in pairwise(times)]
    assert {gap for begin, gap in gaps if begin < 59} == {0.5}
    assert {gap for begin, gap in gaps if 60 < begin < 597} == {2.0}
    assert {gap for begin, gap in gaps if begin > 600} == {5.0}


def test_a_new_phase_is_shown_at_once_but_no_two_within_half_a_second() -> None:
    times = drawn(100, lambda now: at(1, "training" if now < 90 else f"phase {now}"))
    late = [time for time in times if time >= 90]
    assert late[0] == pytest.approx(90)
    assert all(later - earlier > 0.49 for earlier, later in pairwise(late))


def test_the_last_frame_is_always_drawn_and_knows_no_moment_that_would_go_stale() -> None:
    screen, clock = ScreenThatRemembers(), ClockThatIsSet()
    panel = Panel(screen, clock=clock)
    panel.update(at(1))
    panel.finish(at(2))
    (_, first), (state, last) = screen.frames
    assert first.now is not None
    assert state.step == 2
    assert last == NEVER


def test_a_frame_moves_on_when_only_the_moment_does() -> None:
    screen, clock = ScreenThatRemembers(), ClockThatIsSet()
    panel = Panel(screen, lambda _: Moment(now=clock.now), clock)
    for second in range(5):
        clock.now = second
        panel.update(at(1))
    assert [moment.now for _, moment in screen.frames] == [0, 1, 2, 3, 4]


@dataclass
class PublisherOfAKernel:
    parent_header: dict[str, str]


@pytest.fixture
def publisher() -> PublisherOfAKernel:
    return PublisherOfAKernel({"msg_id": "the first cell"})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, publisher: PublisherOfAKernel) -> list[dict[str, Any]]:
    """What is handed to IPython for display, and as which cell's output."""
    import IPython
    import IPython.display

    messages: list[dict[str, Any]] = []

    def display(frame: dict[str, Any], **how: Any) -> None:
        messages.append({"data": frame, "cell": publisher.parent_header["msg_id"], **how})

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(display_pub=publisher))
    return messages


def test_what_is_shown_after_another_cell_was_run_is_still_of_its_own(
    shown: list[dict[str, Any]], publisher: PublisherOfAKernel
) -> None:
    output = Output()
    output.show({"text/plain": "live"})
    publisher.parent_header = {"msg_id": "another cell"}
    output.show({"text/plain": "ended"})
    assert [message["cell"] for message in shown] == ["the first cell", "the first cell"]
    assert publisher.parent_header == {"msg_id": "another cell"}


def test_an_output_is_shown_once_then_updated_and_never_sent_twice(shown: list[dict[str, Any]]) -> None:
    output = Output()
    for words in ("one", "one", "two", "two", "one"):
        output.show({"text/plain": words})
    assert [message["data"]["text/plain"] for message in shown] == ["one", "two", "one"]
    assert [message.get("update", False) for message in shown] == [False, True, True]
    assert len({message["display_id"] for message in shown}) == 1


def test_plan_and_data_are_an_output_of_their_own_that_moves_only_with_them(shown: list[dict[str, Any]]) -> None:
    screen = Notebook(as_html=True)
    screen.draw(at(0), NEVER)
    assert len(shown) == 1
    planned = replace(at(1), plan=(Choice("precision", "fp32", "no GPU"),))
    for step in (1, 2, 3):
        screen.draw(replace(planned, step=step), NEVER)
    details = [message for message in shown if "<details" in message["data"]["text/html"]]
    assert len(details) == 1
    assert "precision" in details[0]["data"]["text/plain"]
    screen.finish(replace(planned, plan=(*planned.plan, Choice("packing", "on", "faster"))))
    assert "packing" in shown[-1]["data"]["text/plain"]
    assert shown[-1]["display_id"] == details[0]["display_id"]


def living_widgets() -> set[str]:
    """The models that this kernel holds; ipywidgets 8 and 7 keep them in different places."""
    from ipywidgets.widgets import widget

    return set(widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets)


def test_widgets_give_way_to_plain_output_that_holds_plan_and_data_too(shown: list[dict[str, Any]]) -> None:
    pytest.importorskip("ipywidgets")
    before = living_widgets()
    screen = Widget(with_buttons=True)
    planned = replace(at(1), plan=(Choice("precision", "fp32", "no GPU"),))
    screen.draw(planned, NEVER)
    screen.offer({"stop": lambda: None, "save": lambda: None})
    screen.draw(replace(planned, step=2), NEVER)
    assert len(shown) == 1, "frames travel to the widget, not to the output"
    assert set(shown[0]["data"]) == {"text/html", "text/plain", VIEW}
    screen.finish(replace(planned, step=3))
    assert shown[-1]["update"]
    assert set(shown[-1]["data"]) == {"text/html", "text/plain"}
    assert "precision" in shown[-1]["data"]["text/html"]
    assert living_widgets() == before, "all are closed"


def test_the_buttons_give_their_orders_and_say_which_are_pending() -> None:
    pytest.importorskip("ipywidgets")
    given: list[str] = []
    panel = Widgets(with_buttons=True)
    panel.offer({"stop": lambda: given.append("stop"), "save": lambda: given.append("save")})
    panel.buttons["save"].click()
    panel.buttons["stop"].click()
    assert given == ["save", "stop"]
    panel.pending({"save"})
    assert (panel.buttons["save"].disabled, panel.buttons["stop"].disabled) == (True, False)
    assert panel.buttons["save"].description == "Saving…"
    panel.pending(())
    assert (panel.buttons["save"].disabled, panel.buttons["save"].description) == (False, "Save")
    panel.close()


class AStream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_a_terminal_redraws_one_line_in_place_and_ends_with_the_whole_panel() -> None:
    stream = AStream(terminal=True)
    screen = Terminal(stream)
    screen.draw(replace(at(1), name="a-long-name"), NEVER)
    screen.draw(at(2), NEVER)
    screen.draw(at(2), NEVER)
    assert stream.getvalue().count("\n") == 0
    assert stream.getvalue().count("\r") == 2
    screen.finish(at(3))
    assert "step 3 of 1,000" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_stream_that_is_no_terminal_gets_lines_and_no_carriage_return() -> None:
    stream = AStream(terminal=False)
    clock = ClockThatIsSet()
    panel = Panel(Terminal(stream), clock=clock)
    for second in range(60):
        clock.now = second
        panel.update(at(second))
    assert "\r" not in stream.getvalue()
    assert 3 <= stream.getvalue().count("\n") <= 7


def test_auto_is_html_in_a_cell_that_waits_and_widgets_where_the_kernel_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ipywidgets")
    assert isinstance(screen_for("auto", in_kernel=True), Notebook)
    assert isinstance(screen_for("auto", in_kernel=True, free=True), Widget)
    assert isinstance(screen_for("html", in_kernel=True, free=True), Notebook)
    assert isinstance(screen_for("widget", in_kernel=True), Widget)
    for kind in ("auto", "html", "widget"):
        assert isinstance(screen_for(kind, in_kernel=False, free=True), Terminal)
    assert isinstance(screen_for("off", in_kernel=True), Nowhere)

    # on Colab any widget breaks the saved notebook, so that it must be asked for
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert isinstance(screen_for("auto", in_kernel=True, free=True), Notebook)
    assert isinstance(screen_for("widget", in_kernel=True, free=True), Widget)


def test_without_ipywidgets_auto_is_html_and_a_widget_that_is_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(display, "find_spec", lambda _: None)
    assert isinstance(screen_for("auto", in_kernel=True, free=True), Notebook)
    with pytest.raises(ColabMagicsError, match="ipywidgets is not installed"):
        screen_for("widget", in_kernel=True)
