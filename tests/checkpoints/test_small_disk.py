"""A real disk that is too small: a tmpfs of a few hundred kilobytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mount, small_disk

from checkpoints.scenes import RUN, hidden, is_as_saved, save
from colab_magics.checkpoints.commit import discard, sweep
from colab_magics.checkpoints.verify import newest_verified, verify

NUMBERS = 10_000  # a checkpoint of some 160 KB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 400 KB."""
    with small_disk(tmp_path / "disk", "400k") as place:
        yield place


def test_a_commit_that_runs_into_the_end_of_the_disk_leaves_the_old_ones_and_no_rubbish(disk: Path) -> None:
    for step in (1, 2):
        save(disk, step, numbers=NUMBERS)
    with pytest.raises(OSError, match="No space left") as raised:
        save(disk, 3, numbers=NUMBERS)
    assert raised.value.errno == errno.ENOSPC
    assert hidden(disk) == []
    found = newest_verified(disk, run=RUN).entry
    assert found is not None
    assert (found.step, is_as_saved(found.folder, 2, numbers=NUMBERS)) == (2, True)


def test_after_a_deletion_the_same_step_can_be_saved(disk: Path) -> None:
    for step in (1, 2):
        save(disk, step, numbers=NUMBERS)
    with pytest.raises(OSError, match="No space left"):
        save(disk, 3, numbers=NUMBERS)
    discard(disk / "00000001-a1", run=RUN)
    verify(save(disk, 3, numbers=NUMBERS), run=RUN)


def test_a_disk_that_is_made_larger_takes_the_next(disk: Path) -> None:
    for step in (1, 2):
        save(disk, step, numbers=NUMBERS)
    with pytest.raises(OSError, match="No space left"):
        save(disk, 3, numbers=NUMBERS)
    assert mount(disk, "size=4000k,remount") == ""
    verify(save(disk, 3, numbers=NUMBERS), run=RUN)


@pytest.mark.parametrize("left", range(0, 260, 12))
def test_wherever_the_disk_ends_a_checkpoint_is_whole_or_absent(disk: Path, left: int) -> None:
    save(disk, 1, numbers=NUMBERS)
    used = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, used.f_bavail * used.f_bsize - left * 1024)))
    try:
        save(disk, 2, numbers=NUMBERS)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    assert {path.name for path in disk.iterdir()} <= {"00000001-a1", "00000002-a1", "filler"}
    found = newest_verified(disk, run=RUN)
    assert found.entry is not None
    assert found.skipped == ()
    assert is_as_saved(found.entry.folder, found.entry.step, numbers=NUMBERS)
    assert (found.entry.step == 2) == (left > 170)


def test_a_disk_without_a_byte_left_can_still_be_swept_and_pruned(disk: Path) -> None:
    save(disk, 1, numbers=NUMBERS)
    save(disk, 2, numbers=NUMBERS)
    rubbish = disk / ".staging-00000003-a1-aa"
    rubbish.mkdir()
    with pytest.raises(OSError, match="No space left"), (rubbish / "optimizer.safetensors").open("wb") as file:
        file.write(bytes(10**6))
    assert os.statvfs(disk).f_bavail == 0
    assert sweep(disk) == []
    discard(disk / "00000001-a1", run=RUN)
    assert [path.name for path in disk.iterdir()] == ["00000002-a1"]
