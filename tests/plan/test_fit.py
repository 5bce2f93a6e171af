"""Whether a peak fits: colours at their borders, what others hold, a cap, CUDA's own share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from colab_magics.plan import GIB, Device, Fit, budget, cap_for, fit
from colab_magics.recipe.rules import memory_bytes

pytestmark = [pytest.mark.face, pytest.mark.colab]

MIB = 2**20
T4 = Device("cuda", "Tesla T4", 15_000 * MIB, 15_000 * MIB, 12 * GIB, (7, 5))
A100 = Device("cuda", "A100", 40 * GIB, 40 * GIB, 80 * GIB, (8, 0))
UNKNOWN = Device("cuda", "GPU", 24 * GIB, 24 * GIB, 0)
CPU = Device("cpu", "CPU with 2 cores", 12 * GIB, 10 * GIB, 10 * GIB)
DEVICES = [T4, A100, UNKNOWN, CPU, replace(T4, free=9_000 * MIB)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cap", [None, 8 * GIB, 100 * GIB])
def test_the_budget_is_green_and_one_mib_more_is_not(device, cap):
    most = budget(device, cap=cap)
    assert most > GIB
    assert fit(most, device, cap=cap).colour == "green"
    assert fit(most + MIB, device, cap=cap).colour == "amber"


@given(
    total=st.integers(GIB, 200 * GIB), free=st.floats(0, 1), cap=st.none() | st.integers(1, 200 * GIB),
    capability=st.sampled_from([None, (7, 5), (9, 0)]),
)  # fmt: skip
@example(total=2 * GIB, free=0.5, cap=None, capability=(7, 5))
def test_budget_and_colour_are_one_rule(total, free, cap, capability):
    device = Device("cuda", "GPU", total, int(free * total), 0, capability)
    most = budget(device, cap=cap)
    if most > 0:
        assert fit(most, device, cap=cap).colour == "green"
    assert fit(most + MIB, device, cap=cap).colour != "green"


@given(st.integers(1, 200 * GIB))
def test_the_cap_that_is_named_for_a_peak_is_green_and_as_small_as_it_can_be_written(peak):
    device = Device("cuda", "GPU", 1000 * GIB, 1000 * GIB, 0, (8, 0))
    written = memory_bytes(cap_for(peak))
    assert fit(peak, device, cap=written).colour == "green"
    step = MIB if written < GIB else 0.1 * GIB
    assert fit(peak, device, cap=int(written - step) - MIB).colour != "green"


def test_amber_ends_where_97_percent_of_the_card_would_be_taken():
    found = Fit(0, 0, 0, 0, 100 * MIB)
    colours = {peak: replace(found, peak=peak * MIB).colour for peak in (88, 89, 97, 98, 200)}
    assert colours == {88: "green", 89: "amber", 97: "amber", 98: "red", 200: "red"}


def test_what_others_hold_is_taken_off_what_there_is():
    found = Fit(50 * MIB, 0, 0, 40 * MIB, 100 * MIB)
    assert found.colour == "amber"
    assert replace(found, held=0).colour == "green"
    assert replace(found, held=60 * MIB).colour == "red"
    assert fit(GIB, replace(T4, free=10_000 * MIB)).held == 5_000 * MIB
    assert found.room == 60 * MIB


def test_a_driver_that_says_more_is_free_than_there_is_does_not_make_room():
    assert fit(GIB, replace(T4, free=T4.total + GIB)).held == 0


def test_a_cap_is_of_torch_s_allocator_alone_and_never_adds_room():
    found = Fit(10 * MIB, 0, 500 * MIB, 0, GIB, cap=10 * MIB)
    assert found.room == 510 * MIB, "CUDA itself is not under it"
    assert found.colour == "red"
    assert replace(found, peak=8 * MIB).colour == "green"
    assert replace(found, peak=9 * MIB).colour == "amber"
    assert replace(found, cap=10 * GIB).colour == replace(found, cap=None).colour


def test_holes_and_context_come_on_top_of_the_peak():
    found = fit(10 * GIB, A100)
    assert found.need == found.peak + found.holes + found.context
    assert found.holes == GIB // 2
    assert (found.colour, fit(0, A100).colour) == ("green", "green")


@pytest.mark.parametrize(("device", "gib"), [(T4, 0.13), (A100, 0.45), (UNKNOWN, 0.45), (CPU, 0.6)])
def test_the_context_is_that_of_the_device(device, gib):
    assert fit(0, device).context == pytest.approx(gib * GIB, rel=0.01)


def test_a_device_that_is_smaller_than_the_context_has_no_budget():
    tiny = Device("cuda", "GPU", 100 * MIB, 100 * MIB, 0, (8, 0))
    assert budget(tiny) == 0
    assert fit(0, tiny).colour == "red"
    assert budget(replace(T4, free=0)) == 0


def test_it_cannot_only_where_even_a_lower_peak_would_not():
    found = Fit(108 * MIB, 5 * MIB, 0, 0, 100 * MIB)
    assert found.colour == "red"
    assert not found.cannot(0.08)
    assert found.cannot(0.03)
    assert replace(found, held=1 * MIB).cannot(0.08)


@given(st.integers(0, 50 * GIB), st.integers(0, 50 * GIB), st.sampled_from(DEVICES))
def test_more_is_never_a_better_colour(low, more, device):
    order = ["green", "amber", "red"]
    assert order.index(fit(low, device).colour) <= order.index(fit(low + more, device).colour)
