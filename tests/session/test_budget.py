"""Whether the training ends before the session does, and what becomes of it if not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_magics.session.budget import (
    SAVE_BEFORE,
    STOP_BEFORE,
    Budget,
    budget,
    evaluations_left,
    seconds_of_evaluation,
    sessions_for,
)
from colab_magics.session.forecast import Forecast
from colab_magics.session.here import Session
from colab_magics.session.table import Platform

pytestmark = [pytest.mark.face, pytest.mark.colab]

HOUR = 3600.0
SOMEWHERE = Platform("somewhere", "Somewhere", "2026-10-01")


def session(age: float | None = 2 * HOUR, limit: float | None = 12 * HOUR, limit_from: str = "table") -> Session:
    return Session(SOMEWHERE, "a test", age, limit, limit_from)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("p50", "p90", "answer"),
    [(5, 6, "yes"), (9, 11, "likely"), (12, 14, "unlikely"), (25, 30, "no")],
)
def test_the_answer_goes_by_p50_and_p90_against_the_time_until_the_clean_stop(p50, p90, answer):
    made = budget(Forecast(p50 * HOUR, p90 * HOUR), session(), 100, 1100)
    assert made.answer == answer
    assert made.left == 10 * HOUR - STOP_BEFORE


def test_what_does_not_fit_is_stopped_at_a_step_and_takes_so_many_sessions():
    made = budget(Forecast(29.75 * HOUR, 31 * HOUR), session(), 100, 1100)
    assert made.stops_at == 100 + 333
    assert made.sessions == 3  # 9.9 h in this one, then 11.9 h each


def test_nothing_is_claimed_where_nothing_is_known():
    sure = Forecast(60, 90)
    assert budget(sure, None, 0, 10) == Budget("unknown")
    assert budget(sure, session(limit=None), 0, 10) == Budget("unknown")
    assert budget(sure, session(age=None), 0, 10) == Budget("unknown")
    assert budget(sure, session(age=13 * HOUR, limit_from="passed"), 0, 10) == Budget("unknown")
    assert budget(None, session(), 0, 10) == Budget("unknown", 10 * HOUR - STOP_BEFORE)


def test_after_the_save_there_is_time_to_copy_it_before_the_clean_stop():
    assert SAVE_BEFORE > STOP_BEFORE > 0


def test_a_session_that_is_all_margin_holds_no_training():
    assert sessions_for(HOUR, STOP_BEFORE) is None
    assert sessions_for(HOUR, None) == 1
    assert budget(Forecast(HOUR, HOUR), session(age=60, limit=STOP_BEFORE), 3, 10) == Budget("no", 0.0, 3, 1)


HOURS = st.floats(0, 100).map(lambda hours: hours * HOUR)


@given(HOURS, HOURS, HOURS, HOURS, st.integers(0, 1000), st.integers(1, 1000))
def test_answers_are_in_order_and_figures_in_bounds(p50, more, age, limit, step, steps_left):
    made = budget(Forecast(p50, p50 + more), session(age=age, limit=limit), step, step + steps_left)
    assert made.left is not None
    assert 0 <= made.left <= limit
    assert made.sessions >= 1
    if made.answer in ("yes", "likely"):
        assert made.stops_at is None
        assert made.sessions == 1
        assert p50 <= made.left
    else:
        assert made.stops_at is not None
        assert step <= made.stops_at <= step + steps_left
        assert p50 > made.left
    useful = limit - STOP_BEFORE
    if useful > 0:
        assert made.left + (made.sessions - 1) * useful >= p50 * (1 - 1e-9)


@given(HOURS, HOURS, HOURS)
def test_a_longer_session_never_makes_it_worse(p50, age, limit):
    order = ["no", "unlikely", "likely", "yes"]
    short, long = (budget(Forecast(p50, p50 * 1.2), session(age, one), 0, 100) for one in (limit, limit + HOUR))
    assert order.index(long.answer) >= order.index(short.answer)
    reached = [100 if made.stops_at is None else made.stops_at for made in (short, long)]
    assert reached == sorted(reached)


@pytest.mark.parametrize(
    ("total", "every", "step", "scored", "left"),
    [
        (250, 100, 0, 0, 3),
        (250, 100, 90, 0, 3),
        (250, 100, 100, 0, 3),  # it is under way
        (250, 100, 100, 100, 2),
        (250, 100, 249, 200, 1),
        (250, 100, 250, 200, 1),
        (250, 100, 250, 250, 0),
        (200, 100, 150, 100, 1),
        (200, 100, 200, 200, 0),
        (50, None, 10, 0, 1),
        (50, None, 50, 50, 0),
    ],
)
def test_there_is_an_evaluation_every_so_many_steps_and_one_after_the_last(
    total: int, every: int | None, step: int, scored: int, left: int
) -> None:
    assert evaluations_left(total, every, step, scored) == left


def test_an_evaluation_takes_what_those_before_took_and_until_then_a_third_of_training() -> None:
    assert seconds_of_evaluation([10.0, 20.0], 9000, 100.0) == 15
    assert seconds_of_evaluation([], 9000, 100.0) == 30
    assert seconds_of_evaluation([], None, 100.0) == seconds_of_evaluation([], 9000, None) == 0
