"""`max_memory`: beyond it an allocation fails as on a full device, and the loop does the step again, smaller.

On a GPU torch's allocator counts what it has reserved, and refuses the rest. The CUDA context (0.13 GiB on a T4) is not
counted, nor what other processes hold: a card that is full before the cap is reached is just full.

On a CPU torch counts nothing, and the system's answer to a process that takes too much is to kill it without a word.
RLIMIT_DATA (Linux) makes it answer the allocation instead: malloc returns nothing and torch raises. It counts private
writable memory whether touched or not, which here is what was allocated, the stacks of threads, and, of files, the
weights that safetensors maps.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_REQUESTED = re.compile(r"tried to allocate (\d+) bytes")


def cap_gpu(cap: int, device: torch.device) -> None:
    """Let torch reserve no more than `cap` bytes of the GPU; it makes a CUDA context."""
    # of what CUDA calls the total: the driver's own figure is some percent larger
    _, total = torch.cuda.mem_get_info(device)
    if cap < total:
        torch.cuda.set_per_process_memory_fraction(cap / total, device)


class HostCap:
    """Holds this process to `cap` bytes beyond what it has when this is made.

    Attributes
    ----------
    works : bool
        Whether this system can do so.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._base = _data() or 0
        self._limits: tuple[int, int] | None = None
        with suppress(ImportError):  # Windows has no such module
            import resource

            self._limits = None if _data() is None else resource.getrlimit(resource.RLIMIT_DATA)
        self.works = self._limits is not None

    def for_loading(self, files: int) -> None:
        """Weights are read through mappings of their `files` bytes, which count and are given back in the end."""
        self._limit(self._base + self._cap + files)

    def for_training(self, weights: int) -> None:
        """What is left of the cap beside `weights` bytes; whatever else loading has left is not charged for."""
        self._base = (_data() or 0) - weights
        self._limit(self._base + self._cap)

    def lift(self) -> None:
        if self._limits is not None:
            self._limit(self._limits[0])

    def record(self, message: str) -> dict[str, Any]:
        """Bytes asked for, that are allowed, that are held of them (mapped files, too, while loading), and free."""
        found = _REQUESTED.search(message)
        held = max(0, (_data() or 0) - self._base)
        return {
            "requested": int(found.group(1)) if found else None,
            "allocated": held,
            "total": self._cap,
            "free": max(0, self._cap - held),
        }

    def _limit(self, wanted: int) -> None:
        if self._limits is None:
            return
        import resource

        before, most = self._limits
        if before != resource.RLIM_INFINITY:
            wanted = min(wanted, before)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _data() -> int | None:
    """Bytes that RLIMIT_DATA counts of this process; None where nobody tells."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


_host: HostCap | None = None


def cap_host(cap: int) -> HostCap:
    """Hold this process to `cap` bytes beyond what it has now, once `for_loading` or `for_training` is called."""
    global _host  # a process has one such limit, and an out-of-memory anywhere in it is told with it
    _host = HostCap(cap)
    return _host


def record(message: str) -> dict[str, Any] | None:
    """What a capped CPU had when `message` came; None where there is no cap."""
    return _host.record(message) if _host is not None and _host.works else None
