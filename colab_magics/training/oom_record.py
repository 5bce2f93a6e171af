"""What the allocator held at the moment when a GPU's memory ran out, taken before anything is freed.

torch calls an observer when an allocation has failed, before the exception unwinds: a moment later the step's tensors
are gone, and with them the reason. AMD's torch has the same allocator and the same observer. A CPU and Metal have
none: what can be told of a CPU under `max_memory` is in `cap.py`.

No stacks of the allocations are recorded (`torch.cuda.memory._record_memory_history`): that costs about 2 µs on every
allocation of every step and several KB for each that lives, to explain what mostly never happens. The sizes of the
live blocks, beside the shapes that a plan knows, name them as well.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch

Record = dict[str, Any]

SECONDS = 0.04  # that the blocks may be looked at; what was not seen by then is left out
_LARGEST = 20
_MOST_BLOCKS = 100_000  # beyond that torch's own list of them takes too long; it cannot be interrupted
_A_MINUTE = 4  # looks at the blocks: an out-of-memory that comes again and again must not cost a step's time each
_LOOK_AT_THE_CLOCK = 1024  # blocks between two looks


class Observer:
    """Takes a bounded record of every out-of-memory, and keeps the newest.

    It runs in the thread that allocates, in the middle of torch's allocation, which may be the backward's own thread.
    What it raised would replace the out-of-memory, so it raises nothing; and it allocates nothing on the device.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: list[float] = []
        self._newest: Record | None = None
        self._lock = threading.Lock()

    def __call__(self, device: int, requested: int, total: int, free: int) -> None:
        """As torch calls it: bytes asked for (whole segments), that there are or that are allowed, that are free."""
        record: Record = {"requested": requested, "total": total, "free": free}
        try:
            stats = torch.cuda.memory.memory_stats_as_nested_dict(device)
            record |= _counters(stats)
            record |= self._blocks(device, stats)
        except Exception as error:
            record["incomplete"] = f"{type(error).__name__}: {error}"[:200]
        with self._lock:
            self._newest = record

    def take(self) -> Record | None:
        """The record of the newest out-of-memory, once."""
        with self._lock:
            newest, self._newest = self._newest, None
        return newest

    def _blocks(self, device: int, stats: Mapping[str, Any]) -> Record:
        now = self._clock()
        self._looks = [look for look in self._looks if now - look < 60.0]
        if len(self._looks) >= _A_MINUTE:
            return {"incomplete": "the blocks were looked at several times in the last minute"}
        if (count := stats["active"]["all"]["current"]) > _MOST_BLOCKS:
            return {"incomplete": f"{count:,} blocks are too many to be looked at"}
        self._looks.append(now)
        sizes, whole = _live(torch.cuda.memory_snapshot(), device, now + SECONDS, self._clock)
        largest = sorted(sizes.items(), key=lambda item: -item[0] * item[1])[:_LARGEST]
        found: Record = {"blocks": [{"bytes": size, "count": count} for size, count in largest]}
        return found if whole else found | {"incomplete": "not all blocks were looked at in time"}


def _counters(stats: Mapping[str, Any]) -> Record:
    return {
        "allocated": stats["allocated_bytes"]["all"]["current"],
        "reserved": stats["reserved_bytes"]["all"]["current"],
        "inactive_split": stats["inactive_split_bytes"]["all"]["current"],
        "num_alloc_retries": stats["num_alloc_retries"],
    }


def _live(
    segments: Iterable[Mapping[str, Any]], device: int, until: float, clock: Callable[[], float]
) -> tuple[Counter[int], bool]:
    """How many blocks of each size are in use (as they were asked for, not rounded); whether all were counted."""
    sizes: Counter[int] = Counter()
    blocks = (block for segment in segments if segment.get("device", device) == device for block in segment["blocks"])
    while part := list(islice(blocks, _LOOK_AT_THE_CLOCK)):
        sizes.update([block.get("requested_size") or block["size"] for block in part if block["state"] != "inactive"])
        if clock() > until:
            return sizes, next(blocks, None) is None
    return sizes, True


_observers: list[Observer] = []  # one at most, which torch holds for the life of the process


def observe(device: torch.device) -> None:
    """Take a record of whatever runs out on that device from now on. It may be asked for twice.

    It makes a CUDA context where there is none yet.
    """
    attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)  # a build for CPUs alone has none
    if device.type == "cuda" and attach is not None and not _observers:
        _observers.append(Observer())
        attach(_observers[0])


def taken() -> Record | None:
    """The record of the out-of-memory that has just come; None where nothing observes, or it came from elsewhere."""
    return _observers[0].take() if _observers else None
