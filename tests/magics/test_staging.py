"""What a killed export leaves is removed by the next one, and what another is at work on is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colab_magics.magics.parcel import Part, pack
from colab_magics.magics.staging import beside, sweep
from colab_magics.worker import start_time

pytestmark = [pytest.mark.colab, pytest.mark.face]

DIES = """
import os, signal, sys
from pathlib import Path
from colab_magics.magics.staging import beside
folder = Path(sys.argv[1])
beside(folder / "out.zip").write_bytes(b"half")
staging = beside(folder / "merged")
staging.mkdir()
(staging / "model.safetensors").write_bytes(b"half")
if len(sys.argv) > 2:
    aside = beside(folder / "out", aside=True)
    aside.mkdir()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_export_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    pack(tmp_path / "other.zip", [Part("README.md", text=b"words")])
    assert [path.name for path in tmp_path.iterdir()] == ["other.zip"]


def test_an_export_that_was_killed_while_it_stood_aside_gets_its_name_back(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path), "aside"], check=False)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_the_living_write_stays_and_so_do_files_of_others(tmp_path: Path) -> None:
    mine = beside(tmp_path / "out")
    mine.mkdir()
    names = [".bashrc", ".out.69b1769d", ".a.b-c-d", ".config.12345678-notes-ab"]
    for name in names:
        (tmp_path / name).write_text("mine")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, *names}


def test_what_another_machine_writes_stays_for_a_day(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()  # its number says nothing of who lives elsewhere
    path = tmp_path / f".out.zip.0000abcd-{ended.pid}-ab12"
    path.write_bytes(b"half")
    sweep(tmp_path)
    assert path.exists()
    os.utime(path, (time.time() - 25 * 3600,) * 2)
    sweep(tmp_path)
    assert not path.exists()


def test_a_number_that_went_to_another_process_keeps_nothing(tmp_path: Path) -> None:
    path = beside(tmp_path / "out.zip")
    path.write_bytes(b"half")
    os.utime(path, (1, 1))  # long before this process began
    sweep(tmp_path)
    assert not path.exists()


def test_a_disk_whose_clock_is_behind_loses_nothing_of_the_living(tmp_path: Path) -> None:
    path = beside(tmp_path / "out.zip")
    path.write_bytes(b"half")
    began = start_time(os.getpid())
    assert began is not None
    os.utime(path, (began - 30,) * 2)
    sweep(tmp_path)
    assert path.exists()
