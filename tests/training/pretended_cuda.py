"""A pretended CUDA allocator, as far as an out-of-memory asks it.

What it answers has the form that torch's sources give it: `CUDACachingAllocator.cpp` calls an observer with
(device, bytes of the segment asked for, the allowed maximum or the card's total, bytes free) before it throws, and
what the observer raises replaces the out-of-memory; torch 2.13's `cuda/memory.py` documents the snapshot's segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from colab_magics.training import oom_record

MIB = 2**20
Observer = Callable[[int, int, int, int], None]


class PretendedAllocator:
    """Holds `blocks` of (bytes, count) in use on device 0, and a full card."""

    def __init__(self, blocks: list[tuple[int, int]]) -> None:
        self.sizes = blocks
        self.observers: list[Observer] = []
        self.snapshots = 0
        self.peaks_forgotten = self.emptied = 0
        self.fractions: list[float] = []

    def attach(self, observer: Observer) -> None:
        self.observers.append(observer)

    def fail(self, size: int) -> None:
        """An allocation that fails, from the observers to the exception."""
        for observer in self.observers:
            observer(0, size, 15 * 2**30, 100 * MIB)
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / MIB:.2f} MiB. GPU 0 has a total")

    def stats(self, _device: Any = None) -> dict[str, Any]:
        count = sum(count for _, count in self.sizes)
        live = {"current": sum(size * count for size, count in self.sizes), "peak": 14 * 2**30}
        return {
            "active": {"all": {"current": count}},
            "allocated_bytes": {"all": live},
            "reserved_bytes": {"all": {"current": live["current"] + 64 * MIB}},
            "inactive_split_bytes": {"all": {"current": 3 * MIB}},
            "num_alloc_retries": 2,
        }

    def snapshot(self) -> list[dict[str, Any]]:
        self.snapshots += 1
        blocks = [
            {"size": -(-size // 512) * 512, "requested_size": size, "state": "active_allocated", "frames": []}
            for size, count in self.sizes
            for _ in range(count)
        ]
        free = {"size": 900 * MIB, "requested_size": 0, "state": "inactive", "frames": []}
        return [
            {"device": 0, "total_size": 2 * MIB, "blocks": [*blocks, free]},
            {
                "device": 1,
                "total_size": 2 * MIB,
                "blocks": [{"size": 7, "requested_size": 7, "state": "active_allocated"}],
            },
        ]

    def empty_cache(self) -> None:
        self.emptied += 1

    def reset_peak_memory_stats(self, _device: Any = None) -> None:
        self.peaks_forgotten += 1

    def set_fraction(self, fraction: float, _device: Any = None) -> None:
        assert isinstance(fraction, float)
        assert 0 <= fraction <= 1
        self.fractions.append(fraction)


def pretend(monkeypatch: pytest.MonkeyPatch, blocks: list[tuple[int, int]]) -> PretendedAllocator:
    """Put the pretended allocator where torch's is, with nothing attached yet."""
    allocator = PretendedAllocator(blocks)
    monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", allocator.attach, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.memory, "memory_stats_as_nested_dict", allocator.stats)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", allocator.snapshot)
    monkeypatch.setattr(torch.cuda, "empty_cache", allocator.empty_cache)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", allocator.reset_peak_memory_stats)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (10 * 2**30, 14 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", allocator.set_fraction)
    monkeypatch.setattr(oom_record, "_observers", [])
    return allocator
