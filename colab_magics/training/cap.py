"""`max_memory`: beyond it an allocation fails as on a full device, and the loop does the step again, smaller.

On a GPU torch's allocator counts what it has reserved, and refuses the rest. The CUDA context (0.13 GiB on a T4) is not
counted, nor what other processes hold: a card that is full before the cap is reached is just full.

On a CPU torch counts nothing, and the system's answer to a process that takes too much is to kill it without a word.
RLIMIT_DATA (Linux) makes it answer the allocation instead: malloc returns nothing and torch raises. It counts private
writable memory whether touched or not, which here is what was allocated, the stacks of threads, and, of files, the
weights that safetensors maps. A plan counts tensors. So what else a training brings is not charged to the cap: the
libraries are imported before it is measured from, and a little is allowed beside it.

Whatever is small (Python's objects, a graph's nodes, a new thread's first steps) must find memory also at the moment
when a tensor did not: an exception in the wrong place ends the process, or hangs it (CPython waits for ever for a
thread that could not begin). So malloc is told to map every large block by itself, which is given back the moment it is
free, to serve all threads from one heap, and to keep some of that heap in reserve, of which no tensor gets a byte.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_REQUESTED = re.compile(r"tried to allocate (\d+) bytes")

_LARGE = 256 * 2**10
_RESERVE = 16 * 2**20
# What steps take beside their tensors: holes in the heap, nodes of the graph, the stack of a thread. After the first
# step of a small model it was 6 MiB.
_BESIDE = 8 * 2**20
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # glibc's malloc.h


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
        _start_threads()
        _keep_a_reserve()
        self._base = self._allowed = _data() or 0
        self._limits: tuple[int, int] | None = None
        with suppress(ImportError):  # Windows has no such module
            import resource

            self._limits = None if _data() is None else resource.getrlimit(resource.RLIMIT_DATA)
        self.works = self._limits is not None

    def for_loading(self, files: int) -> None:
        """Weights are read through mappings of their `files` bytes, which count and are given back in the end."""
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # one tensor at a time: transformers' threads have 8 MiB stacks
        self._hold(files)

    def for_training(self, weights: int) -> None:
        """What is left of the cap beside `weights` bytes; whatever else loading has left is not charged for.

        Raises
        ------
        torch.OutOfMemoryError
            When the weights alone are more than the cap.
        """
        if weights > self._cap:
            raise torch.OutOfMemoryError(f"The weights take {weights:,} bytes, and max_memory is {self._cap:,}.")
        self._base = (_data() or 0) - weights
        self._hold()

    def lift(self) -> None:
        if self._limits is not None:
            self._limit(self._limits[0])

    def record(self, message: str) -> dict[str, Any]:
        """Bytes asked for, that are allowed, and of these two bounds: what was held at least, and was free at most.

        The moment itself cannot be looked at: on its way here the error has let go of some. But what was refused was
        not free.
        """
        found = _REQUESTED.search(message)
        requested = int(found.group(1)) if found else None
        free = min(self._cap, max(0, self._allowed - (_data() or 0)))
        if requested is not None:
            free = max(0, min(free, requested - 1))
        return {"requested": requested, "allocated": self._cap - free, "total": self._cap, "free": free}

    def _hold(self, files: int = 0) -> None:
        self._allowed = self._base + self._cap + _BESIDE + files
        self._limit(self._allowed)

    def _limit(self, wanted: int) -> None:
        if self._limits is None:
            return
        import resource

        before, most = self._limits
        if before != resource.RLIM_INFINITY:
            wanted = min(wanted, before)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _start_threads() -> None:
    """Have OpenMP start its threads now: where it cannot, it ends the process."""
    square = torch.ones(512, 512)
    torch.mm(square, square).add_(1)


def _keep_a_reserve() -> None:
    """Set malloc up as told above. Another C library than glibc is left as it is.

    malloc takes a large block from the heap where a free piece is large enough. So every other one of many pieces is
    kept, untouched: those between them never grow together.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_ARENA_MAX, 1)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    pieces = [library.malloc(_LARGE // 2) for _ in range(4 * _RESERVE // _LARGE)]
    for piece in pieces[::2]:
        library.free(piece)


def _data() -> int | None:
    """Bytes that RLIMIT_DATA counts of this process; None where nobody tells."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


_caps: list[HostCap] = []  # one at most: a process has one such limit, and whatever runs out in it is told with it


def cap_host(cap: int) -> HostCap:
    """Hold this process to `cap` bytes beyond what it has now, once `for_loading` or `for_training` is called."""
    _caps[:] = [HostCap(cap)]
    return _caps[0]


def capped() -> bool:
    """Whether this process's memory is held to a cap."""
    return any(cap.works for cap in _caps)


def record(message: str) -> dict[str, Any] | None:
    """What a capped CPU had when `message` came; None where there is no cap."""
    return _caps[0].record(message) if capped() else None
