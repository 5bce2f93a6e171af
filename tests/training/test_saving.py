"""When a checkpoint is taken."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Trained, documents
from continued import (
    saved_steps,
    saver_of,
    train_with,
)

from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.interval import Every, best_interval
from colab_magics.checkpoints.verify import entries
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.training.saving import Saver

pytestmark = pytest.mark.colab  # libraries differ in what they keep of a state

DOCS = documents(20, longest=32)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def a_run(tiny_run):
    def make(**changes: Any) -> Trained:
        return tiny_run(docs=DOCS, **({"effective_batch_size": 8, "max_steps": 8} | changes))

    return make


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _steps(run: Trained, saver: Saver, clock: Clock, count: int, seconds: float) -> list[tuple[int, str]]:
    """Let steps of so many seconds pass; [step, reason] of what was saved."""
    before = len(run.told("checkpoint"))
    for _ in range(count):
        clock.now += seconds
        run.progress.step += 1
        saver.after_step()
        saver.wait()
    return [(event["step"], event["reason"]) for event in run.told("checkpoint")[before:] if "reason" in event]


def test_automatic_saves_come_after_a_minute_and_then_as_the_measured_stall_has_it(a_run, tmp_path, clock):
    run = a_run()
    saver = saver_of(run, tmp_path / "run", every=Every.of("auto"), clock=clock)
    assert _steps(run, saver, clock, 8, 10) == [(6, "interval")]
    saver.stalls[:] = [2.0]  # sqrt(2 x 2 s x 3 h) = 208 s
    assert saver.interval == pytest.approx(207.8, abs=0.1)
    assert _steps(run, saver, clock, 30, 10) == [(27, "interval")]
    [first, _] = [event for event in run.told("checkpoint") if event["action"] == "saved"]
    assert first["every"] == best_interval(first["stall"])  # 60, but for a machine that has better to do
    assert first["stall"] == pytest.approx(first["stall_share"] * 60)


def test_a_stall_that_was_an_exception_is_forgotten_after_five_saves(a_run, tmp_path, clock):
    saver = saver_of(a_run(), tmp_path / "run", every=Every.of("auto"), clock=clock)
    saver.stalls += [30.0, *[0.001] * 4]
    assert saver.interval > 600
    saver.stalls.append(0.001)
    assert saver.interval == 60


def test_saves_every_so_many_seconds_or_steps(a_run, tmp_path, clock):
    run = a_run()
    saver = saver_of(run, tmp_path / "seconds", every=Every.of(25), clock=clock)
    assert _steps(run, saver, clock, 7, 10) == [(3, "interval"), (6, "interval")]
    run = a_run()
    saver = saver_of(run, tmp_path / "steps", every=Every.of("3 steps"), clock=clock)
    assert _steps(run, saver, clock, 7, 1e4) == [(3, "steps"), (6, "steps")]
    assert run.told("checkpoint")[0]["every"] is None


def test_no_automatic_save_begins_while_one_is_being_written(a_run, tmp_path, clock):
    run, disk = a_run(), StuckDisk()
    saver = saver_of(run, tmp_path / "run", every=Every.of("auto"), clock=clock, disk=disk)
    for _ in range(4):
        clock.now += 100
        run.progress.step += 1
        saver.after_step()
    assert len(saver.stalls) == 1
    disk.free.set()
    saver.wait()
    clock.now += 100
    run.progress.step += 1
    saver.after_step()
    saver.wait()
    assert saved_steps(run) == [1, 5]


class StuckDisk(Disk):
    """Answers nothing until it is freed."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def make_folder(self, path: Path) -> None:
        assert self.free.wait(60)
        super().make_folder(path)


def test_a_save_that_was_asked_for_comes_with_the_next_step(a_run, tmp_path, clock):
    run, asked = a_run(), [False, True, False, True]
    saver = saver_of(run, tmp_path / "run", asked=lambda: asked.pop(0), clock=clock)
    assert _steps(run, saver, clock, 3, 1) == [(2, "save")]
    assert _steps(run, saver, clock, 1, 1) == [(4, "save")]


def test_who_asks_for_a_save_of_a_step_that_is_saved_gets_its_name(a_run, tmp_path, clock):
    run = a_run()
    saver = saver_of(run, tmp_path / "run", every=Every.of("1 steps"), clock=clock)
    _steps(run, saver, clock, 1, 1)
    saver.now("save")
    assert [(event["name"], event["reason"]) for event in run.told("checkpoint")] == [
        ("00000001-a1", "steps"),
        ("00000001-a1", "save"),
    ]


def test_who_asks_is_not_told_that_a_save_is_there_whose_writing_then_failed(a_run, tmp_path, clock):
    run, disk = a_run(), StuckDisk()
    saver = saver_of(run, tmp_path / "run", clock=clock, disk=disk)
    run.progress.step = 1
    saver.now("interval")
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    threading.Timer(0.1, disk.free.set).start()
    saver.now("save")
    saver.wait()
    assert [event["action"] for event in run.told("checkpoint")] == ["failed", "failed"]


def test_the_sessions_end_is_met_by_an_early_save_and_then_a_stop(a_run, tmp_path, clock):
    run = a_run()
    end = clock.now + 3600
    saver = saver_of(run, tmp_path / "run", clock=clock, left=lambda: end - clock.now)
    assert _steps(run, saver, clock, 30, 60) == []
    assert _steps(run, saver, clock, 24, 60) == [(45, "deadline")]
    assert saver.stops() is None
    clock.now += 60
    assert saver.stops() == "deadline"


def test_an_end_that_is_put_off_is_met_by_a_second_early_save(a_run, tmp_path, clock):
    run, end = a_run(), [clock.now + 3600]
    saver = saver_of(run, tmp_path / "run", clock=clock, left=lambda: end[0] - clock.now)
    assert _steps(run, saver, clock, 46, 60) == [(45, "deadline")]
    end[0] += 3600
    assert _steps(run, saver, clock, 60, 60) == [(105, "deadline")]


def test_the_loop_stops_at_the_deadline_and_keeps_its_last_step(a_run, tmp_path, clock):
    run = a_run()
    end = clock.now + 305
    saver = saver_of(run, tmp_path / "run", clock=clock, left=lambda: end - clock.now)

    def control() -> str | None:
        clock.now += 10 if run.progress.step == 3 else 0
        return saver.stops() if run.progress.step == 3 else None

    train_with(run, saver, control)
    assert run.outcome is not None
    assert (run.outcome.reason, saved_steps(run)) == ("deadline", [1, 3])


def test_the_best_by_evaluation_is_saved_and_outlives_newer_ones(a_run, tmp_path):
    more = {"eval_docs": documents(6, seed=1), "eval_every": 1, "learning_rate": 0.02, "lr_scheduler_type": "constant"}
    run = a_run(max_steps=7, **more)
    train_with(run, saver_of(run, tmp_path / "run", every=Every(steps=1), limit=2))
    scores = {event["step"]: event["loss"] for event in run.told("eval")}
    best = min(scores, key=lambda step: scores[step])
    assert best < 6
    assert {entry.step for entry in entries(tmp_path / "run" / "checkpoints")} == {best, 6, 7}
    [kept] = [entry for entry in entries(tmp_path / "run" / "checkpoints") if entry.step == best]
    assert kept.manifest is not None
    assert kept.manifest.metrics["eval_loss"] == scores[best]


def test_pinned_and_confirmed_ones_are_kept_and_the_others_are_told_of(a_run, tmp_path):
    run, folder = a_run(), tmp_path / "run"
    saver = saver_of(run, folder, every=Every(steps=1), limit=2)
    (folder / "pins").mkdir()
    (folder / "pins" / "00000001-a1").touch()
    replica = EventLog(folder / "replica.jsonl", 1)
    replica.append("replica", state="confirmed", checkpoint="00000003-a1")
    replica.append("replica", state="confirmed", checkpoint="00000001-a1")  # the pinned one, copied afterwards
    replica.close()
    train_with(run, saver)
    assert {entry.step for entry in entries(folder / "checkpoints")} == {1, 3, 7, 8}
    assert [event["step"] for event in run.told("checkpoint") if event["action"] == "deleted"] == [2, 4, 5, 6]


def test_a_checkpoints_folder_that_is_a_link_is_refused_in_words(a_run, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(ColabMagicsError, match="symbolic link") as refused:
        saver_of(a_run(), folder)
    assert any("replica:" in step for step in refused.value.next_steps)
    assert list(elsewhere.iterdir()) == []
