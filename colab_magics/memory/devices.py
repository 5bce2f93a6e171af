"""Which device a run trains on, and what is free on it."""

from __future__ import annotations

import os
from typing import Any

from colab_magics.memory.host import host_memory
from colab_magics.memory.nvml import Cards
from colab_magics.plan import Device


def this_device(nvml: Any = None, *, cuda: bool = True) -> Device:
    """The first visible GPU, or the CPU.

    Parameters
    ----------
    nvml : the NVML module; the installed one when not given
    cuda : whether the torch that is installed can use a GPU at all
    """
    host = host_memory()
    gpu = _first_gpu(Cards(nvml), host.free) if cuda else None
    if gpu is not None:
        return gpu
    return Device("cpu", f"CPU with {os.cpu_count() or 1} cores", host.total, host.free, host.free)


def _first_gpu(cards: Cards, host_free: int) -> Device | None:
    if not len(cards):
        return None
    memory, capability = cards.memory(0), cards.capability(0)
    if memory is None or capability is None:
        return None  # a card that does not say this is none to train on
    return Device("cuda", cards.name(0) or "NVIDIA GPU", memory.total, memory.free, host_free, capability)
