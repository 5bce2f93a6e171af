"""A clock that neither a suspended machine nor NTP can bend, and when this machine was started by it."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol


class Clock(Hashable, Protocol):
    """What a session is timed by."""

    def now(self) -> float:
        """Seconds since the boot, suspended ones included."""

    def started(self) -> float:
        """When this machine, or its container, was started, on the clock of `now`."""

    def boot(self) -> str:
        """What tells this life of the machine from any other."""

    def wall(self) -> datetime:
        """The time of day, with its offset."""


@dataclass(frozen=True)
class BootClock:
    """The kernel's own.

    The start is that of process 1: the container's first, or the machine's. A platform may have started the machine
    before it gave it to anybody, so that an age counted from there is an upper bound.
    """

    proc: Path = Path("/proc")

    def now(self) -> float:
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        import psutil  # not Linux: the wall clock has to do

        return time.time() - float(psutil.boot_time())

    def started(self) -> float:
        return self._first_ticks() / os.sysconf("SC_CLK_TCK")

    def boot(self) -> str:
        """The boot, and the container in it: both are new where a session is."""
        try:
            boot = (self.proc / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            boot = "unknown"
        return f"{boot}+{self._first_ticks()}"

    def wall(self) -> datetime:
        return datetime.now().astimezone()

    def _first_ticks(self) -> int:
        try:
            stat = (self.proc / "1/stat").read_text()
            # the name, in brackets, may itself hold blanks and brackets; field 22 is the 20th after it
            return int(stat.rpartition(")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            return 0  # hidden from us: the boot is an upper bound too


@lru_cache(maxsize=16)
def on_boot_clock(moment: datetime, clock: Clock) -> float:
    """A moment of the wall clock on the clock that does not jump; asked once, so that a later jump changes nothing."""
    return clock.now() + (moment - clock.wall()).total_seconds()
