"""The machine's facts: gathered without waiting for anything that may hang."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from colab_magics.checkpoints.mounts import Mount
from colab_magics.magics import session_facts
from colab_magics.magics.moments import now_at
from colab_magics.magics.session_facts import DriveLook, MachineFlags, facts
from colab_magics.panel.parts import Gpu, Memory
from colab_magics.panel.state import PanelState
from colab_magics.session.flags import Facts, Usage
from colab_magics.session.here import Session
from colab_magics.session.table import Platform

pytestmark = pytest.mark.face

OTHER_DISK = Path("/dev/shm")  # a file system of another size than the root's


@pytest.fixture
def hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose every call hangs, as one on a dead mount does."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 20\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system")
def test_a_drives_account_is_told_by_a_child_and_asked_for_again_only_after_minutes() -> None:
    look = DriveLook()
    found = look.look(OTHER_DISK, wait=20)
    assert found is not None
    assert 0 <= found.used <= found.total
    begin = look._at
    assert look.look(OTHER_DISK) is found
    assert look._at == begin


def test_a_mount_that_only_repeats_the_machines_disk_says_nothing_of_the_account() -> None:
    look = DriveLook()
    assert look.look(Path("/"), wait=20) is None
    assert look.state == "mounted"


def test_no_call_waits_for_a_drive_that_hangs(hung: None) -> None:
    look = DriveLook(patience=0.3)
    assert look.look(OTHER_DISK) is None
    assert look.state == "waiting", "it may still answer, and is not called healthy"
    assert look.look(OTHER_DISK, wait=5) is None
    assert look.state == "silent"


def test_a_drive_that_is_gone_is_forgotten() -> None:
    look = DriveLook()
    look.found = Usage("Drive", 1, 2)
    assert look.look(None) is None


@pytest.mark.skipif(not OTHER_DISK.is_dir(), reason="there is no second file system")
def test_a_volume_that_outlives_the_session_is_told_where_the_notebook_is_on_another_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    volume = Session(Platform("mine", "Mine", "2026-10-01", persistent=str(OTHER_DISK)))
    found = facts(volume, wait=20).storage
    assert found is not None
    assert found.name == str(OTHER_DISK)
    monkeypatch.chdir(OTHER_DISK)
    assert facts(volume).storage is None, "it is the notebook's own disk"
    assert facts(Session(replace(volume.platform, persistent="/content/drive/MyDrive"))).storage is None


def test_a_notebook_on_a_network_has_its_disk_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    known = facts(None)
    assert known.disk is not None
    assert known.disk.name == str(tmp_path)
    assert known.ram is not None
    monkeypatch.setattr(session_facts, "mounts", lambda: [Mount(PurePath("/"), "nfs4", "server")])
    assert facts(None).disk is None


def test_a_panel_asks_often_and_the_machine_is_looked_at_twice_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def full(*_: object, **__: object) -> Facts:
        looked.append(time.monotonic())
        return Facts(disk=Usage("/content", 77e9, 78e9))

    monkeypatch.setattr(session_facts, "facts", full)
    machine = MachineFlags()
    first = machine.now()
    assert [machine.now() for _ in range(50)] == [first] * 50
    assert len(looked) == 1
    assert first == (
        "The disk of /content: 77.0 of 78.0 GB are used. %checkpoint prune deletes checkpoints that are not needed.",
    )


def test_thresholds_that_you_set_count_and_a_broken_file_of_yours_stops_no_panel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "session.toml"
    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(own))
    drive = Facts(drive=Usage("Drive", 11e9, 15e9))
    assert len(session_facts.raised(drive)) == 1
    own.write_text('[thresholds]\ndrive = "12 GB"\n')
    assert session_facts.raised(drive) == ()
    own.write_text('[thresholds]\ndrive = "12 hous"\n')
    assert len(session_facts.raised(drive)) == 1


def test_a_panels_moment_has_the_flags_of_its_own_run_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_facts, "facts", lambda _: Facts())
    monkeypatch.setattr("colab_magics.magics.moments.MACHINE_FLAGS", MachineFlags())
    long = PanelState(name="kwanzaa", phase="training", began_clock=time.time() - 9 * 3600)
    full = replace(long, memory=Memory(gpus=(Gpu(0, "Tesla T4", total=15e9, used=14.9e9),)))
    assert [flag.partition(".")[0] for flag in now_at(full).flags] == [
        "Tesla T4: 13",
        "kwanzaa has been training for 9 h",
    ]
    assert len(now_at(long).flags) == 1
    assert now_at(replace(long, phase="finished")).flags == ()
    assert now_at(PanelState()).flags == ()
