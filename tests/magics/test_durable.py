"""Where copies go, what protects them, and where a run is looked for: settled before anything is started."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path, PurePath
from types import ModuleType

import pytest

from colab_magics import worker
from colab_magics.checkpoints import mounts, remote
from colab_magics.checkpoints.lease import Lease
from colab_magics.checkpoints.places import VARIABLE, Place
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import durable
from colab_magics.recipe import Recipe

pytestmark = pytest.mark.face

DRIVE = "/content/drive/MyDrive/colab_magics/checkpoints"
HERE = Path("/content/notebook/runs")


@pytest.fixture
def said() -> list[str]:
    return []


class PretendedColab:
    """`google.colab` and the table of mounts, on which its Drive appears when it is mounted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
        self.table, self.asked, self.refuses = table, 0, False
        table.write_text("/dev/sda1 / ext4 rw 0 0\n")
        drive = ModuleType("google.colab.drive")
        drive.mount = self.mount  # type: ignore[attr-defined]
        colab = ModuleType("google.colab")
        colab.drive = drive  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
        there = [mounts.Mount(PurePath("/"), "ext4", "/dev/sda1")]
        self.there = there
        monkeypatch.setattr(durable, "mounts", lambda: list(there))

    def mount(self, point: str) -> None:
        self.asked += 1
        if self.refuses:
            raise ValueError("mount failed: the window was closed")
        self.there.append(mounts.Mount(PurePath(point), "fuse.drive", "drive"))


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PretendedColab:
    monkeypatch.delenv(VARIABLE, raising=False)
    return PretendedColab(monkeypatch, tmp_path / "mounts")


def test_the_recipe_s_word_comes_before_config_and_config_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "s3://environment")
    assert durable.replica_of("/recipe", "/config") == "/recipe"
    assert durable.replica_of(None, "/config") == "/config"
    assert durable.replica_of(None, "") == "s3://environment"
    monkeypatch.delenv(VARIABLE)
    assert durable.replica_of(None, "") is None


@pytest.mark.parametrize("off", ["none", "None", "off"])
def test_none_switches_copies_off_whatever_else_says_so(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    monkeypatch.setenv(VARIABLE, "s3://environment")
    assert durable.replica_of(off, "/config") is None


def test_on_colab_a_mounted_drive_is_the_default_and_one_that_is_not_mounted_is_not(colab: PretendedColab) -> None:
    assert durable.replica_of(None, "") is None
    colab.mount("/content/drive")
    assert durable.replica_of(None, "") == DRIVE


def test_on_colab_without_a_replica_one_line_says_so_and_gives_the_line_that_protects(
    colab: PretendedColab, said: list[str]
) -> None:
    durable.protect(None, HERE, said.append)
    (line,) = said
    assert "dies with the machine" in line
    assert f"replica: {DRIVE}" in line
    assert colab.asked == 0


@pytest.mark.parametrize(
    ("platform", "told"),
    [
        ("kaggle", "/kaggle/working outlives the session only if Persistence is on"),
        ("kaggle-batch", "/kaggle/working outlives the session only if the version ends in good order"),
        ("lightning", ""),
        ("plain", ""),
    ],
)
def test_where_storage_stays_only_on_a_condition_a_run_without_a_replica_says_on_which(
    monkeypatch: pytest.MonkeyPatch, said: list[str], platform: str, told: str
) -> None:
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", platform)
    durable.protect(None, HERE, said.append)
    assert len(said) == (1 if told else 0)
    assert all(line.startswith(told) and "add: replica: " in line for line in said)


def test_elsewhere_nothing_is_said(said: list[str]) -> None:
    durable.protect(None, HERE, said.append)
    assert not said


def test_a_replica_on_drive_has_drive_mounted_once_before_anything_trains(
    colab: PretendedColab, said: list[str]
) -> None:
    durable.protect(DRIVE, HERE, said.append)
    durable.protect(DRIVE, HERE, said.append)
    assert colab.asked == 1
    assert set(said) == {f"Checkpoints are copied to {DRIVE}; replica: none switches that off."}


def test_a_drive_that_is_not_allowed_ends_the_cell_in_words(colab: PretendedColab, said: list[str]) -> None:
    colab.refuses = True
    with pytest.raises(ColabMagicsError, match="Drive was not mounted") as refused:
        durable.protect(DRIVE, HERE, said.append)
    assert "the window was closed" in str(refused.value)


@pytest.mark.parametrize("where", ["s3://bucket/runs", "/mnt/disk/runs", "/content/runs"])
def test_a_replica_elsewhere_asks_for_no_drive(colab: PretendedColab, said: list[str], where: str) -> None:
    durable.protect(where, HERE, said.append)
    assert colab.asked == 0


def test_a_root_on_drive_becomes_the_replica_of_a_run_on_the_local_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(durable, "is_local", lambda path: not str(path).startswith("/content/drive"))
    rooms = durable.rooms(Path(DRIVE))
    assert (rooms.root, rooms.copies) == (tmp_path / "runs", DRIVE)
    assert DRIVE in rooms.said
    assert durable.rooms(tmp_path) == durable.Rooms(tmp_path)
    assert not durable.rooms(tmp_path).said


def test_what_a_finished_version_left_is_found_and_is_only_to_be_forked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: list[str]
) -> None:
    inputs = tmp_path / "input"
    _left_behind(inputs / "my-notebook" / "runs")
    (inputs / "my-notebook" / "runs" / "mine" / "checkpoints").mkdir()
    here = Place(str(inputs / "my-notebook" / "runs"), "Kaggle's input", read_only=True)
    monkeypatch.setattr(durable, "places", lambda *_, **__: [Place(str(tmp_path), "the root", is_root=True), here])
    monkeypatch.delenv(VARIABLE, raising=False)
    (found,) = durable.search(tmp_path, "", said.append)
    assert (found.remote.name, found.read_only, found.where) == ("mine", True, here.where)


def test_a_replica_that_does_not_answer_is_said_and_holds_nothing(said: list[str], tmp_path: Path) -> None:
    assert durable.held(None, said.append) == []
    assert durable.held(str(tmp_path / "new"), said.append) == []
    assert not said
    assert durable.held("nosuch://bucket/runs", said.append) == []
    assert "The replica was not looked into" in said[0]


def _left_behind(replica: Path, host: str = "the-old-machine") -> Lease:
    """A run in the replica, whose machine was there half a minute ago."""
    (replica / "mine").mkdir(parents=True)
    (replica / "mine" / "events.jsonl").write_text('{"kind": "started", "run": "ab12", "attempt": 1}\n')
    lease = Lease("ab12", 1, "session-1", host, "other-boot", 77, 1.0, time.time() - 30)
    (replica / "mine" / "LEASE.json").write_bytes(lease.to_json())
    return lease


def test_a_run_whose_machine_gives_no_more_sign_is_free_after_a_while(tmp_path: Path, said: list[str]) -> None:
    _left_behind(tmp_path)
    (found,) = durable.held(str(tmp_path), said.append)
    durable.until_free(found, said.append, renewals=0.003, pause=0.05)
    assert "the-old-machine" in said[0]
    assert "--fork mine-2" in said[0]
    assert not (tmp_path / "mine" / "LEASE.json").exists()


def test_a_run_whose_machine_gives_another_sign_is_refused(tmp_path: Path, said: list[str]) -> None:
    lease = _left_behind(tmp_path)
    (found,) = durable.held(str(tmp_path), said.append)
    (tmp_path / "mine" / "LEASE.json").write_bytes(replace(lease, time=lease.time + 20).to_json())
    with pytest.raises(ColabMagicsError, match="mine is being trained elsewhere"):
        durable.until_free(found, said.append, renewals=3, pause=0.01)
    assert (tmp_path / "mine" / "LEASE.json").exists()


def test_a_renewal_in_the_last_moment_is_not_released(tmp_path: Path) -> None:
    lease = _left_behind(tmp_path)
    (tmp_path / "mine" / "LEASE.json").write_bytes(replace(lease, time=lease.time + 20).to_json())
    assert not remote.release(str(tmp_path), "mine", lease)
    assert (tmp_path / "mine" / "LEASE.json").exists()


def test_a_run_that_this_very_machine_trains_is_refused_at_once(tmp_path: Path, said: list[str]) -> None:
    _left_behind(tmp_path)
    started = worker.start_time(os.getpid())
    here = Lease("ab12", 1, "s", socket.gethostname(), worker.boot_id(), os.getpid(), started, time.time())
    (tmp_path / "mine" / "LEASE.json").write_bytes(here.to_json())
    (found,) = durable.held(str(tmp_path), said.append)
    with pytest.raises(ColabMagicsError, match="mine is being trained elsewhere"):
        durable.until_free(found, said.append)


@pytest.mark.parametrize(
    "where", ["/content/notebook/runs", "/content/notebook/runs/mine", "file:///content/notebook/runs"]
)
def test_a_replica_where_the_runs_themselves_are_is_refused(where: str, said: list[str]) -> None:
    with pytest.raises(ColabMagicsError, match="lies where the runs are"):
        durable.protect(where, HERE, said.append)
    durable.protect("/content/notebook/copies", HERE, said.append)


@pytest.mark.parametrize("where", ["s3://KEY:SECRET@bucket/x", "s3://bucket/x?key=AKIA&secret=abc"])
def test_an_address_with_a_key_is_refused_and_the_key_is_not_shown(where: str, said: list[str]) -> None:
    with pytest.raises(ColabMagicsError, match="holds a key or a password") as refused:
        durable.protect(where, HERE, said.append)
    with pytest.raises(ColabMagicsError, match="holds a key or a password") as also:
        Recipe(model="demo", data="demo", replica=where)
    for text in (str(refused.value), str(also.value)):
        assert "SECRET" not in text
        assert "abc" not in text
    assert Recipe(model="demo", data="demo", replica="hf://org/runs@main").replica == "hf://org/runs@main"
