"""Two cells that start the same run at about the same time: the first one's folder is left alone."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.run import starting_folder

pytest.importorskip("torch")


def _folder(folder: Path, *attempts: int) -> Path:
    folder.mkdir(exist_ok=True)
    for attempt in attempts:
        log = EventLog(folder / "events.jsonl", attempt)
        log.append("started", name="a")
        log.close()
    return folder


def _settled(root: Path, *attempts: int) -> Path:
    from colab_magics.training.settle import settle

    return settle(_folder(starting_folder(root, "a"), *attempts), "a")


def test_a_living_run_is_not_replaced(tmp_path: Path) -> None:
    lock = worker.hold_lock(_folder(tmp_path / "a", 1))
    assert lock is not None
    for attempts in ((1,), (1, 2)):
        with pytest.raises(ColabMagicsError, match="a is being trained already"):
            _settled(tmp_path, *attempts)
    assert (tmp_path / "a" / "events.jsonl").exists()
    os.close(lock)


def test_a_run_that_was_trained_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    _folder(tmp_path / "a", 1)
    with pytest.raises(ColabMagicsError, match="a has been trained meanwhile"):
        _settled(tmp_path, 1)
    assert (tmp_path / "a" / "events.jsonl").exists()


def test_a_run_that_starts_over_takes_the_place_of_its_earlier_attempt(tmp_path: Path) -> None:
    (_folder(tmp_path / "a", 1) / "adapter").mkdir()
    assert _settled(tmp_path, 1, 2) == tmp_path / "a"
    assert (tmp_path / "a" / "adapter").is_dir()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_a_death_while_it_settles_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    run = _folder(tmp_path / "a", 1)
    (run / "checkpoints" / "00000021-a1").mkdir(parents=True)
    (run / "prepared" / "train").mkdir(parents=True)
    (run / "data").mkdir()
    (run / "data" / "train.jsonl").write_text("old")
    folder = _folder(starting_folder(tmp_path, "a"), 1, 2)
    (folder / "recipe.yaml").write_text("model: demo")
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("new")
    calls = 0

    def dying(way: object) -> object:
        def call(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise SystemExit
            return way(*arguments, **named)  # type: ignore[operator]

        return call

    from colab_magics.training.settle import settle

    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(Path, "rmdir", dying(Path.rmdir))
    with suppress(SystemExit):
        settle(folder, "a")
    monkeypatch.undo()
    shutil.rmtree(folder, ignore_errors=True)  # as the kernel does with what a dead worker leaves
    assert (tmp_path / "a" / "checkpoints" / "00000021-a1").is_dir()
    assert (tmp_path / "a" / "prepared" / "train").is_dir()


def test_orders_given_to_the_attempt_before_are_not_obeyed_and_its_own_are(tmp_path: Path) -> None:
    worker.Control(_folder(tmp_path / "a", 1)).send("stop")
    assert worker.Control(_settled(tmp_path, 1, 2)).pending() == frozenset()
    folder = _folder(starting_folder(tmp_path, "a"), 1, 2, 3)
    worker.Control(folder).send("stop")
    from colab_magics.training.settle import settle

    assert worker.Control(settle(folder, "a")).pending() == {"stop"}
