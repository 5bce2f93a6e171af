"""The machine's own clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from colab_magics.session.clock import BootClock

pytestmark = pytest.mark.face

TICK = os.sysconf("SC_CLK_TCK")


def proc(folder: Path, stat: str | None, boot: str | None = "0b5e-boot") -> BootClock:
    """A /proc in which process 1 is as `stat` says."""
    if stat is not None:
        (folder / "1").mkdir()
        (folder / "1/stat").write_text(stat)
    if boot is not None:
        (folder / "sys/kernel/random").mkdir(parents=True)
        (folder / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
    return BootClock(folder)


def stat_of(name: str, ticks: int) -> str:
    between = " ".join(["0"] * 18)
    return f"1 ({name}) S {between} {ticks} 9437184 1200 18446744073709551615\n"


def test_this_machine_was_started_before_now_and_where_psutil_puts_it() -> None:
    clock = BootClock()
    age = clock.now() - clock.started()
    assert age > 0
    first = psutil.Process(1).create_time()
    assert age == pytest.approx(time.time() - first, abs=120), "the wall clock may have been set since"


def test_the_clock_goes_on_and_never_back() -> None:
    clock = BootClock()
    seen = [clock.now() for _ in range(100)]
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["systemd", "docker-init", "a (strange) name) 7 8 9", "tini --"])
def test_the_start_is_read_whatever_the_first_process_is_called(tmp_path: Path, name: str) -> None:
    assert proc(tmp_path, stat_of(name, 250 * TICK)).started() == 250


@pytest.mark.parametrize("stat", [None, "", "1 (init) S 0 0", "1 (init) S " + "x " * 30])
def test_where_the_first_process_is_hidden_the_boot_counts(tmp_path: Path, stat: str | None) -> None:
    assert proc(tmp_path, stat).started() == 0


def test_a_container_in_the_same_boot_is_another_life(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = proc(tmp_path / "one", stat_of("init", 100)), proc(tmp_path / "two", stat_of("init", 900))
    assert first.boot() != second.boot()
    assert first.boot() == BootClock(tmp_path / "one").boot()


def test_a_machine_that_tells_no_boot_still_has_a_life(tmp_path: Path) -> None:
    assert proc(tmp_path, None, boot=None).boot() == "unknown+0"
