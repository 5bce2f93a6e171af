"""The machine's memory, within its container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from colab_magics.memory.host import host_memory

pytestmark = pytest.mark.face


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_a_container_it_is_the_machine_s(tmp_path: Path) -> None:
    assert host_memory(tmp_path).total == psutil.virtual_memory().total


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    _write(tmp_path, memory__max="max\n", memory__current="1000\n", memory__stat="anon 700\ninactive_file 300\n")
    assert host_memory(tmp_path).total == psutil.virtual_memory().total


def test_a_container_s_limit_counts_before_the_machine_s_memory(tmp_path: Path) -> None:
    _write(tmp_path, memory__max="5000\n", memory__current="1000\n", memory__stat="anon 700\ninactive_file 300\n")
    host = host_memory(tmp_path)
    assert (host.total, host.free, host.used) == (5000, 4300, 700)


@pytest.mark.parametrize(("limit", "total"), [("5000\n", 5000), ("9223372036854771712\n", None)])
def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path, limit: str, total: int | None) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 300\n"
    _write(tmp_path / "memory", memory__limit_in_bytes=limit, memory__usage_in_bytes="1000\n", memory__stat=stat)
    host = host_memory(tmp_path)
    assert host.total == (total or psutil.virtual_memory().total)
    if total:
        assert host.used == 700


def test_a_limit_above_the_machine_s_memory_is_none(tmp_path: Path) -> None:
    _write(tmp_path, memory__max=f"{2**60}\n", memory__current="1000\n", memory__stat="inactive_file 0\n")
    assert host_memory(tmp_path).total == psutil.virtual_memory().total
