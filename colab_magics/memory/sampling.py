"""Memory while a run goes on: looked at once a second beside the training, told when it has moved.

A thread of its own asks the driver and the kernel; peaks come from torch's own counters and not from here. It knows
no torch: what torch alone can tell, training passes in as functions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from colab_magics.memory.host import Host, host_memory
from colab_magics.memory.nvml import Reading

EVERY = 1.0  # seconds between two looks
_AT_LEAST_EVERY = 30.0  # seconds between two events, however little has moved
_MOVED = 0.01  # of a figure's total
_LEAVING = 2.0  # seconds that stop() waits for a driver that does not answer
_ALLOCATOR = ("allocated", "reserved", "peak")


@dataclass(frozen=True)
class _Sample:
    devices: Sequence[Reading]
    allocator: Mapping[str, int]
    host: Host
    rss: int

    def figures(self) -> list[tuple[int | None, int]]:
        """Each figure in bytes, with the total it is measured against."""
        card = next((one.total for one in self.devices if one.total), self.host.total)
        return [
            *((one.used, one.total or 0) for one in self.devices),
            *((self.allocator.get(name), card) for name in _ALLOCATOR),
            (self.host.used, self.host.total),
            (self.rss, self.host.total),
        ]


class Sampler:
    """Writes `memory` events from a daemon thread. `start` and `stop` may be called twice.

    Parameters
    ----------
    tell : called as tell(kind, **fields), from the thread
    devices : reads the GPUs (`Cards.read`); an empty list where the run trains on the CPU
    allocator : bytes `allocated`, `reserved` and `peak` of torch's allocator, as far as torch can tell
    clock : seconds, for the time between two events
    """

    def __init__(
        self,
        tell: Callable[..., None],
        devices: Callable[[], Sequence[Reading]] = list,
        allocator: Callable[[], Mapping[str, int]] = dict,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._devices, self._allocator, self._clock = tell, devices, allocator, clock
        self._process: Any = None
        self._told: tuple[float, _Sample] | None = None
        self._busy: list[list[float]] = []  # of each device, its utilisation since the last event
        self._lost: set[int] = set()
        self._seen: set[int] = set()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.own_seconds = 0.0
        """CPU time that sampling has taken."""

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Tell the last state and end; a driver that does not answer is not waited for, and tells nothing any more."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_LEAVING)
        with self._lock:
            self._tell = _nothing

    def sample(self, *, last: bool = False) -> None:
        """Look once, and tell what has moved; the last look is told whatever it shows."""
        import psutil

        begin = time.thread_time()
        if self._process is None:
            self._process = psutil.Process()
            self._process.cpu_percent()  # it counts from one call to the next
        now = _Sample(self._devices(), self._allocator(), host_memory(), int(self._process.memory_info().rss))
        self._look_for_losses(now.devices)
        self._busy += [[] for _ in now.devices[len(self._busy) :]]
        for shares, reading in zip(self._busy, now.devices, strict=False):
            if reading.utilisation is not None:
                shares.append(reading.utilisation)
        if last or self._is_due(now):
            first = self._told is None
            self._told = (self._clock(), now)
            self._write(now, cpu=None if first else self._process.cpu_percent())
            self._busy = []
        self.own_seconds += time.thread_time() - begin

    def _run(self) -> None:
        try:
            self.sample()
            while not self._ending.wait(EVERY):
                self.sample()
            self.sample(last=True)
        except Exception as error:
            # figures are missing then; the training is not
            self._say("warning", message=f"memory is no longer watched: {type(error).__name__}: {error}")

    def _is_due(self, now: _Sample) -> bool:
        if self._told is None:
            return True
        when, before = self._told
        if self._clock() - when >= _AT_LEAST_EVERY or len(now.devices) != len(before.devices):
            return True
        return any(
            (was is None) != (this is None)
            or (was is not None and this is not None and abs(this - was) >= _MOVED * max(total, 1))
            for (was, _), (this, total) in zip(before.figures(), now.figures(), strict=True)
        )

    def _look_for_losses(self, devices: Sequence[Reading]) -> None:
        for reading in devices:
            if reading.total is not None:
                self._seen.add(reading.index)
            elif reading.index in self._seen - self._lost:
                self._lost.add(reading.index)
                name = reading.name or "it"
                message = f"GPU {reading.index} ({name}) no longer answers its driver; its memory cannot be shown"
                self._say("warning", message=message)

    def _write(self, now: _Sample, cpu: float | None) -> None:
        devices = [
            {
                "index": one.index,
                "name": one.name,
                "total": one.total,
                "used": one.used,
                # one look says little of a second; the mean of all since the last event does
                "utilisation": round(fmean(shares), 1) if shares else None,
                "temperature": one.temperature,
                "power": one.power,
            }
            for one, shares in zip(now.devices, self._busy, strict=False)
        ]
        self._say(
            "memory",
            devices=devices,
            **{name: now.allocator.get(name) for name in _ALLOCATOR},
            host={"total": now.host.total, "used": now.host.used},
            rss=now.rss,
            cpu=cpu,
        )

    def _say(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._tell(kind, **fields)


def _nothing(_kind: str, **_fields: Any) -> None: ...
