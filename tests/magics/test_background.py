"""A panel that moves on from the event loop: it stops by itself, and never raises into the kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from colab_magics.magics import background
from colab_magics.magics.display import Nowhere, Panel, Widget
from colab_magics.magics.follow import Follower
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState

pytestmark = [pytest.mark.face, pytest.mark.filterwarnings("error")]


class WidgetThatBreaks(Widget):
    """Draws once, and fails ever after."""

    drawn = 0
    finished = 0

    def draw(self, state: PanelState, moment: Moment) -> None:  # noqa: ARG002
        self.drawn += 1
        if self.drawn > 1:
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
    assert (screen.drawn, screen.finished) == (2, 1)


def test_the_same_command_again_replaces_what_it_showed_before(follower: Follower) -> None:
    async def kernel() -> None:
        for _ in range(3):
            assert background.go_on(follower, Panel(Widget()), asked=True)
            assert len(background._moving) == 1
        assert background.go_on(follower, Panel(Widget()))
        assert len(background._moving) == 2, "the cell that began the run keeps its own"
        background.leave_all()
        assert not background._moving

    asyncio.run(kernel())


def test_without_a_loop_or_without_widgets_it_stays_where_it_is(follower: Follower) -> None:
    assert not background.go_on(follower, Panel(Widget()))

    async def kernel() -> None:
        assert not background.go_on(follower, Panel(Nowhere()))

    asyncio.run(kernel())
