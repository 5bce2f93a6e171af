"""What torch can tell of memory, and the sampler that tells it together with what the driver says."""

from __future__ import annotations

from collections.abc import Callable

import torch

from colab_magics.memory.nvml import Cards, Reading
from colab_magics.memory.sampling import Sampler


def watch(device: torch.device, tell: Callable[..., None]) -> Sampler:
    """A sampler of what the attempt trains on, not yet started."""
    return Sampler(tell, _readings(device), lambda: allocator(device))


def allocator(device: torch.device) -> dict[str, int]:
    """Bytes that torch's allocator has `allocated` and `reserved`, and the `peak` allocated since `forget_peak`.

    Empty where torch cannot tell, as on a CPU. It is one call a step: `memory_stats` and the functions on top of it
    flatten a large dictionary each time, and asking before CUDA is in use would make a context.
    """
    if device.type == "mps":
        return {"allocated": torch.mps.current_allocated_memory(), "reserved": torch.mps.driver_allocated_memory()}
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return {}
    stats = torch.cuda.memory.memory_stats_as_nested_dict(device)
    used = stats["allocated_bytes"]["all"]
    return {
        "allocated": used["current"],
        "reserved": stats["reserved_bytes"]["all"]["current"],
        "peak": used["peak"],
    }


def forget_peak(device: torch.device) -> None:
    """Let the `peak` be counted from here on, and give back what the allocator has cached."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _readings(device: torch.device) -> Callable[[], list[Reading]]:
    """How that kind of device is read: NVIDIA's by the driver, AMD's and Apple's by what torch itself can tell."""
    if device.type == "mps":
        return _apple
    if device.type != "cuda":
        return list
    return _amd if torch.version.hip is not None else Cards().read


def _amd() -> list[Reading]:
    if not torch.cuda.is_initialized():
        return []
    cards = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        cards.append(Reading(index, torch.cuda.get_device_name(index), total, total - free))
    return cards


def _apple() -> list[Reading]:
    # the memory is the machine's; Metal says how much of it a process should take at most
    return [Reading(0, "Apple GPU", torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory())]
