"""A disk that refuses, at any call, once or for good: the old checkpoint stays, the error says its number."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from checkpoints.acts import ACTS, COMMIT, Act, check_after_a_death, scenes
from checkpoints.faults import SAYS, FailingDisk, calls_of
from checkpoints.kills import errors_of
from checkpoints.scenes import RUN, is_as_saved, save
from colab_magics.checkpoints.commit import sweep
from colab_magics.checkpoints.verify import newest_verified

each_act = pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
each_error = pytest.mark.parametrize("error", SAYS, ids=lambda error: errno.errorcode[error])
once_or_for_good = pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])


@each_act
def test_an_error_at_any_call_leaves_a_whole_checkpoint_and_the_run_goes_on(tmp_path: Path, act: Act) -> None:
    for what, scene in errors_of(act, tmp_path):
        try:
            check_after_a_death(scene, act)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong


@each_error
@once_or_for_good
def test_a_commit_that_raises_has_committed_nothing_and_one_that_returns_has(
    tmp_path: Path, error: int, for_good: bool
) -> None:
    fresh = scenes(tmp_path, COMMIT.prepare)
    for at in range(len(calls_of(lambda disk: COMMIT.run(next(fresh), disk)))):
        scene = next(fresh)
        disk = FailingDisk(at, error, for_good=for_good)
        try:
            COMMIT.run(scene, disk)
        except OSError:
            returned = False
        else:
            returned = True
        there = (scene / "00000003-a1").exists()
        # a disk that refuses everything from its last flush on cannot take the rename back
        after_the_rename = "rename" in disk.calls[:at]
        assert there == returned or (for_good and after_the_rename)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT], ids=["ENOSPC", "EDQUOT"])
def test_a_commit_into_a_full_disk_gives_the_room_back(tmp_path: Path, error: int) -> None:
    fresh = scenes(tmp_path, COMMIT.prepare)
    calls = calls_of(lambda disk: COMMIT.run(next(fresh), disk))
    for at in range(calls.index("rename")):
        scene = next(fresh)
        with pytest.raises(OSError, match=os.strerror(error)):
            COMMIT.run(scene, FailingDisk(at, error, for_good=True))
        assert sorted(path.name for path in scene.iterdir()) == ["00000001-a1", "00000002-a1"]


@each_error
def test_an_error_that_passes_lets_the_same_step_be_saved_again(tmp_path: Path, error: int) -> None:
    fresh = scenes(tmp_path, COMMIT.prepare)
    for at in range(len(calls_of(lambda disk: COMMIT.run(next(fresh), disk)))):
        scene = next(fresh)
        try:
            COMMIT.run(scene, FailingDisk(at, error, for_good=False))
        except OSError:
            sweep(scene)
            save(scene, 3)
        found = newest_verified(scene, run=RUN).entry
        assert found is not None
        assert (found.step, is_as_saved(found.folder, 3)) == (3, True)


@each_error
def test_a_sweep_of_a_disk_that_refuses_raises_nothing(tmp_path: Path, error: int) -> None:
    sweeping = next(act for act in ACTS if act.name == "sweep")
    fresh = scenes(tmp_path, sweeping.prepare)
    for at in range(len(calls_of(lambda disk: sweeping.run(next(fresh), disk)))):
        sweeping.run(next(fresh), FailingDisk(at, error, for_good=True))
