"""Two sessions do not copy one run to one place, and a dead one stands in nobody's way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints import copies, scenes
from colab_magics import worker
from colab_magics.checkpoints import remote
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.lease import STALE, Lease, Refused, held, take
from colab_magics.checkpoints.replica.copying import Replication
from colab_magics.checkpoints.stores import LEASE


@pytest.fixture
def theirs() -> Lease:
    """The lease of a living session of another machine."""
    return Lease(copies.RUN, 1, host="another-machine", boot_id="another-boot", pid=7, start_time=1.0)


def test_a_living_lease_of_another_session_is_refused_and_nothing_is_written(tmp_path: Path, theirs: Lease) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = FolderStore(tmp_path / "copy")
    store.ready()
    take(store, "kwanzaa", theirs)
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "copy").rglob("*"))
    with pytest.raises(Refused, match="process 7 on another-machine"):
        Replication(folder, store, 3, copies.Said()).turn(ended=False)
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "copy").rglob("*")) == before
    (found,) = remote.look(str(tmp_path / "copy"))
    assert found.lease == theirs


def test_another_run_of_that_name_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "copy")
    copies.replicated(copies.make_run(tmp_path / "first", run=scenes.OTHER_RUN), store)
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    folder = copies.make_run(tmp_path / "second", steps=(10, 20, 30))
    with pytest.raises(Refused, match=scenes.OTHER_RUN):
        Replication(folder, store, 1, copies.Said()).turn(ended=False)
    assert {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("missing", ["events.jsonl", "checkpoints", "prepared"])
def test_another_run_is_known_by_whatever_is_left_of_it(missing: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "copy")
    copies.replicated(copies.make_run(tmp_path / "first", run=scenes.OTHER_RUN), store)
    for one in {"events.jsonl", "checkpoints", "prepared"} - {missing}:
        place = tmp_path / "copy" / "kwanzaa" / one
        place.rename(tmp_path / one)
    with pytest.raises(Refused):
        Replication(copies.make_run(tmp_path / "second"), store, 1, copies.Said()).turn(ended=False)


def test_a_lease_is_stale_after_ten_minutes_or_when_it_is_of_the_future(theirs: Lease) -> None:
    now = time.time()
    assert replace(theirs, time=now - STALE + 5).is_living()
    assert not replace(theirs, time=now - STALE - 5).is_living()
    assert replace(theirs, time=now + 60).is_living()
    assert not replace(theirs, time=now + STALE + 60).is_living()


def test_a_lease_of_a_dead_process_of_this_machine_is_stale_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        lease = Lease(copies.RUN, 1, pid=process.pid, start_time=worker.start_time(process.pid))
        assert lease.is_living()
        process.kill()
        process.wait()
    assert not lease.is_living()
    assert not Lease(copies.RUN, 1, pid=os.getpid(), start_time=1.0).is_living(), "the pid was given anew"
    store = FolderStore(tmp_path / "copy")
    store.ready()
    store.put("kwanzaa/LEASE.json", lease.to_json())
    copies.replicated(copies.make_run(tmp_path / "runs"), store)


def test_a_lease_that_is_taken_over_ends_the_copy_under_way(tmp_path: Path, theirs: Lease) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = FolderStore(tmp_path / "copy")
    replication = Replication(folder, store, 3, copies.Said())
    assert replication.turn(ended=False)
    store.lease_every = 0.0
    store.put(f"kwanzaa/{LEASE}", theirs.to_json())
    with pytest.raises(Refused):
        replication.turn(ended=False)
    replication.close()
    assert held(store, "kwanzaa") == theirs, "it is not ours to give back"


def test_a_lease_is_renewed_in_its_place_and_made_anew_where_somebody_took_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "copy")
    store.ready()
    lease = Lease(copies.RUN, 1)
    take(store, "kwanzaa", lease)
    path = tmp_path / "copy" / "kwanzaa" / LEASE
    number = path.stat().st_ino
    take(store, "kwanzaa", replace(lease, time=lease.time + 61.25))
    assert path.stat().st_ino == number, "a Drive keeps every file that was replaced in its trash"
    assert held(store, "kwanzaa") == replace(lease, time=lease.time + 61.25)
    path.unlink()
    take(store, "kwanzaa", lease)
    assert held(store, "kwanzaa") == lease


def test_a_lease_is_given_back_at_a_good_end(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "copy")
    copies.replicated(copies.make_run(tmp_path / "runs"), store)
    assert held(store, "kwanzaa") is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"run": 1}', b"[" * 10_000, b'{"time": 1e999}', b"\xff"])
def test_what_is_no_lease_is_none(text: bytes) -> None:
    assert Lease.from_json(text) is None
