"""An attempt that takes no step wipes nothing of what those before it have come to."""

from __future__ import annotations

from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.panel import answers
from colab_magics.panel.attempts import as_it_stood
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import text

from .events_of import event

pytestmark = pytest.mark.face

SAVED = event("checkpoint", action="saved", step=4, bytes=2048, at=4)


def begun(attempt: int, at: float = 0.0) -> dict[str, Any]:
    return event("started", at, name="re", made_by="track", unit="steps", total=4) | {"attempt": attempt}


def step(number: int, at: float = 0.0) -> dict[str, Any]:
    told = {"phase_step": number, "phase": "", "unit": "steps", "done": number, "total": 4, "figures": {}}
    return event("step", at or number, step=number, total_steps=4, loss=1 / number, **told)


FIRST = [begun(1), *map(step, range(1, 5)), SAVED]
DONE = event("finished", 5, reason="completed", step=4, seconds=5.0)
ON = event("resumed", 100, step=4, checkpoint="00000004-a1")
BROKEN = event("failed", 101, error=ColabMagicsError("It broke.").to_dict())


def test_a_finished_run_that_is_run_again_is_shown_as_it_was_and_says_that_there_was_nothing_to_do() -> None:
    once = PanelState().fold_all([*FIRST, DONE])
    over = {**event("finished", 101, reason="completed", step=4, seconds=0.01), "attempt": 2}
    twice = once.fold_all([begun(2, 100), {**ON, "finished": True}, over])
    for ask in (answers.learning, lambda state: answers.safety(state, answers.Moment())):
        assert ask(twice) == ask(once)
    assert (twice.curve, twice.seconds, twice.ended_clock) == (once.curve, once.seconds, once.ended_clock)
    told = text(twice)
    assert "4/4 steps (100%)" in told
    assert "It was finished already, at step 4: there was nothing left to do. again=True begins anew." in told
    assert "Goes on" not in told
    thrice = twice.fold_all([begun(3, 200), {**ON, "finished": True}, {**over, "attempt": 3}])
    assert text(thrice).partition("\n")[2] == told.partition("\n")[2]


@pytest.mark.parametrize("resumed", [[ON], []], ids=["after it was put back", "before that"])
def test_an_attempt_that_fails_before_its_first_step_leaves_the_run_where_it_was(resumed: list[Any]) -> None:
    once = PanelState().fold_all(FIRST)
    state = once.fold_all([begun(2, 100), *resumed, BROKEN])
    assert (state.step, state.total_steps, state.loss, state.saved) == (4, 4, 0.25, once.saved)
    assert answers.standing(state) == "failed after step 4"


def test_one_that_is_gone_without_a_word_leaves_it_there_too() -> None:
    state = PanelState().fold_all([*FIRST, begun(2, 100)])
    assert state.step == 0, "it is still preparing"
    assert as_it_stood(state).loss == 0.25
    assert state.ended_without_a_word(stopped=False).step == 4


def test_one_that_begins_over_and_ends_without_a_step_has_none() -> None:
    state = PanelState().fold_all([*FIRST, begun(2, 100), event("finished", 101, reason="completed", step=0)])
    assert (state.step, state.loss) == (0, None)


def test_of_one_that_has_ended_only_one_line_says_from_where_it_goes_on() -> None:
    state = PanelState().fold_all([*FIRST[:4], event("checkpoint", action="saved", step=3, bytes=1), begun(2)])
    state = state.fold_all([event("resumed", step=2, checkpoint="00000002-a1", lost_steps=1), step(3)])
    assert "Goes on from step 2, checkpoint 00000002-a1; 1 step since then is run again." in text(state)
    told = text(state.fold_all([event("checkpoint", action="saved", step=3, bytes=1), BROKEN]))
    assert "Went on from step 2, checkpoint 00000002-a1; 1 step since then was run again." in told
    assert told.count("oes on from step") == 1
    assert "The cell, run again, goes on from step 3." in told
