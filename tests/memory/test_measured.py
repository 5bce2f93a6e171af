"""What a log says was measured, beside what was predicted."""

from __future__ import annotations

from typing import Any

import pytest

from colab_magics.memory.measured import Measured, measured

GIB = 2**30


def event(kind: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"time": "2026-11-20T00:00:00.000+00:00", "kind": kind, "attempt": attempt, **fields}


def plan(peak: int = 8 * GIB) -> dict[str, Any]:
    return event("plan", estimate={"weights": 5 * GIB, "peak": peak}, choices={})


def step(number: int, peak: float | None, in_memory: int = 512, attempt: int = 1) -> dict[str, Any]:
    told = {} if peak is None else {"allocated": GIB, "reserved": 2 * GIB, "peak": int(peak * GIB)}
    return event("step", attempt, step=number, in_memory=in_memory, **told)


def test_the_peak_is_that_of_the_step_that_reached_it_with_its_tokens() -> None:
    log = [event("started"), plan(), step(1, 6, 400), step(2, 9, 2048), step(3, 9, 300)]
    assert measured(log) == Measured(9 * GIB, 2048, 2, 8 * GIB, 9 / 8)


def test_on_a_cpu_nothing_was_measured() -> None:
    assert measured([event("started"), plan(), step(1, None), step(2, None)]) is None
    assert measured([]) is None


def test_what_did_not_fit_is_no_measure_of_what_then_does() -> None:
    log = [event("started"), plan(), step(1, 10), event("oom", step=2), event("recovered", step=2), step(2, 7, 100)]
    assert measured(log) == Measured(7 * GIB, 100, 2, 8 * GIB, 7 / 8)


def test_a_peak_that_rose_in_an_evaluation_is_not_the_next_step_s() -> None:
    log = [event("started"), plan(), step(1, 6, 400), event("eval", step=1, loss=1.0), step(2, 9, 500), step(3, 9, 600)]
    found = measured(log)
    assert found is not None
    assert (found.peak, found.step) == (6 * GIB, 1)


def test_the_newest_attempt_counts() -> None:
    log = [event("started"), plan(), step(1, 12), event("started", 2), plan(4 * GIB), step(2, 5, 64, attempt=2)]
    assert measured(log) == Measured(5 * GIB, 64, 2, 4 * GIB, 5 / 4)


def test_a_second_plan_without_an_estimate_leaves_the_first() -> None:
    log = [event("started"), plan(), event("plan", choices={}), step(1, 4)]
    found = measured(log)
    assert found is not None
    assert found.ratio == 0.5


def test_without_a_prediction_there_is_a_peak_and_no_ratio() -> None:
    found = measured([event("started"), step(1, 4)])
    assert found == Measured(4 * GIB, 512, 1, None, None)


@pytest.mark.parametrize("odd", [None, "12", True, -1, {}, 1.5])
def test_odd_figures_are_passed_over(odd: Any) -> None:
    assert measured([plan(), event("step", step=1, peak=odd, in_memory=5)]) is None
    assert measured([event("plan", estimate=odd), event("step", step=1, peak=odd, in_memory=odd)]) is None


def test_a_log_from_before_the_tokens_were_told_measures_nothing() -> None:
    assert measured([plan(), event("step", step=1, peak=GIB)]) is None
