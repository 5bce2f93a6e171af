"""Where the panel is drawn: how often, and in which form."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import pytest

from colab_magics.magics.display import Notebook, Nowhere, Panel, Terminal, screen_for
from colab_magics.panel.state import PanelState

pytestmark = pytest.mark.face


@dataclass
class ScreenThatRemembers:
    interval: float = 0.5
    frames: list[PanelState] = field(default_factory=list)

    def draw(self, state: PanelState) -> None:
        self.frames.append(state)

    def finish(self, state: PanelState) -> None:
        self.frames.append(state)


@dataclass
class ClockThatIsSet:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def at(step: int) -> PanelState:
    return PanelState(name="run", phase="training", step=step, total_steps=1000)


def test_no_more_than_two_frames_a_second_are_drawn_and_the_last_always() -> None:
    screen, clock = ScreenThatRemembers(), ClockThatIsSet()
    panel = Panel(screen, clock)
    for tenth in range(100):
        clock.now = tenth / 10
        panel.update(at(tenth))
    assert len(screen.frames) <= 20
    panel.finish(at(100))
    assert screen.frames[-1].step == 100


def test_a_state_that_is_drawn_already_is_not_drawn_again() -> None:
    screen, clock = ScreenThatRemembers(), ClockThatIsSet()
    panel = Panel(screen, clock)
    for second in range(5):
        clock.now = second
        panel.update(at(1))
    assert len(screen.frames) == 1


class AStream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_a_terminal_redraws_one_line_in_place_and_ends_with_the_whole_panel() -> None:
    stream = AStream(terminal=True)
    screen = Terminal(stream)
    screen.draw(replace(at(1), name="a-long-name"))
    screen.draw(at(2))
    assert stream.getvalue().count("\n") == 0
    assert stream.getvalue().count("\r") == 2
    screen.finish(at(3))
    assert "step 3 of 1,000" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_stream_that_is_no_terminal_gets_lines_and_no_carriage_return() -> None:
    stream = AStream(terminal=False)
    panel, clock = None, ClockThatIsSet()
    panel = Panel(Terminal(stream), clock)
    for second in range(60):
        clock.now = second
        panel.update(at(second))
    assert "\r" not in stream.getvalue()
    assert 3 <= stream.getvalue().count("\n") <= 7


def test_auto_is_html_in_a_kernel_and_text_in_a_terminal() -> None:
    assert isinstance(screen_for("auto", in_kernel=True), Notebook)
    assert isinstance(screen_for("auto", in_kernel=False), Terminal)
    assert isinstance(screen_for("html", in_kernel=False), Terminal)
    assert isinstance(screen_for("off", in_kernel=True), Nowhere)
