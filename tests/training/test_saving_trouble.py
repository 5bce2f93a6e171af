"""What becomes of the training when a checkpoint cannot be taken, or not as it should be."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints.faults import FailingDisk, WatchedDisk
from conftest import Trained, documents
from continued import (
    assert_same_end,
    assert_same_tensors,
    goes_on,
    newest,
    saved_steps,
    saver_of,
    tensors_of,
    train_with,
)

from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.verify import entries, newest_verified

pytestmark = pytest.mark.colab  # libraries differ in what they keep of a state

DOCS = documents(20, longest=32)


@pytest.fixture
def a_run(tiny_run):
    def make(**changes: Any) -> Trained:
        return tiny_run(docs=DOCS, **({"effective_batch_size": 8, "max_steps": 8} | changes))

    return make


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
    assert saved_steps(run) == [2, 4, 6, 8]
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
    assert saved_steps(run) == [2, 4, 6, 8]
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
