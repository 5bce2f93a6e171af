"""The interval between two saves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_magics.checkpoints.interval import LONGEST, MEAN_TIME_BETWEEN_DEATHS, SHORTEST, best_interval


@pytest.mark.parametrize(("stall", "interval"), [(0.2, 65.7), (1.0, 147.0), (5.0, 328.6), (20.0, 657.3)])
def test_it_is_youngs_and_dalys(stall: float, interval: float) -> None:
    assert best_interval(stall) == pytest.approx(interval, abs=0.1)


@given(st.floats())
def test_whatever_the_clock_says_it_is_between_a_minute_and_fifteen(stall: float) -> None:
    assert SHORTEST <= best_interval(stall) <= LONGEST


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_longer_stall_never_shortens_it(one: float, other: float) -> None:
    assert best_interval(min(one, other)) <= best_interval(max(one, other))


@given(st.floats(0.2, 37.0))
def test_between_the_bounds_no_other_interval_wastes_less(stall: float) -> None:
    def waste(interval: float) -> float:
        """Of each second: waiting for saves, and, at a death, half an interval's work lost."""
        return stall / interval + interval / 2 / MEAN_TIME_BETWEEN_DEATHS

    best = best_interval(stall)
    assert SHORTEST < best < LONGEST
    assert all(waste(best) <= waste(best * factor) + 1e-12 for factor in (0.5, 0.9, 1.1, 2.0))
