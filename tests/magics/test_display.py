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
from colab_magics.panel.widget import VIEW, Buttons

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


def test_a_frame_that_a_person_waits_for_comes_out_of_turn_but_not_within_half_a_second() -> None:
    screen, clock = ScreenThatRemembers(), ClockThatIsSet()
    panel = Panel(screen, clock=clock)
    steps = []
    for tick in range(1000, 1100):
        clock.now = 0 if tick == 1000 else tick
        panel.update(at(tick))
    for tenth in range(1, 11):
        clock.now = 1100 + tenth / 10
        if tenth == 2:
            panel.hurry()
        panel.update(at(tenth))
        steps.append(screen.frames[-1][0].step)
    assert len(set(steps)) == 2


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


def test_a_panel_can_be_captured(shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython
    import IPython.display

    def display(frame: dict[str, Any], **_: Any) -> None:
        shown.append(frame)

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(display_pub=object()))  # it knows no cell
    screen = Notebook(as_html=True)
    screen.draw(PLANNED, NEVER)
    screen.finish(replace(PLANNED, step=2))
    assert len(shown) == 3


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


ORDERS = {"stop": lambda: None, "save": lambda: None}
PLANNED = replace(at(1), plan=(Choice("precision", "fp32", "no GPU"),))


def living_widgets() -> dict[str, Any]:
    """The models that this kernel holds; ipywidgets 8 and 7 keep them in different places."""
    from ipywidgets.widgets import widget

    return dict(widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets)


def test_buttons_are_an_output_of_their_own_that_is_empty_at_the_end(shown: list[dict[str, Any]]) -> None:
    pytest.importorskip("ipywidgets")
    screen = Notebook(as_html=True, with_buttons=True)
    screen.draw(PLANNED, NEVER)
    screen.offer(ORDERS)
    screen.draw(replace(PLANNED, step=2), NEVER)
    views = [message["data"][VIEW]["model_id"] for message in shown if VIEW in message["data"]]
    (model,) = views
    assert set(shown[0]["data"]) == {"text/html", "text/plain"}, "what is saved holds a frame at any time"
    screen.finish(replace(PLANNED, step=3))
    assert shown[-1]["update"]
    assert shown[-1]["data"] == {"text/html": "", "text/plain": ""}
    # a page that was loaded again asks for the model: it is there, and shows nothing
    assert living_widgets()[model].layout.display == "none"


def test_what_is_first_shown_after_another_cell_was_run_belongs_to_the_panels_cell(
    shown: list[dict[str, Any]], publisher: PublisherOfAKernel
) -> None:
    screen = Notebook(as_html=True)
    screen.draw(at(0), NEVER)
    publisher.parent_header = {"msg_id": "another cell"}
    screen.draw(PLANNED, NEVER)
    assert {message["cell"] for message in shown} == {"the first cell"}


def test_widgets_give_way_to_plain_output_and_hold_the_last_frame_for_a_page_that_was_loaded_again(
    shown: list[dict[str, Any]],
) -> None:
    pytest.importorskip("ipywidgets")
    screen = Widget(with_buttons=True)
    screen.draw(PLANNED, NEVER)
    screen.offer(ORDERS)
    screen.draw(replace(PLANNED, step=2), NEVER)
    assert len(shown) == 1, "frames travel to the widget, not to the output"
    assert set(shown[0]["data"]) == {"text/html", "text/plain", VIEW}
    assert "%panel run --panel html" in shown[0]["data"]["text/plain"]
    assert "Interrupt" not in shown[0]["data"]["text/html"]
    screen.finish(replace(PLANNED, step=3))
    assert shown[-1]["update"]
    assert set(shown[-1]["data"]) == {"text/html", "text/plain"}
    assert "precision" in shown[-1]["data"]["text/html"]
    live, row, more = living_widgets()[shown[0]["data"][VIEW]["model_id"]].children
    assert "step 3 of" in live.value
    assert "precision" in more.value
    assert row.layout.display == "none"


def test_a_pressed_button_says_so_at_once_and_until_its_order_is_done() -> None:
    pytest.importorskip("ipywidgets")
    given: list[str] = []
    row = Buttons()
    row.offer({"stop": lambda: given.append("stop"), "save": lambda: given.append("save")})
    save, stop = row.buttons["save"], row.buttons["stop"]
    save.click()
    assert (save.disabled, save.description) == (True, "Saving…")
    stop.click()
    assert given == ["save", "stop"]
    row.pending({"save"})
    assert (save.disabled, stop.disabled) == (True, False)
    row.pending(())
    assert (save.disabled, save.description) == (False, "Save")


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


def test_auto_is_html_which_has_buttons_where_the_kernel_is_free(
    monkeypatch: pytest.MonkeyPatch, shown: list[dict[str, Any]]
) -> None:
    pytest.importorskip("ipywidgets")

    def has_buttons(kind: str, *, free: bool = True) -> bool:
        screen = screen_for(kind, in_kernel=True, free=free)
        assert isinstance(screen, Notebook)
        shown.clear()
        screen.draw(at(1), NEVER)
        screen.offer(ORDERS)
        return any(VIEW in message["data"] for message in shown)

    assert has_buttons("auto")
    assert not has_buttons("auto", free=False)
    assert not has_buttons("html")
    assert not has_buttons("text")
    assert isinstance(screen_for("widget", in_kernel=True), Widget)
    for kind in ("auto", "html", "widget"):
        assert isinstance(screen_for(kind, in_kernel=False, free=True), Terminal)
    assert isinstance(screen_for("off", in_kernel=True), Nowhere)

    # on Colab any widget breaks the saved notebook, so that it must be asked for
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert not has_buttons("auto")
    assert isinstance(screen_for("widget", in_kernel=True, free=True), Widget)


def test_without_ipywidgets_auto_is_html_and_a_widget_that_is_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(display, "find_spec", lambda _: None)
    assert isinstance(screen_for("auto", in_kernel=True, free=True), Notebook)
    with pytest.raises(ColabMagicsError, match="ipywidgets is not installed"):
        screen_for("widget", in_kernel=True)
