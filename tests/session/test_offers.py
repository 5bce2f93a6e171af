"""One job on every platform: what is said of each, and in which order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import QWEN3_4B, QWEN3_14B

from colab_magics.memory.estimate import peak
from colab_magics.recipe import Recipe
from colab_magics.session.budget import STOP_BEFORE
from colab_magics.session.duration import Duration
from colab_magics.session.offers import Offer, job_of, offers, quota, rate
from colab_magics.session.scenarios import FILE, Scenario, outcome, scenarios
from colab_magics.session.table import Accelerator, Platform, Table, load_table

from .jobs import gpt2_full, job, plan_event, qwen_on_colab_free

pytestmark = [pytest.mark.face, pytest.mark.colab]

GIB, HOUR = 2**30, 3600.0
T4 = Accelerator("T4", "Tesla T4", int(14.56 * GIB), (7, 5), {"fp16": 65e12}, {"fp16": 0.15}, ("T4",))
A100 = Accelerator("A100", "A100", 40 * GIB, (8, 0), {"bf16": 312e12}, {"bf16": 0.3}, ("A100",))
OLD = Accelerator("OLD", "Old", 8 * GIB, (5, 2), {"fp32": 2e12}, {"fp32": 0.4}, ("OLD",), supported=False)
CPU = Accelerator("cpu", "CPU", 0, None, {"fp32": 1e11}, {"fp32": 0.5}, ("CPU",))
FREE = Platform(
    "free", "Free", "2026-01-01", limit=12 * HOUR, weekly=30 * HOUR, ram=12 * GIB, accelerators=("T4", "cpu", "OLD"),
    dollars={"T4": 0, "cpu": 0, "OLD": 0},
)  # fmt: skip
UNITS = Platform(
    "units", "Units", "2026-02-01", limit=24 * HOUR, accelerators=("T4", "A100"), units={"T4": 2, "A100": 8},
    unit_price=0.1, monthly=10, monthly_units=100,
)  # fmt: skip
RENTED = Platform("rented", "Rented", "2026-03-01", accelerators=("A100", "T4"), dollars={"A100": 2.0})
TABLE = Table(
    {platform.key: platform for platform in (RENTED, UNITS, FREE)},
    {accelerator.key: accelerator for accelerator in (T4, A100, OLD, CPU)},
    {}, "2026-01-01", {},
)  # fmt: skip


def found(job, table=TABLE, **wishes) -> dict[tuple[str, str], Offer]:
    return {(one.platform.key, one.accelerator.key): one for one in offers(table, job, peak, **wishes)}


def three_hours(**wishes) -> dict[tuple[str, str], Offer]:
    return found(None, hours=Duration(3 * HOUR, 3 * HOUR, 3 * HOUR), **wishes)


def test_the_job_comes_back_from_its_event_with_its_lengths_and_tokens():
    made = qwen_on_colab_free()
    assert (made.documents, made.total_steps, made.left) == (1000, 100, 1.0)
    assert abs(int(made.data.lengths.sum()) - made.tokens) < 0.01 * made.tokens
    assert job(made.recipe, made.shape, [300] * 1000, done=40).left == pytest.approx(0.6)


@pytest.mark.parametrize("missing", ["shape", "verdict", "lengths", "documents", "tokens_per_epoch", "choices"])
def test_an_older_log_gives_no_job(missing):
    event = plan_event(Recipe(model="m", data="d"), QWEN3_4B, [300] * 64)
    assert job_of(Recipe(model="m", data="d"), event) is not None
    del event[missing]
    assert job_of(Recipe(model="m", data="d"), event) is None


def test_each_device_has_the_precision_and_the_method_that_a_worker_there_would_choose():
    made = found(job(Recipe(model="m", data="d"), QWEN3_14B, [2000] * 64))
    t4, a100 = made["free", "T4"], made["rented", "A100"]
    assert t4.plan is not None
    assert a100.plan is not None
    assert (t4.plan["method"], t4.plan["precision"]) == ("qlora", "fp16")
    assert (a100.plan["method"], a100.plan["precision"]) == ("lora", "bf16")
    assert t4.hours is not None
    assert a100.hours is not None
    assert t4.hours.mid > 5 * a100.hours.mid


def test_what_needs_more_memory_than_the_device_has_does_not_fit_and_says_how_much():
    large = found(job(Recipe(model="m", data="d", method="lora"), QWEN3_14B, [500] * 64))
    assert large["free", "T4"].fits == "no"
    assert large["free", "T4"].need > large["free", "T4"].room
    assert large["free", "T4"].hours is None
    assert large["units", "A100"].fits in ("yes", "tight")


def test_what_the_recipe_asks_and_a_device_cannot_do_is_said():
    made = found(job(Recipe(model="m", data="d"), QWEN3_4B, [300] * 64))
    event = plan_event(Recipe(model="m", data="d"), QWEN3_4B, [300] * 64)
    in_bf16 = job_of(Recipe(model="m", data="d", precision="bf16"), event)
    assert made["free", "T4"].fits == "yes"
    assert found(in_bf16)["free", "T4"].fits == "no"
    assert "bf16 does not work" in found(in_bf16)["free", "T4"].why
    assert made["free", "OLD"].why == "today's torch has no kernels for it"


def test_money_and_quota_count_the_set_up_of_each_session():
    made = three_hours()
    assert made["rented", "A100"].dollars == pytest.approx(6.0)
    units = made["units", "A100"]
    assert (units.units, units.dollars, units.allowance) == pytest.approx((24, 2.4, 10))
    assert (units.beyond, units.outlay) == (0, 10)
    assert made["free", "T4"].quota == (pytest.approx(0.1), "week")
    assert made["rented", "T4"].dollars is None
    with_set_up = found(gpt2_full())["rented", "A100"]
    assert with_set_up.hours is not None
    assert with_set_up.dollars == pytest.approx(2.0 * (with_set_up.hours.mid + with_set_up.set_up) / HOUR)
    assert with_set_up.set_up > 60


def test_units_beyond_those_of_the_plan_are_paid():
    long = found(None, hours=Duration(20 * HOUR, 20 * HOUR, 20 * HOUR))["units", "A100"]
    assert (long.dollars, long.beyond, long.outlay) == pytest.approx((16, 6, 16))


def test_a_long_job_takes_several_sessions_and_leaves_each_time_to_stop():
    long = found(None, hours=Duration(30 * HOUR, 30 * HOUR, 30 * HOUR))
    assert long["free", "T4"].sessions == 3
    assert long["units", "T4"].sessions == 2
    assert long["rented", "A100"].sessions == 1
    exact = 12 * HOUR - STOP_BEFORE
    assert found(None, hours=Duration(exact, exact, exact))["free", "T4"].sessions == 1


def test_each_session_s_set_up_is_taken_from_its_time_and_paid():
    short = replace(FREE, limit=HOUR, dollars={"T4": 1.0})
    made = found(
        job(Recipe(model="m", data="d", num_train_epochs=4), QWEN3_4B, [600] * 1000),
        replace(TABLE, platforms={"free": short}),
    )["free", "T4"]
    assert made.hours is not None
    useful = HOUR - STOP_BEFORE - made.set_up
    assert made.set_up > 180
    assert made.sessions == math.ceil(made.hours.mid / useful) > math.ceil(made.hours.mid / (HOUR - STOP_BEFORE))
    assert made.seconds == made.hours.mid + made.sessions * made.set_up
    assert made.dollars == pytest.approx(made.seconds / HOUR)
    longest = made.hours.high + math.ceil(made.hours.high / useful) * made.set_up
    assert made.most == pytest.approx(longest / HOUR)


def test_what_fits_and_is_free_comes_first_and_what_has_no_price_after_what_has_one():
    order = list(found(job(Recipe(model="m", data="d"), QWEN3_4B, [300] * 256)))
    assert order[0] == ("free", "T4")
    assert order.index(("rented", "A100")) < order.index(("units", "A100")) < order.index(("rented", "T4"))
    assert order[-1] == ("free", "OLD")


def test_many_sessions_come_after_a_few_dollars():
    weeks = found(job(Recipe(model="m", data="d", num_train_epochs=20), QWEN3_14B, [600] * 5000))
    order = [key for key, offer in weeks.items() if offer.dollars is not None and offer.possible]
    assert weeks["free", "T4"].sessions > 3
    assert order.index(("units", "A100")) < order.index(("free", "T4"))


def test_a_model_whose_files_are_larger_than_the_disk_is_told():
    small = replace(TABLE, platforms={"free": replace(FREE, disk=5 * 10**9)})
    offer = found(job(Recipe(model="m", data="d"), QWEN3_4B, [300] * 64), small)["free", "T4"]
    assert offer.fits == "yes"
    assert offer.caution == "the model's files are 8 GB, the disk 5 GB"


def test_a_cpu_has_a_row_only_where_it_is_free_and_quick_or_asked_for():
    assert ("free", "cpu") in found(gpt2_full(max_steps=20))
    assert ("free", "cpu") not in found(qwen_on_colab_free())
    assert ("free", "cpu") in found(qwen_on_colab_free(), accelerators=("cpu",))
    assert set(three_hours(platforms=("free",))) == {("free", "T4"), ("free", "OLD")}


def test_what_is_left_of_a_run_takes_its_part_of_the_time():
    recipe = Recipe(model="m", data="d")
    whole, rest = (found(job(recipe, QWEN3_4B, [300] * 640, done=done))["free", "T4"] for done in (0, 90))
    assert whole.hours is not None
    assert rest.hours is not None
    assert rest.hours.mid == pytest.approx(0.25 * whole.hours.mid)


def test_rates_come_from_the_table_alone():
    assert rate(UNITS, "A100") == (8, pytest.approx(0.8))
    assert rate(RENTED, "T4") == (None, None)
    assert rate(FREE, "T4") == (None, 0)
    assert quota(FREE, CPU, HOUR) is None
    assert quota(replace(FREE, weekly=None, daily=4 * HOUR), T4, 8 * HOUR) == (2, "day")


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 500), st.floats(1, 3))
def test_more_hours_never_cost_less(hours: float, times: float):
    short, long = (found(None, hours=Duration(one, one, one)) for one in (hours * HOUR, hours * times * HOUR))
    for key, offer in short.items():
        if offer.outlay is not None:
            assert long[key].outlay >= offer.outlay - 1e-9
        assert (long[key].sessions or 0) >= (offer.sessions or 0)


# --- the scenarios of use case A, on the table as it is ------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes():
    """What each scenario comes to, for use case A's job."""
    table = load_table()
    all_of_them = offers(table, qwen_on_colab_free(), peak)
    return {way.key: outcome(way, all_of_them) for way in scenarios()[1]}


def test_free_only_comes_to_nothing_in_one_session(outcomes):
    made = outcomes["free"]
    assert made.first is not None
    assert (made.usual, made.most, made.within) == (0, 0, True)
    assert made.first.fits == "yes"
    assert made.first.sessions == 1
    assert made.second is not None
    assert made.second.platform.key != made.first.platform.key
    assert made.times is not None
    assert made.times > 10


def test_free_and_a_little_paid_has_a_rented_card_in_reserve_for_less_than_was_meant(outcomes):
    made = outcomes["little"]
    assert made.usual == 0
    assert made.second is not None
    assert made.second.platform.key in ("runpod", "thunder-compute", "colab-payg")
    assert 0 < made.most <= made.scenario.dollars == 3
    assert made.within


def test_pro_and_a_backup_costs_the_plan_and_at_most_one_job_elsewhere(outcomes):
    made = outcomes["pro"]
    assert made.first is not None
    assert made.second is not None
    assert made.first.platform.key == "colab-pro"
    assert made.usual == pytest.approx(made.first.platform.monthly)
    assert made.most == pytest.approx(made.first.most_outlay + made.second.most_outlay)
    assert made.most > made.usual + made.second.outlay, "the band's end, and not its middle"
    assert made.within
    assert made.times is not None
    assert made.times > 1


def test_pro_plus_costs_the_plan_and_holds_five_times_the_jobs_of_pro(outcomes):
    made = outcomes["pro-plus"]
    assert made.second is None
    assert made.usual == made.most == pytest.approx(made.first.platform.monthly)
    assert made.within
    assert made.times == pytest.approx(5 * outcomes["pro"].times)


def three_to_twelve_hours():
    return offers(TABLE, None, peak, hours=Duration(3 * HOUR, 6 * HOUR, 12 * HOUR))


def test_the_second_place_is_another_than_the_first():
    way = Scenario("w", "W", first=("free", "units"), second=("free", "rented"), dollars=30)
    made = outcome(way, three_to_twelve_hours())
    assert made.first is not None
    assert made.second is not None
    assert (made.first.platform.key, made.second.platform.key) == ("free", "rented")
    assert (made.usual, made.most) == (0, pytest.approx(24)), "12 hours at $2"
    assert outcome(replace(way, second=("free",)), three_to_twelve_hours()).second is None


def test_a_device_whose_longest_time_is_beyond_the_plan_s_units_is_not_the_first_place():
    # the A100's 6 h are 48 of the 100 units; its 18 h would be 144, the T4's 36
    long = offers(TABLE, None, peak, hours=Duration(3 * HOUR, 6 * HOUR, 18 * HOUR))
    way = Scenario("w", "W", first=("units",), second=(), dollars=10)
    made = outcome(way, long)
    assert made.first is not None
    assert made.first.accelerator.key == "T4"
    assert (made.usual, made.most, made.within) == (10, 10, True)
    (a100,) = (one for one in long if (one.platform.key, one.accelerator.key) == ("units", "A100"))
    assert (a100.outlay, a100.most_outlay) == (10, pytest.approx(14.4))
    most = outcome(way, [a100])
    assert (most.usual, most.most, most.within) == (10, pytest.approx(14.4), False)


def test_pay_as_you_go_costs_its_units_and_no_month():
    made = {
        one.accelerator.key: one for one in offers(load_table(), qwen_on_colab_free(), peak, platforms=["colab-payg"])
    }
    t4 = made["T4"]
    assert t4.dollars is not None
    assert t4.outlay == t4.dollars == pytest.approx(0.0999 * t4.units)
    assert "colab-payg" in next(way for way in scenarios()[1] if way.key == "little").second


def test_a_scenario_in_which_nothing_fits_says_so():
    huge = replace(QWEN3_14B, parameters=10**12, linear_parameters=10**12)
    none = offers(load_table(), job(Recipe(model="m", data="d"), huge, [300] * 64), peak)
    for way in scenarios()[1]:
        made = outcome(way, none)
        assert made.first is None
        assert made.usual is None
        assert made.within is None


def test_the_scenarios_name_places_of_the_table_and_are_dated():
    as_of, ways = scenarios()
    assert as_of.startswith("20")
    assert [way.key for way in ways] == ["free", "little", "pro", "pro-plus"]
    table = load_table()
    for way in ways:
        assert set(way.first) | set(way.second) <= set(table.platforms), f"{FILE} names an unknown platform"
