"""`%checkpoint save`: the order, and waiting for the answer."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import save
from colab_magics.magics.checkpoint_line import Line

from .checkpointed import Left

pytestmark = [pytest.mark.colab, pytest.mark.face]


class Answering:
    """As far as a reader of the folder can tell, a living worker: it holds the lock, and answers an order to save."""

    def __init__(self, left: Left, *answers: dict[str, Any], dies: bool = False) -> None:
        self.left, self.answers, self.dies = left, answers, dies
        lock = worker.hold_lock(left.folder)
        assert lock is not None
        self.lock: int | None = lock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        control = worker.Control(self.left.folder)
        while not control.take("save"):
            if self._ended.wait(0.01):
                return
        for answer in self.answers:
            self.left.tell("checkpoint", **answer)
        if self.dies:
            self.leave()

    def leave(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.leave()


@pytest.fixture
def left(tmp_path: Path) -> Left:
    left = Left(tmp_path)
    left.tell("checkpoint", action="saved", step=20, reason="save", bytes=1)  # of long ago
    return left


def saved(left: Left, *answers: dict[str, Any], dies: bool = False, patience: float = 30) -> str:
    answering = Answering(left, *answers, dies=dies)
    try:
        return save(Line("save", "kwanzaa"), left.root, patience=patience)
    finally:
        answering.close()


def test_the_answer_names_step_bytes_and_how_long_the_training_waited(left: Left) -> None:
    answer = {"action": "saved", "step": 1234, "reason": "save", "bytes": 5 * 2**20, "stall": 0.0312, "seconds": 0.2}
    assert saved(left, answer) == "Saved step 1,234 of kwanzaa: 5.0 MiB; the training waited 31 ms."
    assert saved(left, answer | {"stall": 2.34}).endswith("the training waited 2.3 s.")


def test_a_save_that_was_under_way_already_and_a_deletion_are_not_the_answer(left: Left) -> None:
    before = {"action": "saved", "step": 30, "reason": "interval"}
    deleted = {"action": "deleted", "step": 10, "reason": "save"}
    assert saved(left, before, deleted, {"action": "saved", "step": 31, "reason": "save"}) == (
        "Saved step 31 of kwanzaa."
    )


def test_a_save_that_failed_is_an_error_with_the_disks_reason(left: Left) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        saved(left, {"action": "failed", "step": 30, "message": "No space left on device: it needs 9 bytes"})
    assert raised.value.lines() == [
        "kwanzaa could not save a checkpoint; it trains on.",
        "No space left on device: it needs 9 bytes.",
        "→ Make room, then %checkpoint save kwanzaa.",
    ]


def test_a_worker_that_ends_meanwhile_has_saved_its_last_step_or_nothing(left: Left) -> None:
    last = {"action": "saved", "step": 100, "reason": "finished"}
    assert saved(left, last, dies=True) == "Saved step 100 of kwanzaa."
    with pytest.raises(ColabMagicsError, match="kwanzaa ended before it saved"):
        saved(left, dies=True)


def test_after_a_while_the_order_stands_and_the_line_says_so(left: Left) -> None:
    assert saved(left, patience=0.2) == (
        "kwanzaa was told to save and is still at its step; %checkpoint list shows when it has."
    )


def test_a_run_without_a_worker_gets_no_order(left: Left) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        save(Line("save"), left.root)
    assert raised.value.lines() == [
        "kwanzaa is not being trained: it is unfinished.",
        "Only a living worker has something to save.",
        "→ %checkpoint list kwanzaa shows what was saved.",
    ]
    assert not (left.folder / "control").exists()


def test_a_run_that_still_prepares_has_nothing_to_save(left: Left) -> None:
    starting = left.root / ".starting-other-00000000"
    starting.mkdir()
    lock = worker.hold_lock(starting)
    assert lock is not None
    with pytest.raises(ColabMagicsError, match="other is still preparing"):
        save(Line("save", "other"), left.root)
    os.close(lock)
