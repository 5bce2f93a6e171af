"""When a checkpoint is taken, and what becomes of the training when it cannot be."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.faults import FailingDisk, WatchedDisk
from conftest import Trained, documents
from continued import (
    RUN,
    assert_same_end,
    assert_same_tensors,
    goes_on,
    newest,
    saver_of,
    tensors_of,
    train_with,
)

from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.interval import Every, best_interval
from colab_magics.checkpoints.verify import entries, newest_verified
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.training.orders import Orders
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


def _saved(run: Trained) -> list[int]:
    return [event["step"] for event in run.told("checkpoint") if event["action"] == "saved"]


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
    assert _saved(run) == [1, 5]


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
    assert (run.outcome.reason, _saved(run)) == ("deadline", [1, 3])


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


# --- disks that fail -------------------------------------------------------------------------------------------------


class FailingFromTheSecond(FailingDisk):
    """Fails for good, once a checkpoint has been committed."""

    def __init__(self, error: int) -> None:
        super().__init__(10**9, error, for_good=True)

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        if self.calls.count("make_folder") == 2:
            self.at = 0
        return super().instead(call, really, *arguments)


def _trained_on(run: Trained, folder: Path, disk: Disk, **more: Any) -> list[dict[str, Any]]:
    """Train on such a disk; the failures that were told."""
    train_with(run, saver_of(run, folder, every=Every(steps=2), disk=disk, **more))
    return [event for event in run.told("checkpoint") if event["action"] == "failed"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOTCONN])
def test_training_goes_on_when_the_disk_fails_for_good_and_the_older_one_stays(a_run, tmp_path, error):
    plain = a_run().run()
    run, disk = a_run(), FailingFromTheSecond(error)
    failed = _trained_on(run, tmp_path / "run", disk)
    assert disk.failed
    assert [event["step"] for event in failed] == [4, 6, 8]
    assert all(os.strerror(error) in event["message"] for event in failed)
    if error in (errno.ENOSPC, errno.EDQUOT):
        assert all("it needs " in event["message"] and " are free" in event["message"] for event in failed)
    assert_same_end(run, [], plain)
    assert newest(tmp_path / "run").state["progress"]["step"] == 2


@pytest.mark.parametrize("at", range(0, 400, 57))
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_once_costs_at_most_one_checkpoint(a_run, tmp_path, error, at):
    run, disk = a_run(max_steps=6), FailingDisk(at, error, for_good=False)
    failed = _trained_on(run, tmp_path / "run", disk, limit=9)
    assert run.outcome is not None
    assert run.outcome.reason == "completed"
    # a full disk is tried again at once
    assert len(failed) == (0 if error == errno.ENOSPC else disk.failed)
    assert newest_verified(tmp_path / "run" / "checkpoints").skipped == ()
    kept = {entry.step for entry in entries(tmp_path / "run" / "checkpoints")}
    if error == errno.ENOSPC:  # room is made by older ones
        assert 6 in kept
    else:
        assert kept == {2, 4, 6} - {event["step"] for event in failed}


def test_a_full_disk_makes_room_by_the_older_ones_and_tries_again(a_run, tmp_path):
    run, disk = a_run(), FullDisk(room=2)
    failed = _trained_on(run, tmp_path / "run", disk, limit=3)
    assert failed == []
    assert _saved(run) == [2, 4, 6, 8]
    assert {entry.step for entry in entries(tmp_path / "run" / "checkpoints")} == {6, 8}


class FullDisk(WatchedDisk):
    """Has room for so many folders."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        if call == "make_folder" and len(os.listdir(arguments[0].parent)) >= self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really()


class LyingDisk(WatchedDisk):
    """Says that it has written, and has written something else, in the checkpoint of one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        result = really()
        if call == "rename" and arguments[1].name.startswith(f"{self.step:08d}-a"):
            path = arguments[1] / "optimizer.safetensors"
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        return result


def test_what_is_not_read_back_as_it_was_written_is_told_and_never_taken_for_whole(a_run, tmp_path):
    run = a_run()
    failed = _trained_on(run, tmp_path / "run", LyingDisk(4), limit=1)
    assert [event["step"] for event in failed] == [4]
    assert "what was read back is not what was written: optimizer.safetensors was altered" in failed[0]["message"]
    assert [entry.step for entry in entries(tmp_path / "run" / "checkpoints")] == [8]
    assert [name for name in os.listdir(tmp_path / "run" / "checkpoints") if name.startswith(".broken-00000004")]


def test_a_full_disk_never_costs_the_last_one_that_was_read_back(a_run, tmp_path):
    class Both(LyingDisk):
        """Lies about the second one, cannot put it aside, and is then full."""

        def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
            if call == "rename" and ".broken-" in arguments[1].name:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if call == "make_folder" and ("00000006" in arguments[0].name or "00000008" in arguments[0].name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().instead(call, really, *arguments)

    run = a_run()
    failed = _trained_on(run, tmp_path / "run", Both(4), limit=1)
    assert [event["step"] for event in failed] == [4, 6, 8]
    assert newest(tmp_path / "run").state["progress"]["step"] == 2


def test_a_host_without_memory_for_the_copy_goes_on_training(a_run, tmp_path, monkeypatch):
    def full(*_arguments: Any, **_options: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory\nmore")

    plain, run = a_run().run(), a_run()
    monkeypatch.setattr("colab_magics.training.saving.take", full)
    failed = _trained_on(run, tmp_path / "run", Disk())
    assert len(failed) == 4
    assert "could not be copied: [enforce fail at alloc_cpu.cpp:117] can't allocate memory" in failed[0]["message"]
    assert_same_end(run, [], plain)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_evaluation_that_is_no_number_stops_no_checkpoint(a_run, tmp_path, monkeypatch, number):
    """fp16 overflows where nobody looks for it; JSON has no such number."""
    changes = {"eval_docs": documents(6, seed=1), "eval_every": 2, "early_stopping": 9}

    def overflowing() -> Trained:
        run = a_run(**changes)
        score = run.task.loss.score
        monkeypatch.setattr(run.task.loss, "score", lambda batch: (score(batch)[0] * number, score(batch)[1]))
        return run

    plain = overflowing().run()
    run = overflowing()
    train_with(run, saver_of(run, tmp_path / "run", every=Every(steps=2)))
    assert _saved(run) == [2, 4, 6, 8]
    stopped = overflowing()
    train_with(stopped, saver_of(stopped, tmp_path / "stopped"), lambda: "stop" if stopped.progress.step == 4 else None)
    gone_on = goes_on(overflowing(), newest(tmp_path / "stopped")).run()
    assert gone_on.losses == plain.losses[4:]
    assert gone_on.progress.evaluations_without_gain == plain.progress.evaluations_without_gain == 4
    assert_same_tensors(tensors_of(gone_on), tensors_of(plain))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_goes_wrong_beside_the_training_is_told(a_run, tmp_path, monkeypatch):
    def short_of_memory(*_arguments: Any) -> None:
        raise MemoryError

    run = a_run(max_steps=2)
    monkeypatch.setattr("colab_magics.training.state.Snapshot.contents", short_of_memory)
    [failed] = _trained_on(run, tmp_path / "run", Disk())
    assert failed["message"] == "MemoryError"


# --- SIGTERM ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def orders(tmp_path) -> Iterator[Orders]:
    """The worker's own orders, with its signal handlers."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    (tmp_path / "run").mkdir()
    orders = Orders(tmp_path / "run")
    orders.training_begins()
    yield orders
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Terminating:
    """Sends SIGTERM to this process at one of its calls, after doing what is asked."""

    def __init__(self, work: Callable[..., Any], at: int) -> None:
        self.work, self.at, self.calls = work, at, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self.work(*arguments, **options)
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGTERM)
        return result


class TerminatingLoss(Terminating):
    """The same, in the place of a task's loss."""

    def __init__(self, loss: Any, at: int) -> None:
        super().__init__(loss, at)
        self.chunk, self.chunked, self.score = loss.chunk, loss.chunked, loss.score


class TerminatingDocuments(list):
    """The same, at the `at`-th document that is read."""

    def __init__(self, docs: Any, at: int) -> None:
        super().__init__(docs)
        self.read = Terminating(list.__getitem__, at)

    def __getitem__(self, index: Any) -> Any:
        return self.read(self, index)


def _during(place: str, run: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SIGTERM come in the fifth step's work of that kind."""
    if place == "reading":
        object.__setattr__(run.task, "documents", TerminatingDocuments(DOCS, 31))
    elif place == "forward":  # steps 1 to 4 take 4, 4, 2 and 4 micro-batches
        object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    elif place == "backward":
        terminating = Terminating(torch.Tensor.backward, 16)

        def backward(tensor: torch.Tensor) -> None:
            terminating(tensor)

        monkeypatch.setattr(torch.Tensor, "backward", backward)
    elif place == "clipping":
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", Terminating(torch.nn.utils.clip_grad_norm_, 5))
    elif place == "update":
        run.task.optimizer.step = Terminating(run.task.optimizer.step, 5)  # type: ignore[method-assign]
    else:
        monkeypatch.setattr(run.task.loss, "score", Terminating(run.task.loss.score, 2))


@pytest.mark.parametrize("place", ["reading", "forward", "backward", "clipping", "update", "evaluation"])
def test_sigterm_at_any_place_loses_nothing_and_the_run_goes_on_exactly(a_run, tmp_path, monkeypatch, orders, place):
    changes = {
        "lora_dropout": 0.3,
        "per_device_train_batch_size": 2,
        "eval_docs": documents(6, seed=1),
        "eval_every": 5,
    }
    plain = a_run(**changes).run()
    with monkeypatch.context() as patched:
        run = a_run(**changes)
        saver = saver_of(run, tmp_path / "run")
        orders.on_terminate, orders.is_late = saver.terminated, saver.stops
        _during(place, run, patched)
        train_with(run, saver, orders)
    assert run.outcome is not None
    assert run.outcome.reason == "stopped"
    step = 5 if place in ("clipping", "update", "evaluation") else 4
    reasons = {event["step"]: event["reason"] for event in run.told("checkpoint") if event["action"] == "saved"}
    in_the_step = place in ("forward", "backward", "clipping")
    assert reasons[4 if in_the_step else step] == ("terminated" if in_the_step else "stop" if step == 4 else reasons[5])
    assert newest(tmp_path / "run").state["progress"]["step"] == step
    gone_on = goes_on(a_run(**changes), newest(tmp_path / "run")).run()
    assert_same_end(gone_on, [run], plain)


def test_sigterm_in_the_middle_of_a_step_has_been_copied_when_the_handler_returns(a_run, tmp_path, orders):
    """Whoever sends SIGTERM sends SIGKILL next: what the loop would do later may never be done."""
    run = a_run(per_device_train_batch_size=2)
    saver = saver_of(run, tmp_path / "run")
    seen = []

    def terminated() -> None:
        saver.terminated()
        saver.wait()
        seen.extend(entry.step for entry in entries(tmp_path / "run" / "checkpoints", run=RUN))

    orders.on_terminate = terminated
    object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    train_with(run, saver, orders)
    assert seen == [4]


@pytest.mark.parametrize("saved", [False, True])
def test_sigterm_says_so_where_the_size_does_not_allow_a_checkpoint(a_run, tmp_path, orders, saved):
    run = a_run(per_device_train_batch_size=2)
    saver = saver_of(run, tmp_path / "run", every=Every(steps=2 if saved else 99))
    orders.on_terminate = saver.terminated

    def slow_disk() -> None:
        saver.wait()
        saver._speed = 1000.0  # bytes a second
        saver.terminated()

    orders.on_terminate = slow_disk
    object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    train_with(run, saver, orders)
    [warning] = run.told("warning")
    assert "The machine is ending this process. A checkpoint takes about " in warning["message"]
    assert ("the newest may remain 00000004-a1" if saved else "there may be none") in warning["message"]
