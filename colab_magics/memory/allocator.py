"""What torch in this process has of each GPU, where it has been imported and uses one.

To ask CUDA before it is in use would make a context, 0.1 to 0.5 GiB of the card: then nothing is asked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

CONTEXT = 138 * 2**20
"""Bytes that a CUDA context takes beside the allocator: the median of nine T4s. Larger GPUs take more."""


@dataclass(frozen=True)
class Allocator:
    """torch's allocator on one GPU; bytes.

    Attributes
    ----------
    device : str
        `cuda:0`, `mps:0`.
    allocated : int
        In use by tensors.
    reserved : int
        Taken from the card: in use, and kept for later.
    fragmented : int
        Of what is kept, the pieces that stand between tensors and cannot be given back.
    peak : int
        The most allocated, since the process began or the counter was set back.
    total, free : int, optional
        What torch says of the card, where that costs nothing.
    name : str
        The card's, as torch has it; empty where it was not asked.
    """

    device: str
    allocated: int
    reserved: int
    fragmented: int = 0
    peak: int = 0
    total: int | None = None
    free: int | None = None
    name: str = ""

    @property
    def cached(self) -> int:
        """Kept for later, and in no tensor."""
        return max(0, self.reserved - self.allocated)


def cuda() -> Any:
    """`torch.cuda`, if this process uses it already; else None."""
    torch = sys.modules.get("torch")
    module = getattr(torch, "cuda", None)
    try:
        return module if module is not None and module.is_initialized() else None
    except Exception:  # torch is being imported, or its import has failed
        return None


def allocators(*, ask_driver: bool = False) -> tuple[Allocator, ...]:
    """torch's allocator on every GPU that this process has tensors on, or could have; empty if it uses none.

    Parameters
    ----------
    ask_driver : whether also the card's total and free memory are asked, of cards that are in use here
    """
    module = cuda()
    if module is not None:
        return tuple(_of_cuda(module, index, ask_driver) for index in range(module.device_count()))
    mps: Any = getattr(sys.modules.get("torch"), "mps", None)
    try:
        allocated = int(mps.current_allocated_memory()) if mps is not None and _has_metal() else 0
        if not allocated:
            return ()
        total = int(mps.recommended_max_memory())
        return (Allocator("mps:0", allocated, int(mps.driver_allocated_memory()), total=total, name="Apple GPU"),)
    except Exception:
        return ()


def held_here() -> int:
    """Bytes of GPU memory that this process holds through torch: reserved, and about what its CUDA context takes.

    0 where it does not use CUDA. The context cannot be measured; it is counted as that of a T4.
    """
    found = [one for one in allocators() if one.device.startswith("cuda")]
    if not found:
        return 0
    return sum(one.reserved for one in found) + CONTEXT * max(1, sum(one.reserved > 0 for one in found))


def _of_cuda(module: Any, index: int, ask_driver: bool) -> Allocator:
    # memory_allocated() and its kin flatten a dictionary of a hundred figures each time they are called
    stats = module.memory.memory_stats_as_nested_dict(index)

    def figure(name: str, which: str = "current") -> int:
        return int(stats.get(name, {}).get("all", {}).get(which, 0))

    reserved = figure("reserved_bytes")
    total = free = None
    name = ""
    if ask_driver and reserved:  # of a card that is not in use here, this would make a context
        try:
            free, total = map(int, module.mem_get_info(index))
            name = str(module.get_device_name(index))
        except Exception:  # after an illegal access CUDA answers nothing any more
            free = total = None
    return Allocator(
        f"cuda:{index}",
        figure("allocated_bytes"),
        reserved,
        figure("inactive_split_bytes"),
        figure("allocated_bytes", "peak"),
        total,
        free,
        name,
    )


def _has_metal() -> bool:
    backends = getattr(sys.modules.get("torch"), "backends", None)
    return bool(backends is not None and backends.mps.is_available())
