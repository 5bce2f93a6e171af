"""The newest whole checkpoint is found, and each that is not is named with its reason."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints.scenes import OTHER_RUN, RUN, contents, is_as_saved, save
from colab_magics.checkpoints.commit import commit
from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest
from colab_magics.checkpoints.verify import entries, newest_verified, set_aside, verify

pytestmark = pytest.mark.face


def _flip(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "it has no manifest: it was not finished"),
    "a flipped bit": (_flip, "optimizer.safetensors was altered"),
    "cut": (lambda folder: os.truncate(folder / "state.json", 3), "state.json has 3 bytes instead of 26"),
    "missing": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "extra": (lambda folder: (folder / "new\nline").touch(), "'new\\nline' does not belong to it"),
    "a link": (
        lambda folder: _link(folder / "state.json"),
        "state.json cannot be read: Too many levels of symbolic links",
    ),
    "a pipe": (lambda folder: _pipe(folder / "state.json"), "state.json is no file"),
    "a folder": (lambda folder: _folder(folder / "state.json"), "state.json is no file"),
}


def _link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(("break_it", "reason"), BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_checkpoint_is_skipped_named_and_the_one_before_it_used(
    checkpoints: Path, break_it: Callable[[Path], object], reason: str
) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)
    break_it(save(checkpoints, 3))
    found = newest_verified(checkpoints, run=RUN)
    assert found.entry is not None
    assert found.entry.name == "00000002-a1"
    assert [(entry.name, entry.broken) for entry in found.skipped] == [("00000003-a1", reason)]


def test_all_broken_means_none_and_says_why_of_each(checkpoints: Path) -> None:
    for step in (1, 2):
        os.truncate(save(checkpoints, step) / "state.json", 1)
    found = newest_verified(checkpoints)
    assert found.entry is None
    assert [entry.step for entry in found.skipped] == [2, 1]


def test_a_folder_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert newest_verified(tmp_path / "checkpoints").entry is None
    assert entries(tmp_path / "checkpoints") == []


def test_what_a_later_attempt_wrote_is_newer_whatever_its_step(checkpoints: Path) -> None:
    for step, attempt in ((300, 1), (120, 2), (90, 3), (100, 3)):
        save(checkpoints, step, attempt)
    assert [entry.age_order for entry in entries(checkpoints)] == [(3, 100), (3, 90), (2, 120), (1, 300)]


def test_files_times_mean_nothing(checkpoints: Path) -> None:
    old, new = save(checkpoints, 1), save(checkpoints, 2)
    os.utime(old, (2**31, 2**31))
    os.utime(new, (0, 0))
    found = newest_verified(checkpoints)
    assert found.entry is not None
    assert found.entry.folder == new


def test_one_step_can_be_asked_for(checkpoints: Path) -> None:
    for step, attempt in ((1, 1), (2, 1), (2, 2), (3, 2)):
        save(checkpoints, step, attempt)
    _flip(checkpoints / "00000002-a2")
    found = newest_verified(checkpoints, step=2)
    assert found.entry is not None
    assert found.entry.name == "00000002-a1"
    assert [entry.name for entry in found.skipped] == ["00000002-a2"]


def test_another_runs_checkpoint_is_not_used(checkpoints: Path) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2, run=OTHER_RUN)
    found = newest_verified(checkpoints, run=RUN)
    assert found.entry is not None
    assert found.entry.step == 1
    assert found.skipped[0].broken == "it belongs to another run"


def test_prepared_data_under_a_checkpoints_name_is_not_used(checkpoints: Path) -> None:
    commit(checkpoints / "00000000-a0", contents(1), Manifest("data", RUN, {}))
    found = newest_verified(checkpoints, run=RUN)
    assert found.entry is None
    assert found.skipped[0].broken == "it holds data, no checkpoint"


def test_an_older_checkpoint_under_a_newer_name_is_found_out(checkpoints: Path) -> None:
    shutil.copytree(save(checkpoints, 1), checkpoints / "00000009-a1")
    found = newest_verified(checkpoints, run=RUN)
    assert found.entry is not None
    assert found.entry.step == 1
    assert found.skipped[0].broken == "its manifest is that of step 1, attempt 1"


def test_a_quick_look_sees_sizes_and_a_full_one_bytes(checkpoints: Path) -> None:
    folder = save(checkpoints, 1)
    _flip(folder)
    verify(folder, full=False)
    for disk_cache in (True, False):
        with pytest.raises(Broken, match="altered"):
            verify(folder, disk_cache=disk_cache)


def test_verifying_writes_nothing(checkpoints: Path) -> None:
    save(checkpoints, 1)
    _flip(save(checkpoints, 2))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in checkpoints.rglob("*")}
    newest_verified(checkpoints)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in checkpoints.rglob("*")} == before


def test_what_is_set_aside_is_kept_and_no_longer_skipped(checkpoints: Path) -> None:
    save(checkpoints, 1)
    os.truncate(save(checkpoints, 2) / "optimizer.safetensors", 5)
    place = set_aside(newest_verified(checkpoints).skipped[0])
    assert place.name.startswith(".broken-00000002-a1-")
    assert {path.name for path in place.iterdir()} == {*contents(2), MANIFEST}
    assert newest_verified(checkpoints).skipped == ()
    save(checkpoints, 2)
    assert is_as_saved(checkpoints / "00000002-a1", 2)


def test_a_broken_one_that_is_a_link_is_set_aside_without_touching_what_it_names(checkpoints: Path) -> None:
    real = save(checkpoints.parent, 2)
    (checkpoints / "00000002-a1").symlink_to(real)
    found = newest_verified(checkpoints)
    assert (found.entry, found.skipped[0].broken) == (None, "it is no folder")
    set_aside(found.skipped[0])
    assert is_as_saved(real, 2)


def test_a_folder_where_a_pipe_a_socket_or_a_device_stands_for_the_manifest_does_not_hang(checkpoints: Path) -> None:
    for step in (1, 2):
        (save(checkpoints, step) / MANIFEST).unlink()
    os.mkfifo(checkpoints / "00000001-a1" / MANIFEST)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(checkpoints / "00000002-a1")  # a socket's path has at most 108 bytes
        try:
            listening.bind(MANIFEST)
        finally:
            os.chdir(here)
        assert newest_verified(checkpoints).entry is None
