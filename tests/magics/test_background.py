"""A panel that moves on from the event loop: it stops by itself, and never raises into the kernel."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.magics import background
from colab_magics.magics.display import Notebook, Nowhere, Panel, Widget
from colab_magics.magics.follow import Follower
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.panel.words import footer

pytestmark = [pytest.mark.face, pytest.mark.filterwarnings("error")]


class NotebookNobodySees(Notebook):
    """Keeps the states that it should show."""

    def __init__(self) -> None:
        super().__init__(as_html=True)
        self.frames: list[PanelState] = []

    def draw(self, state: PanelState, moment: Moment) -> None:  # noqa: ARG002
        self.frames.append(state)


class WidgetThatBreaks(Widget):
    """Draws in the cell, and fails ever after."""

    drawn = 0
    finished = 0

    def draw(self, state: PanelState, moment: Moment) -> None:  # noqa: ARG002
        self.drawn += 1
        if self.drawn > 2:
            raise RuntimeError("the front end is gone")

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: ARG002, B008
        self.finished += 1
        raise RuntimeError("still gone")


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follower:
    """Of a run whose worker is taken to live for ever."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Follower, "alive", lambda _: True)
    monkeypatch.setattr(background, "INTERVAL", 0.01)
    return Follower(tmp_path / "run", 1)


def test_a_screen_that_fails_ends_the_panel_and_nothing_reaches_the_loop(follower: Follower) -> None:
    raised: list[dict[str, Any]] = []
    screen = WidgetThatBreaks()
    ticks = iter(range(0, 10_000, 10))

    async def kernel() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        panel = Panel(screen, clock=lambda: next(ticks))
        panel.update(follower.state)
        assert background.go_on(follower, panel)
        while background._moving:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(kernel(), 20))
    assert raised == []
    assert (screen.drawn, screen.finished) == (3, 1)


def test_the_same_command_again_replaces_what_it_showed_before(follower: Follower) -> None:
    screens = [NotebookNobodySees() for _ in range(4)]

    async def kernel() -> None:
        for screen in screens[:3]:
            assert background.go_on(follower, Panel(screen), asked=True)
            assert len(background._moving) == 1
        assert background.go_on(follower, Panel(screens[3]))
        assert len(background._moving) == 2, "the cell that began the run keeps its own"
        background.leave_all()
        assert not background._moving

    asyncio.run(kernel())
    said = [" ".join(footer(screen.frames[-1])) for screen in screens]
    assert all(re.match(r"As of \d\d:\d\d UTC on ", words) for words in said)
    assert ["shown again below" in words for words in said] == [True, True, False, False]


def test_a_frame_of_the_background_never_says_to_interrupt_the_cell(follower: Follower) -> None:
    screen = NotebookNobodySees()
    ticks = iter(range(0, 10_000, 10))

    async def kernel() -> None:
        follower.state = follower.state.put_aside()  # as the cell does before it hands its panel over
        assert background.go_on(follower, Panel(screen, clock=lambda: next(ticks)))
        while len(screen.frames) < 5:
            await asyncio.sleep(0.01)
        background.leave_all()

    asyncio.run(asyncio.wait_for(kernel(), 20))
    assert not any("Interrupt" in line for state in screen.frames for line in footer(state))


def test_a_save_is_pending_until_its_checkpoint_is_there_which_is_then_shown_at_once(follower: Follower) -> None:
    screen = NotebookNobodySees()

    async def kernel() -> None:
        panel = Panel(screen)
        assert background.go_on(follower, panel)
        (moving,) = background._moving.values()
        moving._save()
        assert moving._given() == {"save"}
        worker.Control(follower.folder).take("save")
        assert moving._given() == {"save"}, "the worker has taken the order, and writes"
        with (follower.folder / "events.jsonl").open("a") as log:
            log.write('{"kind": "checkpoint", "action": "saved", "step": 7, "bytes": 9, "attempt": 1}\n')
        while not any(state.saved for state in screen.frames):
            await asyncio.sleep(0.01)
        assert moving._given() == set()
        background.leave_all()

    asyncio.run(asyncio.wait_for(kernel(), 20))


def test_without_a_loop_or_an_output_it_stays_where_it_is(follower: Follower) -> None:
    assert not background.go_on(follower, Panel(NotebookNobodySees()))

    async def kernel() -> None:
        assert not background.go_on(follower, Panel(Nowhere()))

    asyncio.run(kernel())
