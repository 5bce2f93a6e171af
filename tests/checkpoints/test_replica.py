"""The replica process: whatever happens to it or to the store, what it says is true and the training goes on."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import pytest

from checkpoints import copies, scenes
from checkpoints.faults import SAYS, DyingDisk, FailingDisk, Killed, WatchedDisk
from colab_magics import worker
from colab_magics.checkpoints import remote, replica
from colab_magics.checkpoints.files import DISK
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.lease import Lease, held
from colab_magics.checkpoints.manifest import read_manifest
from colab_magics.checkpoints.mounts import Mount
from colab_magics.checkpoints.replica.copying import Full, Replication
from colab_magics.checkpoints.replica.process import Job
from colab_magics.checkpoints.replica.telling import Teller, amount, trouble
from colab_magics.checkpoints.stores import whole
from colab_magics.errors import ColabMagicsError
from colab_magics.events import read_events


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the real disk: what is tested here is not whether fsync works."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def process(folder: Path, where: str, *more: str, **variables: str) -> subprocess.Popen[bytes]:
    """The process, with other bounds than `start` gives it."""
    command = [sys.executable, "-P", "-m", "colab_magics.checkpoints.replica", str(folder), "--to", where, *more]
    with (folder / replica.OUTPUT).open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **worker.importable(), **variables}
        )


def is_complete(folder: Path, place: Path, newest: str) -> bool:
    store = FolderStore(place)
    run = folder.name
    small = all(
        (place / run / name).read_bytes() == (folder / name).read_bytes() for name in ("recipe.yaml", "events.jsonl")
    )
    manifest = whole(store, f"{run}/checkpoints/{newest}", run=copies.RUN)
    return (
        small
        and manifest == read_manifest(folder / "checkpoints" / newest)
        and bool(whole(store, f"{run}/prepared/train"))
    )


def test_it_follows_a_training_and_ends_after_it(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=())
    lock = worker.hold_lock(folder)
    assert lock is not None
    copy = replica.start(folder, str(tmp_path / "copy"), 2)
    for step in (10, 20, 30):
        scenes.save(folder / "checkpoints", step)
        name = f"{step:08d}-a1"
        copies.wait_for(lambda name=name: (tmp_path / "copy/kwanzaa/checkpoints" / name / "MANIFEST.json").exists())
    lease = held(FolderStore(tmp_path / "copy"), "kwanzaa")
    assert lease is not None
    assert lease.pid == copy.pid
    assert copy.poll() is None
    assert os.getsid(copy.pid) == copy.pid, "it must outlive the kernel and the worker"
    copies.finish(folder)
    os.close(lock)
    assert copy.wait(60) == 0
    assert is_complete(folder, tmp_path / "copy", "00000030-a1")
    assert sorted(os.listdir(tmp_path / "copy" / "kwanzaa" / "checkpoints")) == ["00000020-a1", "00000030-a1"]
    assert not (tmp_path / "copy" / "kwanzaa" / "LEASE.json").exists()
    news = copies.news(folder)
    assert [one["checkpoint"] for one in news if one["state"] == "local"] == [
        "00000010-a1",
        "00000020-a1",
        "00000030-a1",
    ]
    assert sum("ends with the machine" in one["message"] for one in news) == 1
    assert news[-1]["state"] == "done"


def test_a_second_process_ends_at_once_and_one_for_another_place_takes_over(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    lock = worker.hold_lock(folder)
    first = replica.start(folder, str(tmp_path / "copy"), 2)
    copies.wait_for(lambda: (folder / replica.LOCK).exists() and b"where" in (folder / replica.LOCK).read_bytes())
    assert replica.start(folder, str(tmp_path / "copy"), 2).wait(60) == 0
    assert first.poll() is None
    other = replica.start(folder, str(tmp_path / "other"), 2)
    assert first.wait(60) == -signal.SIGTERM
    assert lock is not None
    os.close(lock)
    assert other.wait(60) == 0
    assert is_complete(folder, tmp_path / "other", "00000010-a1")


def test_killed_at_random_moments_it_carries_on(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=())
    rng = random.Random(3)
    for number in range(1, 13):
        scenes.save(folder / "checkpoints", 10 * number, numbers=20_000)
        copy = replica.start(folder, str(tmp_path / "copy"), 2)
        time.sleep(rng.uniform(0.05, 0.35))
        copy.kill()
        copy.wait()
        for found in remote_checkpoints(tmp_path / "copy"):
            whole(FolderStore(tmp_path / "copy"), f"kwanzaa/checkpoints/{found}")
    assert replica.start(folder, str(tmp_path / "copy"), 2).wait(60) == 0
    assert is_complete(folder, tmp_path / "copy", "00000120-a1")
    assert not scenes.hidden(tmp_path / "copy" / "kwanzaa" / "checkpoints")


def remote_checkpoints(place: Path) -> list[str]:
    folder = place / "kwanzaa" / "checkpoints"
    return [name for name in os.listdir(folder) if not name.startswith(".")] if folder.is_dir() else []


def test_a_death_at_every_call_leaves_a_copy_that_the_next_process_completes(tmp_path: Path, quick_disk: None) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10,))
    calls = _calls_of_a_copy(folder, tmp_path / "counted")
    for at in range(calls):
        place = tmp_path / "copy"
        store = FolderStore(place)
        store.disk = DyingDisk(at, torn=at % 2 == 0)
        store.lease_every = 0.0
        with pytest.raises(Killed):
            copies.replicated(folder, store)
        for name in remote_checkpoints(place):
            assert whole(FolderStore(place), f"kwanzaa/checkpoints/{name}")
        lease = place / "kwanzaa" / "LEASE.json"
        if lease.exists():  # that process is dead, and this one is not
            lease.unlink()
        copies.replicated(folder, FolderStore(place))
        assert is_complete(folder, place, "00000010-a1")
        assert not [path for path in place.rglob("*") if path.name.startswith((".staging", ".deleting"))]
        shutil.rmtree(place)
    print(f"\n{calls} deaths, one at each call of a copy: 0 that could not go on")


def _calls_of_a_copy(folder: Path, place: Path) -> int:
    store = FolderStore(place)
    store.disk = counted = WatchedDisk()
    store.lease_every = 0.0
    copies.replicated(folder, store)
    return len(counted.calls)


@pytest.mark.parametrize("error", SAYS, ids=lambda error: errno.errorcode[error])
def test_a_failing_store_is_told_and_tried_again_and_nothing_else_is_hurt(
    error: int, tmp_path: Path, quick_disk: None
) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10,))
    before = _bytes_of(folder)
    calls = _calls_of_a_copy(folder, tmp_path / "counted")
    failed = 0
    for at in range(calls):
        for for_good in (False, True) if at % 3 == list(SAYS).index(error) % 3 else ():
            store = FolderStore(tmp_path / "copy")
            store.disk = failing = FailingDisk(at, error, for_good=for_good)
            store.lease_every = 0.0  # so that it is also renewed between any two pieces
            said = copies.Said()
            replication = Replication(folder, store, 3, said)
            states = _tried(replication)
            failed += bool(states)
            if for_good and failing.failed:
                assert not replication.finished or "confirmed" in said.states("00000010-a1")
                assert set(states) <= {"full" if error in (errno.ENOSPC, errno.EDQUOT) else "waiting"}
                store.disk = DISK  # somebody has mended it
                assert _tried(replication) == []
            assert is_complete(folder, tmp_path / "copy", "00000010-a1")
            assert said.states("00000010-a1")[-1] == "confirmed"
            shutil.rmtree(tmp_path / "copy")
    assert _bytes_of(folder) == before
    assert failed > calls / 3
    print(f"\n{errno.errorcode[error]}: {failed} copies failed at every third of {calls} calls; all told, none lost")


def _tried(replication: Replication) -> list[str]:
    """Turn as the process does, a few times; the trouble that there was."""
    states = []
    for _ in range(12):
        try:
            if not replication.turn(ended=True) and replication.finished:
                break
        except OSError as error:
            states.append(trouble(error, "there")[0])
    return states


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_store_says_what_is_needed_and_what_is_free_and_makes_room(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10,))
    store = FolderStore(tmp_path / "copy")
    replication = Replication(folder, store, 3, copies.Said())
    copies.copy_all(replication)
    for step in (20, 30):
        scenes.save(folder / "checkpoints", step)
        copies.copy_all(replication)
    assert len(store.names("kwanzaa/checkpoints")) == 3
    scenes.save(folder / "checkpoints", 40)
    store.free = lambda: 1000  # type: ignore[method-assign]
    with pytest.raises(Full) as full:
        copies.copy_all(replication)
    state, _, message = trouble(full.value, "/content/drive/MyDrive/colab_magics")
    assert state == "full"
    assert "needs 6.8 kB, 1.0 kB is free" in message
    assert "trash" in message
    assert [item.name for item in store.names("kwanzaa/checkpoints")] == ["00000030-a1"], (
        "room was made, as far as it goes"
    )
    del store.free  # type: ignore[method-assign]
    copies.copy_all(replication)
    assert replication.newest_standing == "confirmed"


@pytest.mark.parametrize(
    ("code", "state", "said"),
    [
        (errno.ENOSPC, "full", "/copy is full."),
        (errno.EROFS, "waiting", "/copy is read-only, and nothing can be written there."),
        (errno.EACCES, "waiting", "/copy may not be written to: Permission denied."),
        (errno.ENOTCONN, "waiting", "/copy does not answer: "),
    ],
)
def test_a_trouble_is_told_by_its_name_and_anew_once_the_training_has_ended(code: int, state: str, said: str) -> None:
    error = OSError(code, os.strerror(code))
    going, ended = trouble(error, "/copy"), trouble(error, "/copy", ended=True)
    assert (going[0], ended[0]) == (state, state)
    assert going[1] != ended[1]
    for message in (going[2], ended[2]):
        assert message.startswith(said)
    assert "The training goes on." in going[2]
    assert "training" not in ended[2]
    assert "It is tried again." in ended[2]


def test_the_pause_between_two_tries_ends_with_the_training(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    lock = worker.hold_lock(folder)
    assert lock is not None
    threading.Timer(0.2, os.close, [lock]).start()
    Job(folder, "/copy", 3, Teller(folder, "/copy"), None)._rest(3600.0, ended=False)
    assert not worker.is_alive(folder)


def test_the_same_trouble_is_told_once(tmp_path: Path) -> None:
    teller = Teller(tmp_path, "s3://bucket")
    for _ in range(5):
        teller.say("copying", checkpoint="a", step=1, done=0, total=100)
        teller.say("copying", checkpoint="a", step=1, done=50, total=100)
        teller.say("full", message="s3://bucket is full.")
    assert [one["state"] for one in copies.news(tmp_path)] == ["copying", "full"]
    teller.say("confirmed", checkpoint="a", step=1)
    teller.say("full", message="s3://bucket is full.")
    assert [one["state"] for one in copies.news(tmp_path)] == ["copying", "full", "confirmed", "full"]


def test_a_secret_in_an_error_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-key")
    Teller(tmp_path, "s3://me:planted@bucket/x?key=planted").say(
        "waiting", message="denied for planted-secret-key and hf_plantedplanted"
    )
    assert "planted" not in (tmp_path / "replica.jsonl").read_text()


def test_a_failed_deletion_is_a_warning_and_no_more(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10,))
    store = FolderStore(tmp_path / "copy")
    said = copies.Said()
    replication = Replication(folder, store, 1, said)
    copies.copy_all(replication, ended=False)
    (tmp_path / "copy/kwanzaa/checkpoints/00000010-a1/a folder").mkdir()
    scenes.save(folder / "checkpoints", 20)
    copies.copy_all(replication, ended=False)
    assert said.states("00000020-a1") == ["confirmed"]
    assert any(
        "00000010-a1 could not be deleted" in one.get("message", "") for one in said.all if one["state"] == "warning"
    )


def test_folders_of_other_runs_are_never_deleted(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(30,))
    checkpoints = tmp_path / "copy" / "kwanzaa" / "checkpoints"
    checkpoints.mkdir(parents=True)
    scenes.save(checkpoints, 10)
    store = FolderStore(tmp_path / "copy")
    copies.replicated(folder, store)
    scenes.save(checkpoints, 20, run=scenes.OTHER_RUN)
    (checkpoints / "00000005-a1").mkdir()
    (checkpoints / "00000005-a1" / "mine.txt").write_text("a person's")
    scenes.save(folder / "checkpoints", 40)
    copies.replicated(folder, store, limit=1)
    assert sorted(os.listdir(checkpoints)) == ["00000005-a1", "00000020-a1", "00000040-a1"]


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes every connection and never answers: what a hung mount is to a file, this is to an object."""
    listening = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                kept.append(listening.accept()[0])
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()


def test_a_store_that_hangs_is_told_and_hangs_nothing_else(
    deaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    keys = {"AWS_ENDPOINT_URL": deaf, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    folder = copies.make_run(tmp_path / "runs")
    lock = worker.hold_lock(folder)
    assert lock is not None
    copy = process(folder, "s3://bucket/runs", "--limit", "3", "--patience", "0.5", "--bound", "0.5")
    copies.wait_for(lambda: any(one["state"] == "waiting" for one in copies.news(folder)))
    assert copy.poll() is None
    with pytest.raises(ColabMagicsError, match="does not answer"):
        remote.look("s3://bucket/runs", timeout=1.5)
    os.close(lock)  # the training has ended: the copy is given up when its time is over, hung or not
    assert copy.wait(60) == 1
    assert {one["state"] for one in copies.news(folder)} == {"waiting", "given up"}
    comforts = ["The training goes on" in one["message"] for one in copies.news(folder)]
    assert comforts == sorted(comforts, reverse=True)
    assert not comforts[-1]


def test_no_plain_folder_appears_where_a_mount_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copies.make_run(tmp_path / "runs")
    point = tmp_path / "disk"
    point.mkdir()
    there = [Mount(PurePath("/"), "ext4", "a"), Mount(PurePath(point), "ext4", "b")]
    monkeypatch.setattr("colab_magics.checkpoints.mounts.mounts", lambda *_: there)
    monkeypatch.setattr("colab_magics.checkpoints.folders.mounts", lambda *_: there)
    store = FolderStore(point / "copies")
    replication = Replication(folder, store, 3, copies.Said())
    copies.copy_all(replication, ended=False)
    scenes.save(folder / "checkpoints", 20)
    there.pop()  # the disk is gone, and its folder is an empty one of the disk below
    shutil.rmtree(point)
    point.mkdir()
    for store_again in (store, FolderStore(point / "copies", known=[PurePath(store.mount_point)])):
        with pytest.raises(OSError, match="nothing is mounted"):
            Replication(folder, store_again, 3, copies.Said()).turn(ended=False)
    with pytest.raises(OSError, match="nothing is mounted"):
        replication.turn(ended=False)
    assert os.listdir(point) == []
    there.append(Mount(PurePath(point), "ext4", "b"))
    copies.copy_all(replication, ended=False)
    assert replication.newest_standing == "confirmed"


def test_an_unmounted_drive_is_waited_for(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    copy = process(folder, "/content/drive/MyDrive/colab_magics", "--bound", "0.1")
    assert copy.wait(60) == 1
    assert [one["state"] for one in copies.news(folder)] == ["waiting", "given up"]
    assert "nothing is mounted on /content/drive" in copies.news(folder)[0]["message"]
    assert not Path("/content/drive/MyDrive").exists()


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_near_the_session_s_end_it_gives_up_and_names_what_is_not_copied(tmp_path: Path, end: str) -> None:
    folder = copies.make_run(tmp_path / "runs")
    copies.say(folder, end, session_left=60.5)
    assert process(folder, "/content/drive/MyDrive/colab_magics").wait(60) == 1
    told = copies.news(folder)[-1]
    assert told["state"] == "given up"
    assert told["message"] == (
        "The session ends: the last checkpoint (00000010-a1) is not copied: /content/drive/MyDrive/colab_magics."
    )


def test_a_copy_that_is_refused_goes_on_when_the_other_session_is_gone(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = FolderStore(tmp_path / "copy")
    store.ready()
    lease = Lease(copies.RUN, 1, host="another-machine", boot_id="another-boot")
    store.put("kwanzaa/LEASE.json", lease.to_json())
    copy = replica.start(folder, str(tmp_path / "copy"), 3)
    copies.wait_for(lambda: any(one["state"] == "refused" for one in copies.news(folder)))
    assert os.listdir(tmp_path / "copy" / "kwanzaa") == ["LEASE.json"]
    (tmp_path / "copy" / "kwanzaa" / "LEASE.json").unlink()
    assert copy.wait(60) == 0
    assert [one["state"] for one in copies.news(folder)].count("refused") == 1
    assert is_complete(folder, tmp_path / "copy", "00000010-a1")


def test_the_log_is_cut_at_a_whole_line_and_only_added_to(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = FolderStore(tmp_path / "copy")
    replication = Replication(folder, store, 3, copies.Said())
    copies.copy_all(replication)
    log = tmp_path / "copy" / "kwanzaa" / "events.jsonl"
    number = log.stat().st_ino
    copies.say(folder, "step", step=11, loss=1.0)
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "st')
    copies.copy_all(replication)
    assert log.stat().st_ino == number
    assert [event["kind"] for event in read_events(log)] == ["started", "checkpoint", "step"]
    assert log.read_bytes().endswith(b"\n")
    assert json.loads(log.read_bytes().splitlines()[-1])["step"] == 11


def test_amounts_are_words() -> None:
    assert [amount(size) for size in (12, 6_800, 2_500_000, 3 * 10**9)] == ["12 bytes", "6.8 kB", "2.5 MB", "3.0 GB"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory of the size that is asked for, in the place of the one before."""
    point = tmp_path / "disk"
    point.mkdir()

    def mount(size: str) -> Path:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip(f"nothing can be mounted here: {made.stderr.decode().strip()}")
        return point

    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a disk")
    yield mount
    while subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False).returncode == 0:
        pass


def test_a_real_disk_that_fills_vanishes_and_comes_back(mounted: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=())
    scenes.save(folder / "checkpoints", 10, numbers=90_000)
    before = _bytes_of(folder)
    point = mounted("1200k")
    store = FolderStore(point / "copies", run_folder=folder)
    replication = Replication(folder, store, 3, copies.Said())
    with pytest.raises(Full) as known:  # before a byte is written
        copies.copy_all(replication)
    assert known.value.need > 1_400_000
    store.free = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Full):  # by the disk itself
        copies.copy_all(replication)
    assert scenes.hidden(point / "copies" / "kwanzaa" / "checkpoints") == []
    subprocess.run(["umount", str(point)], check=True)
    with pytest.raises(OSError, match="nothing is mounted"):
        copies.copy_all(replication)
    assert os.listdir(point) == []
    mounted("8m")
    copies.copy_all(Replication(folder, store, 3, copies.Said()))
    assert is_complete(folder, point / "copies", "00000010-a1")
    assert _bytes_of(folder) == before
