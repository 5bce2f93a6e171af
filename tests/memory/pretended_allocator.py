"""Pretends to be PyTorch's CUDA allocator: its words, as `CUDACachingAllocator.cpp` writes them."""

from __future__ import annotations

from colab_magics.memory.culprit import segment

GIB = 2**30
T4 = 15_637_086_208  # 14.56 GiB, what torch reports of one


def written(size: int) -> str:
    """`format_size`: two decimals, in the largest unit of which there is more than one."""
    for amount, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size > amount:
            return f"{size / amount:.2f} {unit}"
    return f"{size} bytes"


def out_of_memory(
    tensor: int,
    *,
    total: int = T4,
    free: int | None = None,
    allocated: int | None = None,
    unallocated: int = 2**20,
    others: dict[int, int] | None = None,
    limit: int | None = None,
    generation: str = "2.2",
) -> str:
    """What torch says when a tensor of so many bytes finds no room; by default the card is nearly full of tensors."""
    requested = segment(tensor)
    held = sum((others or {}).values())
    free = requested // 2 if free is None else free
    if allocated is None:
        allocated = max(0, total - free - held - unallocated - 130 * 2**20)
    own = allocated + unallocated + 130 * 2**20
    if generation == "2.0":
        return (
            f"CUDA out of memory. Tried to allocate {written(requested)} (GPU 0; {written(total)} total capacity; "
            f"{written(allocated)} already allocated; {written(free)} free; "
            f"{written(allocated + unallocated)} reserved in total by PyTorch)"
        )
    word = "capacty" if generation == "2.1" else "capacity"
    processes = "".join(f"Process {pid} has {written(size)} memory in use. " for pid, size in (others or {}).items())
    allowed = f"{written(limit)} allowed; " if limit is not None else ""
    return (
        f"CUDA out of memory. Tried to allocate {written(requested)}. GPU 0 has a total {word} of {written(total)} of "
        f"which {written(free)} is free. {processes}Including non-PyTorch memory, this process has {written(own)} "
        f"memory in use. {allowed}Of the allocated memory {written(allocated)} is allocated by PyTorch, and "
        f"{written(unallocated)} is reserved by PyTorch but unallocated. If reserved but unallocated memory is large "
        "try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    )
