"""What the panel knows is a fold of the events: nothing is lost, and nothing odd in a log can break it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from colab_magics.checkpoints.replica.process import BOUND
from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.panel import answers, words
from colab_magics.panel.bands import beside, headline, legend, memory_bars, verdict
from colab_magics.panel.chart import smoothing
from colab_magics.panel.curve import LIMIT, Curve, ceiling
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.session.here import Session
from colab_magics.session.table import Platform

from .events_of import BEGIN, event

HOUR = 3600.0

pytestmark = pytest.mark.face


def steps(first: int, last: int, *, total: int = 100, loss: float = 2.0, each: float = 2.0) -> list[dict[str, Any]]:
    return [
        event("step", at=each * step, step=step, total_steps=total, loss=loss, learning_rate=1e-4, tokens=10 * step)
        for step in range(first, last + 1)
    ]


STAYS = Moment()


def safety(state: PanelState, moment: Moment = STAYS) -> tuple[str, ...]:
    answer = answers.safety(state, moment)
    assert answer is not None
    return tuple(answer.parts)


def test_time_left_comes_from_the_speed_of_the_newest_steps() -> None:
    state = PanelState().fold_all(steps(1, 60, each=2.0))
    assert state.forecast is not None
    assert state.forecast.p50 == pytest.approx(80.0, rel=0.02)  # 40 steps left, 2 s each
    assert state.forecast.measured


def test_time_left_is_unknown_before_the_second_step_and_after_the_end() -> None:
    assert PanelState().fold_all(steps(1, 1)).forecast is None
    ended = PanelState().fold_all([*steps(1, 100), event("finished", reason="completed", step=100)])
    assert ended.forecast is None


def test_an_attempt_that_goes_back_takes_the_later_steps_of_the_curve_with_it() -> None:
    before = PanelState().fold_all([*steps(1, 30, loss=9.0), event("eval", step=30, loss=9.0)])
    again = before.fold_all([event("started", name="run"), *steps(11, 12, loss=1.0)])
    drawn = dict(again.curve.drawn())
    assert drawn[10] == 9.0
    assert drawn[11] == 1.0
    assert 13 not in drawn
    assert again.evals == ()
    assert again.first_loss == 9.0


def test_an_attempt_from_step_zero_starts_a_new_curve_and_a_new_first_loss() -> None:
    state = PanelState().fold_all([*steps(1, 30, loss=9.0), event("started", name="run"), *steps(1, 2, loss=3.0)])
    assert [y for _, y in state.curve.drawn()] == [3.0, 3.0]
    assert state.first_loss == 3.0


def test_an_attempt_says_nothing_of_how_the_last_one_ended() -> None:
    end = event("finished", reason="stopped", step=2, seconds=7.0, path="/runs/a/adapter")
    state = PanelState().fold_all([event("warning", message="old"), *steps(1, 2), end, event("started", name="a")])
    assert (state.phase, state.seconds, state.path, state.notices, state.ended) == ("starting", None, "", (), False)


def test_what_was_chosen_is_written_as_a_person_would() -> None:
    values = {"a": True, "b": None, "c": 2e-4, "d": "fp16", "e": 3}
    state = PanelState().fold(event("plan", choices={key: {"value": value} for key, value in values.items()}))
    assert [choice.value for choice in state.plan] == ["yes", "none", "0.0002", "fp16", "3"]


def test_a_loss_that_is_not_a_number_is_no_point_of_the_curve_and_breaks_nothing() -> None:
    odd = [event("step", step=3, total_steps=9, loss=None), event("step", step=4, total_steps=9, loss="NaN")]
    state = PanelState().fold_all([*steps(1, 2), *odd])
    assert state.step == 4
    assert len(state.curve.drawn()) == 2


@pytest.mark.parametrize("kind", ["started", "progress", "data", "model", "plan", "step", "eval", "memory", "warning",
                                  "oom", "recovered", "stopping", "finished", "failed", "unheard_of"])  # fmt: skip
@pytest.mark.parametrize("value", [None, 7, "text", [1], {"a": 1}, True, float("nan")])
def test_no_event_of_the_wrong_shape_breaks_the_panel(kind: str, value: Any) -> None:
    names = (
        "name device phase done total unit split source format documents tokens dropped lengths sample id method "
        "choices step total_steps loss learning_rate tokens_per_second perplexity allocated reserved message "
        "micro_batch error reason path seconds time first_loss last_loss"
    ).split()
    PanelState().fold({"kind": kind, **dict.fromkeys(names, value)})


def test_a_failed_event_shows_the_lines_of_its_error() -> None:
    error = ColabMagicsError("No rows left.", "All were masked.", "Look at the data.")
    state = PanelState().fold(event("failed", error=error.to_dict(), phase="reading"))
    assert state.phase == "failed"
    assert state.failure == tuple(error.lines())


def test_a_stop_before_the_first_step_is_no_failure() -> None:
    state = PanelState().fold(event("failed", error=Interrupted("stopped while reading").to_dict()))
    assert (state.phase, state.failure) == ("stopped", ())


def test_the_same_warning_twice_is_shown_once_and_the_oldest_are_counted() -> None:
    state = PanelState().fold_all([event("warning", message="a")] * 3)
    assert len(state.notices) == 1
    state = state.fold_all(event("warning", message=str(number)) for number in range(9))
    assert len(state.notices) == 6
    assert state.notices_left_out == 4


def test_text_from_data_and_model_loses_ansi_and_tokens_before_it_is_kept() -> None:
    state = PanelState().fold_all(
        [
            event("started", name="\x1b[31mred\x1b[0m"),
            event("warning", message="hf_abcdefghijklmnop \x1b]0;title\x07here"),
            event("data", source="x", sample=[["\x1b[2Jhi\thf_abcdefghijklmnop\n", True]]),
        ]
    )
    assert state.name == "red"
    assert state.notices[0].text == "hf_*** here"
    assert state.data[0].sample == (("hi\thf_***\n", True),)


def test_a_curve_of_a_million_steps_has_at_most_200_points_and_keeps_its_ends() -> None:
    curve = Curve()
    for step in range(1, 20_001):
        curve = curve.add(step, 1 / step)
    drawn = curve.drawn()
    assert len(drawn) <= LIMIT
    assert drawn[-1][0] == 20_000
    assert drawn[0][1] > 10 * drawn[-1][1]
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)


def test_each_point_of_a_long_curve_is_the_mean_of_as_many_steps_as_is_said() -> None:
    curve = Curve()
    for step in range(1, 1025):
        curve = curve.add(step, float(step))
    assert curve.stride == 8
    assert not curve.waiting
    assert curve.points[0] == (8, 4.5)
    assert curve.points[-1] == (1024, 1020.5)


def test_the_smoothing_does_not_jump_where_points_are_merged() -> None:
    state, windows = PanelState(), {}
    for step in range(1, 3400):
        state = replace(state, curve=state.curve.add(step, 1.0))
        windows[step] = smoothing(state)
    assert windows[100] >= 5
    for limit in (200, 400, 800, 1600, 3200):
        assert windows[limit + limit // 20] == pytest.approx(windows[limit - 1], rel=0.2)


@pytest.mark.parametrize(
    ("values", "top"),
    [
        ([2.0] * 9 + [800.0] + [2.0] * 9, 2.0),
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 800.0], 2.4),
        ([10.9, 4.0, *[3.0] * 20, 900.0], 10.9),  # how high it begins is no spike
        ([2.0, 800.0, 2.0], 800.0),
        ([1.0, 1.1, 0.9, 1.0, 1.2, 1.0, 0.8, 1.3, 1.0], 1.3),
    ],
)
def test_one_spike_does_not_set_the_axis(values: list[float], top: float) -> None:
    assert ceiling(values) == pytest.approx(top)


def test_an_attempt_that_is_still_preparing_shows_no_figure_of_the_one_before_it() -> None:
    earlier = [event("started", name="a"), *(event("step", step=n, total_steps=9, loss=1 / n) for n in range(1, 7))]
    again = PanelState().fold_all([*earlier, event("started", name="a", attempt=2)])
    assert (again.step, again.loss, again.tokens_per_second, again.total_steps) == (0, None, None, None)
    over = again.fold(event("step", attempt=2, step=1, total_steps=3, loss=2.0))
    assert (over.first_loss, over.loss, over.curve.drawn()) == (2.0, 2.0, ((1, 2.0),))
    on = again.fold(event("step", attempt=2, step=4, total_steps=9, loss=0.2))
    assert [step for step, _ in on.curve.drawn()] == [1, 2, 3, 4]
    assert on.first_loss == 1.0


def test_a_resume_says_from_where_what_was_lost_and_what_was_passed_over() -> None:
    state = PanelState().fold(
        event(
            "resumed",
            step=40,
            checkpoint="00000040-a1",
            lost_steps=3,
            skipped=[{"name": "00000042-a1", "reason": "optimizer.safetensors was altered"}],
            changes=[["learning_rate", "0.001", "0.0001", "0.0001"]],
            differs=["the device is another GPU: the same samples, rounded otherwise"],
        )
    )
    first, passed, changed, differs = state.resumed
    assert first == "Goes on from step 40, checkpoint 00000040-a1; 3 steps since then are run again."
    assert "00000042-a1: optimizer.safetensors was altered" in passed
    assert changed == "learning_rate: 0.001 in the checkpoint, 0.0001 in the cell, 0.0001 used."
    assert "another GPU" in differs
    assert state.fold(event("started", attempt=3)).resumed == ()


def test_a_checkpoint_tells_its_stall_and_one_that_failed_its_cause() -> None:
    state = PanelState().fold(
        event("checkpoint", action="saved", name="00000040-a1", step=40, bytes=2**21, stall=0.012, stall_share=0.0002)
    )
    assert safety(state)[0].endswith(", step 40")
    assert safety(state)[2] == "checkpoint 2.0 MiB, training waited 12 ms (0.02%)"
    state = state.fold(event("checkpoint", action="failed", step=50, message="No space left: 9 bytes are free"))
    assert safety(state)[0].endswith(", step 40")
    assert "The checkpoint of step 50 could not be written: No space left" in state.notices[-1].text


def test_a_copy_is_never_called_more_than_it_is() -> None:
    now = Moment(now=BEGIN.timestamp() + 150)
    state = PanelState().fold(event("replica", state="confirmed", step=40, checkpoint="00000040-a1", where="/drive"))
    known = "copy of step 40 confirmed 2 min ago"
    assert safety(state, now)[1] == known
    state = state.fold(event("replica", state="handed over", step=60, checkpoint="00000060-a1", where="/drive"))
    assert safety(state, now)[1:] == (known, "copy of step 60 handed over")
    state = state.fold(event("replica", state="copying", step=80, where="/drive", bytes_left=2**20))
    assert safety(state, now)[1:] == (known, "copying step 80, 1.0 MiB left")
    assert safety(state)[1] == "copy of step 40 confirmed 2026-11-21 06:00 UTC"
    state = state.fold(event("finished", reason="completed", step=80, path="/runs/mine/adapter"))
    assert "1.0 MiB are still to be copied to /drive" in words.footer(state)[0]
    state = state.fold(
        event("replica", state="full", step=80, where="/drive", message="Drive is full: empty its trash.")
    )
    assert state.notices[-1].text == "Replica: Drive is full: empty its trash."
    state = state.fold(event("replica", state="confirmed", step=20, checkpoint="00000020-a1", where="/drive"))
    assert safety(state, now)[1] == known  # the other is older, and was copied after it


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_a_cell_that_waits_for_its_copy_says_how_long_and_how_to_leave(end: str) -> None:
    going = event("replica", state="full", step=80, where="/drive", message="/drive is full. The training goes on.")
    state = PanelState().fold(going).fold(event(end, reason="completed", step=80, error={"what": "It broke."}))
    assert "Interrupt this cell to leave" in words.footer(state)[1]
    assert f"tried for up to {BOUND / 60:.0f} minutes" in words.footer(state)[0]
    state = state.fold(event("replica", state="full", where="/drive", message="/drive is full. It is tried again."))
    assert [notice.text for notice in state.notices] == ["Replica: /drive is full. It is tried again."]


def test_memory_is_in_three_bands_against_the_cards_real_total() -> None:
    device = {"index": 0, "name": "Tesla T4", "total": 1000, "used": 600}
    state = PanelState().fold(event("memory", devices=[device], allocated=300, reserved=450, peak=400))
    (bar,) = memory_bars(state)
    assert bar.bands == (("allocated", 300), ("cached", 150), ("others + CUDA", 150))
    assert (bar.total, bar.used, bar.peak) == (1000, 600, 400)


def test_a_step_tells_torchs_memory_between_two_samples() -> None:
    device = {"index": 0, "name": "Tesla T4", "total": 1000, "used": 600}
    state = PanelState().fold(event("memory", devices=[device], allocated=300, reserved=450, peak=400))
    state = state.fold(event("step", step=1, loss=1.0, allocated=320, reserved=460, peak=430))
    (bar,) = memory_bars(state)
    assert bar.bands == (("allocated", 320), ("cached", 140), ("others + CUDA", 140))
    assert bar.peak == 430


@pytest.mark.parametrize(
    ("fields", "bands", "total"),
    [
        ({"devices": [], "host": {"total": 100, "used": 60}, "rss": 20}, ["this training", "others"], 100),
        ({"devices": [{"index": 0, "name": "A", "total": 100, "used": 60}]}, ["in use"], 100),
        ({"devices": [{"index": 0, "name": "A", "total": None, "used": None}]}, [], None),
        ({"devices": [{"index": 0, "total": 100, "used": None}], "allocated": 5}, ["allocated", "cached"], 100),
        ({"devices": None, "allocated": 5, "reserved": 7}, ["allocated", "cached"], None),
    ],
)
def test_what_nobody_could_tell_is_left_out_and_not_called_zero(
    fields: dict[str, Any], bands: list[str], total: float | None
) -> None:
    (bar,) = memory_bars(PanelState().fold(event("memory", **fields)))
    assert [name for name, _ in bar.bands] == bands
    assert bar.total == total
    assert ("n/a" in headline((bar,))) == (not bands)


def test_a_gpu_that_falls_off_the_bus_keeps_its_total_and_its_figures_are_not_available() -> None:
    told = {"index": 0, "name": "A", "total": 10 * 2**30, "used": 6 * 2**30, "utilisation": 97.0, "power": 66.0}
    lost = event("memory", devices=[dict.fromkeys(told) | {"index": 0}])
    state = PanelState().fold_all([event("memory", devices=[told]), *steps(1, 9), lost])
    answer = answers.memory(state, Moment(now=BEGIN.timestamp() + 60))
    assert answer is not None
    assert answer.parts == ["n/a of 10.0 GiB", "GPU utilisation n/a, temperature n/a, power n/a"]
    never = PanelState().fold_all([event("plan", device="Tesla T4, 14.6 GiB", choices={}), lost])
    assert headline(memory_bars(never)) == "n/a of 14.6 GiB"


def test_what_others_hold_is_not_taken_for_nothing_where_it_cannot_be_told() -> None:
    device = {"index": 0, "total": 10 * 2**30, "used": None}
    state = PanelState().fold_all([event("memory", devices=[device], allocated=2**30, peak=2**30), *steps(1, 9)])
    (bar,) = memory_bars(state)
    assert headline((bar,)) == "1.0 of 10.0 GiB by torch"
    assert legend(bar)[0][-1] == "others + CUDA n/a"
    assert verdict(state, (bar,)) == ("", False)


@pytest.mark.parametrize(
    ("reserved", "peak", "said", "mind"),
    [
        (5.3, 4.9, "fits, 9.3 GiB to spare at the peak", False),
        (13.9, 4.9, "fits, 9.3 GiB to spare at the peak, 9.0 GiB of it cached", False),
        (13.9, 13.9, "nearly full at the peak", True),
    ],
)
def test_a_full_bar_is_explained_where_it_is_torchs_cache(reserved: float, peak: float, said: str, mind: bool) -> None:
    gib = 2**30
    device = {"index": 0, "total": 14.6 * gib, "used": (reserved + 0.4) * gib}
    torch = {"allocated": 4.4 * gib, "reserved": reserved * gib, "peak": peak * gib}
    state = PanelState().fold_all([event("memory", devices=[device], **torch), *steps(1, 9)])
    assert verdict(state, memory_bars(state)) == (said, mind)


def test_each_of_several_gpus_has_a_bar_and_the_fullest_is_named() -> None:
    devices = [{"index": index, "name": "A", "total": 100 * 2**30, "used": (50 + index) * 2**30} for index in range(4)]
    bars = memory_bars(PanelState().fold(event("memory", devices=devices)))
    assert [bar.label for bar in bars] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
    assert headline(bars) == "53.0 of 100.0 GiB on GPU 3, the fullest"


def test_of_several_gpus_the_fullest_ones_figures_are_told_by_name() -> None:
    devices = [
        {"index": index, "total": 100, "used": used, "utilisation": 90.0 + index, "temperature": 60.0, "power": 50.0}
        for index, used in enumerate((40, 80, 20))
    ]
    state = PanelState().fold(event("memory", devices=devices))
    assert state.memory is not None
    assert beside(state.memory, memory_bars(state)) == ["GPU 1: 91% busy, 60 °C, 50 W"]


def test_evaluations_and_what_they_take_are_in_the_forecast() -> None:
    told = steps(1, 40, each=2.0)
    without = PanelState().fold_all(told).forecast
    plan = event("plan", choices={"total_steps": {"value": 100}, "eval_every": {"value": 20}}, eval_tokens=5000)
    evals = [event("eval", step=step, loss=1.0, seconds=7.0) for step in (20, 40)]
    with_them = PanelState().fold_all([plan, *told[:20], evals[0], *told[20:], evals[1]]).forecast
    assert without is not None
    assert with_them is not None
    assert with_them.p50 == pytest.approx(without.p50 + 3 * 7.0, rel=0.05)  # 60 steps left, one each 20


def test_evaluations_are_in_the_forecast_before_there_has_been_one_and_so_is_the_last() -> None:
    told = [event("step", at=10.0 * step, step=step, total_steps=250, loss=1.0, seconds=10.0, tokens_per_second=400.0)
            for step in range(1, 91)]  # fmt: skip
    plan = event("plan", choices={"total_steps": {"value": 250}, "eval_every": {"value": 100}}, eval_tokens=720_000)
    made = PanelState().fold_all([plan, *told]).forecast
    assert made is not None
    assert made.p50 == pytest.approx(160 * 10 + 3 * 600, rel=0.02)  # after steps 100, 200 and 250


def test_before_the_first_step_the_plan_tells_how_long_it_would_take() -> None:
    state = PanelState().fold(event("plan", choices={}, duration={"low": 60.0, "mid": 600.0, "high": 1200.0}))
    assert state.forecast is not None
    assert not state.forecast.measured
    answer = answers.time(state, Moment(now=BEGIN.timestamp()))
    assert answer is not None
    assert answer.said == "about 10 min by the estimate, 1 min to 20 min"


def test_before_a_resumed_attempt_knows_its_checkpoint_nothing_is_said_of_its_time() -> None:
    plan = event("plan", choices={"total_steps": {"value": 100}}, duration={"low": 60.0, "mid": 600.0, "high": 1200.0})
    state = PanelState().fold_all([event("started", name="a") | {"attempt": 2}, plan])
    assert state.forecast is None
    state = state.fold(event("resumed", step=75))
    assert state.forecast is not None
    assert (state.forecast.p50, state.forecast.p90) == (150.0, 300.0)


def test_a_loss_that_is_no_number_leaves_a_gap_and_is_counted() -> None:
    odd = [event("step", step=step, total_steps=9, loss=loss) for step, loss in ((3, None), (4, "NaN"), (6, None))]
    state = PanelState().fold_all([*steps(1, 2), *odd[:2], *steps(5, 5), odd[2], *steps(7, 9)])
    assert state.curve.gaps == ((3.0, 4.0), (6.0, 6.0))
    answer = answers.learning(state)
    assert answer is not None
    assert answer.verdict == "3 losses were not finite numbers, the newest at step 6"
    assert answer.level == "bad"


def test_the_best_evaluation_is_named_where_the_newest_is_worse() -> None:
    state = PanelState().fold_all(event("eval", step=step, loss=loss) for step, loss in ((10, 1.0), (20, 0.8)))
    newest = answers.evaluation(state)
    assert newest is not None
    assert newest.parts == ["0.8000"]
    worse = answers.evaluation(state.fold(event("eval", step=30, loss=0.9)))
    assert worse is not None
    assert worse.parts == ["0.9000", "best 0.8000 at step 20"]


def in_session(left: float, limit: float | None = 12 * HOUR, **more: Any) -> Moment:
    platform = Platform("p", "Somewhere", "2026-08-19", limit=limit, idle=1.5 * HOUR)
    age = None if limit is None else limit - left
    return Moment(now=BEGIN.timestamp() + 200, session=Session(platform, age=age, limit=limit, **more), idle=None)


@pytest.mark.parametrize(
    ("left", "verdict", "level"),
    [
        (3 * HOUR, "finishes 2:00 h before the session ends", "fine"),
        (0.5 * HOUR, "stops in good order at about step 850; 2 sessions in all", "mind"),
    ],
)
def test_the_runs_rest_is_held_against_the_sessions(left: float, verdict: str, level: str) -> None:
    state = PanelState().fold_all(steps(1, 100, total=1900, each=2.0))  # an hour is left
    answer = answers.time(state, in_session(left))
    assert answer is not None
    assert answer.said.startswith("about 1:00 h left")
    assert answer.verdict.startswith(verdict)
    assert answer.level == level


@pytest.mark.parametrize(
    ("session", "told"),
    [
        (in_session(2 * HOUR), "2:00 h left of 12:00 h, an estimate"),
        (in_session(2 * HOUR, limit_from="set"), "2:00 h left of 12:00 h, as set"),
        (in_session(2 * HOUR, limit_from="passed"), "past its limit of 12:00 h, it may end at any time"),
        (in_session(0.0, limit=None), ""),
    ],
)
def test_the_sessions_limit_is_called_an_estimate_where_it_is_one(session: Moment, told: str) -> None:
    assert session.session is not None
    assert answers.session(session.session) == (told, "Somewhere")


def test_a_frame_that_stays_tells_the_time_of_day_and_no_age() -> None:
    state = PanelState().fold_all([*steps(1, 30), event("checkpoint", action="saved", step=30, at=61.0)])
    live = answers.time(state, Moment(now=BEGIN.timestamp() + 62))
    stays = answers.time(state, STAYS)
    assert live is not None
    assert stays is not None
    assert live.said == "about 2 min left"
    assert stays.said == "would end about 2026-11-21 06:03 UTC"
    assert safety(state)[0] == "saved 2026-11-21 06:01 UTC, step 30"


def test_a_run_that_has_ended_tells_its_peak_and_not_what_the_card_does_now() -> None:
    device = {"index": 0, "total": 10 * 2**30, "used": 6 * 2**30, "utilisation": 97.0}
    state = PanelState().fold_all([event("memory", devices=[device], allocated=2**30, peak=3 * 2**30), *steps(1, 9)])
    now = Moment(now=BEGIN.timestamp() + 60)
    live, ended = (answers.memory(one, now) for one in (state, state.fold(event("finished", reason="completed"))))
    assert live is not None
    assert ended is not None
    assert (live.said, live.behind) == ("6.0 of 10.0 GiB", ("GPU 97% busy, temperature n/a, power n/a",))
    assert (ended.said, ended.behind) == ("peak 3.0 of 10.0 GiB", ())


def test_a_step_that_does_not_come_is_said() -> None:
    state = PanelState().fold_all(steps(1, 30))
    told = answers.time(state, Moment(now=BEGIN.timestamp() + 60 + 61))
    assert told is not None
    assert told.verdict == "the last step ended 1 min ago"
    assert told.level == "mind"
    soon = answers.time(state, Moment(now=BEGIN.timestamp() + 60 + 20))
    assert soon is not None
    assert soon.verdict == ""


@pytest.mark.parametrize(
    ("seconds", "ago"),
    [(0, "just now"), (9, "just now"), (19, "10 s ago"), (59, "50 s ago"), (61, "1 min ago"), (3599, "59 min ago"),
     (3600, "1:00 h ago"), (5000, "1:20 h ago"), (-5, "just now")],
)  # fmt: skip
def test_ages_are_coarse_so_that_equal_frames_stay_equal(seconds: float, ago: str) -> None:
    assert words.age(seconds) == ago


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (3, "10 s"),
        (34, "30 s"),
        (58, "1 min"),
        (730, "12 min"),
        (3580, "1:00 h"),
        (7800, "2:10 h"),
        (90_000, "25:00 h"),
    ],
)
def test_estimates_are_no_finer_than_they_are_sure(seconds: float, told: str) -> None:
    assert words.span(seconds) == told
