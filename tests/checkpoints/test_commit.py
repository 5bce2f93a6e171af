"""A folder appears whole or not at all, and only what is ours goes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from checkpoints.faults import SlowlyFillingDisk, WatchedDisk
from checkpoints.scenes import OTHER_RUN, RUN, contents, hidden, is_as_saved, save
from colab_magics.checkpoints.commit import DELETING, STAGING, commit, discard, remove, sweep
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest
from colab_magics.checkpoints.verify import newest_verified, verify


def test_what_was_given_is_in_the_folder_and_verifies(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    assert is_as_saved(folder, 7)
    manifest = verify(folder, run=RUN)
    assert manifest.size == sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST)
    assert hidden(tmp_path) == []


def test_the_manifest_that_is_returned_is_the_one_on_the_disk(tmp_path: Path) -> None:
    returned = commit(tmp_path / "00000007-a1", contents(7), Manifest("checkpoint", RUN, {}, 7, 1, {"name": "kwanzaa"}))
    assert returned == verify(tmp_path / "00000007-a1")


def test_data_comes_in_pieces_of_any_size_and_shape(tmp_path: Path) -> None:
    pieces = [b"", b"abc", memoryview(np.arange(6, dtype="<i4").reshape(2, 3)), memoryview(np.ones((3, 4), "u1")), b""]
    manifest = commit(tmp_path / "train", {"tokens.npy": pieces, "empty": []}, Manifest("data", RUN, {}))
    assert (tmp_path / "train" / "tokens.npy").read_bytes() == b"abc" + np.arange(6, dtype="<i4").tobytes() + b"\1" * 12
    assert (manifest.files["tokens.npy"].size, manifest.files["empty"].size) == (39, 0)
    verify(tmp_path / "train")


def test_files_are_flushed_before_the_manifest_is_written_and_that_before_the_rename(tmp_path: Path) -> None:
    disk = WatchedDisk()
    save(tmp_path, 1, disk=disk)
    flushed = [call for call in disk.calls if call != "write"]
    files = ["create", "flush", "close"] * 5
    assert flushed == ["make_folder", *files, "flush_folder", "flush", "rename", "flush_folder", "flush"]


def test_a_file_that_was_planted_is_neither_followed_nor_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "link").symlink_to("thesis.tex")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("thesis.tex", "link", "dangling"):
        with pytest.raises(FileExistsError):
            DISK.create(tmp_path / name)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "nowhere").exists()


def test_a_system_that_takes_few_bytes_at_a_time_gets_them_all(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, disk=SlowlyFillingDisk(7))
    assert is_as_saved(folder, 1)
    verify(folder)


def test_a_system_that_takes_none_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    class Takes0(Disk):
        def write(self, descriptor: int, data: memoryview) -> int:  # noqa: ARG002
            return 0

    with pytest.raises(OSError, match="Input/output"):
        save(tmp_path, 1, disk=Takes0())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "a/b", "/tmp/x", "..", ".hidden", "", MANIFEST])
def test_a_name_that_no_file_of_ours_has_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="called"):
        commit(tmp_path / "checkpoints" / "00000001-a1", {name: [b"x"]}, Manifest("checkpoint", RUN, {}, 1, 1))
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints"]


def test_contents_that_cannot_be_made_leave_nothing(tmp_path: Path) -> None:
    def pieces():
        yield b"half"
        raise RuntimeError("the device is lost")

    with pytest.raises(RuntimeError, match="device"):
        commit(tmp_path / "00000001-a1", {"state.json": pieces()}, Manifest("checkpoint", RUN, {}, 1, 1))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def pieces():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit(tmp_path / "00000001-a1", {"state.json": pieces()}, Manifest("checkpoint", RUN, {}, 1, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    with pytest.raises(OSError, match="not empty"):
        commit(folder, contents(2), Manifest("checkpoint", RUN, {}, 1, 1))
    assert is_as_saved(folder, 1)
    assert hidden(tmp_path) == []


def test_descriptors_are_closed_whatever_happens(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("needs /proc")
    save(tmp_path, 1)
    verify(tmp_path / "00000001-a1")
    with pytest.raises(OSError, match="not empty"):
        save(tmp_path, 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_deletion_takes_the_manifest_first(tmp_path: Path) -> None:
    class Says(Disk):
        gone: list[str] = []  # noqa: RUF012

        def unlink(self, path: Path) -> None:
            self.gone.append(path.name)
            super().unlink(path)

    discard(save(tmp_path, 1), run=RUN, disk=Says())
    assert Says.gone[0] == MANIFEST
    assert list(tmp_path.iterdir()) == []


def test_a_deletion_on_drive_empties_each_file_first(tmp_path: Path) -> None:
    disk = WatchedDisk()
    discard(save(tmp_path, 1), run=RUN, disk=disk, truncate=True)
    assert disk.calls == ["rename", *["truncate", "unlink"] * 5, "remove_folder"]


def test_only_a_folder_with_this_runs_manifest_is_deleted(tmp_path: Path) -> None:
    theirs = save(tmp_path, 1, run=OTHER_RUN)
    bare = tmp_path / "00000002-a1"
    bare.mkdir()
    (bare / "model.safetensors").write_bytes(b"a copy that a person made")
    torn = save(tmp_path, 3)
    os.truncate(torn / MANIFEST, 20)
    link = tmp_path / "00000004-a1"
    link.symlink_to(save(tmp_path, 5))
    for folder in (theirs, bare, torn, link, tmp_path / "00000009-a1"):
        with pytest.raises(Broken):
            discard(folder, run=RUN)
    assert is_as_saved(theirs, 1)
    assert is_as_saved(link, 5)
    assert (bare / "model.safetensors").exists()
    assert hidden(tmp_path) == []


def test_a_sweep_takes_staging_and_deleting_and_nothing_else(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    for name in (
        f"{STAGING}00000002-a1-aa",
        f"{DELETING}00000001-a1-bb",
        ".broken-00000003-a1-cc",
        ".nfs0001",
        "notes",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_bytes(b"{")
    assert sweep(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".broken-00000003-a1-cc",
        ".nfs0001",
        folder.name,
        "notes",
    ]


def test_a_sweep_goes_on_after_what_it_cannot_remove_and_names_it(tmp_path: Path) -> None:
    stuck = tmp_path / f"{STAGING}00000001-a1-aa"
    (stuck / "a-folder").mkdir(parents=True)
    (tmp_path / f"{STAGING}00000002-a1-bb").mkdir()
    (tmp_path / f"{DELETING}a-file").touch()
    assert sorted(sweep(tmp_path)) == [f"{DELETING}a-file", stuck.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{DELETING}a-file", stuck.name]
    assert sweep(tmp_path / "missing") == []


@pytest.mark.parametrize("prefix", [STAGING, DELETING])
@pytest.mark.parametrize("truncate", [False, True])
def test_what_a_planted_link_names_is_neither_emptied_nor_deleted(tmp_path: Path, prefix: str, truncate: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / f"{prefix}00000001-a1-aa").symlink_to(home)
    inner = checkpoints / f"{prefix}00000002-a1-bb"
    inner.mkdir()
    (inner / "state.json").symlink_to(home / "thesis.tex")
    assert sweep(checkpoints) == [f"{prefix}00000001-a1-aa"]
    inner.mkdir()
    (inner / "state.json").symlink_to(home / "thesis.tex")
    remove(inner, truncate=truncate)
    assert (home / "thesis.tex").read_text() == "years of work"


def test_two_hundred_saves_with_deletions_between_leave_the_newest(tmp_path: Path) -> None:
    rng = random.Random(0)
    there = {0: save(tmp_path, 0, numbers=4)}
    for step in range(1, 200):
        there[step] = save(tmp_path, step, numbers=4)
        for gone in rng.sample(sorted(there)[:-1], rng.randrange(len(there))):
            discard(there.pop(gone), run=RUN)
    found = newest_verified(tmp_path, run=RUN)
    assert found.entry is not None
    assert (found.entry.step, found.skipped) == (199, ())
    assert {path.name for path in tmp_path.iterdir()} == {folder.name for folder in there.values()}
