"""The forecast of a training's end: what it promises of the P50 and the P90."""

from __future__ import annotations

import importlib.util
import math
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.session.forecast import Forecast, forecast

pytestmark = [pytest.mark.face, pytest.mark.colab]


@pytest.fixture(scope="module")
def calibration() -> Any:
    """`benchmarks/forecast.py`, which prints what is promised here."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "forecast.py"
    spec = importlib.util.spec_from_file_location("forecast_calibration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("kind", "off"), [("independent", 0.04), ("autocorrelated", 0.06), ("drifting", 0.07), ("heavy-tailed", 0.14)]
)
def test_the_p90_covers_80_to_97_percent_of_simulated_trainings(calibration: Any, kind: str, off: float) -> None:
    found = calibration.figures(calibration.simulated(calibration.SIMULATED[kind], 60))
    low, high = calibration.COVERAGE
    assert low <= found.covered <= high, found
    assert abs(found.bias) < 0.05, found
    assert found.error < off, found


def test_the_p90_covers_80_to_97_percent_of_real_trainings(calibration: Any) -> None:
    found = calibration.figures(chain.from_iterable(map(calibration.cut, calibration.real().values())))
    low, high = calibration.COVERAGE
    assert low <= found.covered <= high, found
    assert found.error < 0.05, found


def test_equal_steps_end_when_they_must() -> None:
    made = forecast([2.0] * 50, 100)
    assert made is not None
    assert made.p50 == pytest.approx(200, rel=0.001)
    assert 200 < made.p90 < 215


def test_nothing_is_said_below_two_steps() -> None:
    assert forecast([], 10) is None
    assert forecast([1.0], 10) is None
    assert forecast([math.nan, 1.0], 10) is None
    assert forecast([1.0, 1.0], 10) is not None


def test_the_first_two_steps_do_not_count_once_there_are_others() -> None:
    warm = forecast([60.0, 20.0] + [1.0] * 10, 100)
    assert warm is not None
    assert warm.p50 == pytest.approx(100, rel=0.01)


def test_evaluations_and_saves_are_added() -> None:
    bare, more = forecast([1.0] * 20, 50), forecast([1.0] * 20, 50, other=30.0)
    assert bare is not None
    assert more is not None
    assert more.p50 - bare.p50 == pytest.approx(30)
    assert more.p90 - bare.p90 == pytest.approx(30)
    assert forecast([1.0] * 20, 0, other=30.0) == Forecast(30.0, 30.0)


def test_a_machine_that_got_slower_is_believed() -> None:
    made = forecast([1.0] * 60 + [2.0] * 60, 100)
    assert made is not None
    assert made.p50 == pytest.approx(200, rel=0.05)


def test_more_steps_seen_make_it_surer(calibration: Any) -> None:
    import numpy as np

    seconds = calibration.independent(np.random.default_rng(7), 400).tolist()
    few, many = forecast(seconds[:12], 200), forecast(seconds, 200)
    assert few is not None
    assert many is not None
    assert many.p90 / many.p50 < few.p90 / few.p50


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=80),
    st.integers(1, 100_000),
    st.floats(0.1, 10),
    st.floats(0, 9),
)
def test_it_is_finite_in_order_and_scales_with_the_clock(
    seconds: list[float], left: int, scale: float, other: float
) -> None:
    made = forecast(seconds, left, other=other)
    assert made is not None
    assert other <= made.p50 <= made.p90 < math.inf
    scaled = forecast([one * scale for one in seconds], left, other=other * scale)
    assert scaled is not None
    assert scaled.p50 == pytest.approx(made.p50 * scale, rel=1e-4, abs=1e-6)
    further = forecast(seconds, left + 1, other=other)
    assert further is not None
    assert further.p50 >= made.p50 * 0.999999
