"""What fills the memory now: each GPU by who holds it, and the names in this notebook. Without a GPU, the machine's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from colab_magics.memory.allocator import Allocator, allocators, cuda
from colab_magics.memory.host import host_memory
from colab_magics.memory.living import Worker, living
from colab_magics.memory.nvml import Cards
from colab_magics.memory.owners import Owner, Survey, few, survey

UNSEEN = "no Python object"
_MIB = 2**20
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Card:
    """One GPU. Bytes; None is what could not be told.

    Attributes
    ----------
    total, used, free : int, optional
        By its driver: of the card itself, whoever uses it.
    allocated : int
        In tensors of this process.
    cached : int
        Kept by this process's torch for later; `empty_cache` gives it back.
    fragmented : int
        Of that, the pieces between tensors, which cannot be given back.
    workers : int
        Held by the workers of living runs.
    others : int, optional
        All the rest that is in use: other processes, and the CUDA contexts of all.
    """

    index: int
    name: str
    total: int | None
    used: int | None
    free: int | None
    allocated: int = 0
    cached: int = 0
    fragmented: int = 0
    workers: int = 0
    others: int | None = None


@dataclass(frozen=True)
class HostUse:
    """The machine's memory, within what a container may use. Bytes."""

    total: int
    free: int
    this_process: int
    workers: int
    others: int


@dataclass(frozen=True)
class Report:
    """Memory at one moment, measured.

    Attributes
    ----------
    gpus : tuple of Card
        Empty where there is none that can be seen: then `host` and the owners are what is to be looked at.
    host : HostUse
        The machine's own memory.
    workers : tuple of Worker
        The runs that train now.
    owners : tuple of Owner
        Who holds the memory of this process, the largest first: of the GPUs, or of the host where there is none.
    notes : tuple of str
        What could not be told, and why.
    """

    gpus: tuple[Card, ...]
    host: HostUse
    workers: tuple[Worker, ...] = ()
    owners: tuple[Owner, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def take(root: Path, shell: Any = None, nvml: Any = None) -> Report:
    """Measure now. No CUDA context is made, and torch is asked only where the notebook has imported it.

    Parameters
    ----------
    root : where runs are kept
    shell : IPython's; without one (in a terminal) there are no owners
    nvml : the NVML module; the installed one when not given
    """
    here, workers = allocators(ask_driver=True), living(root)
    gpus, notes = _gpus(Cards(nvml), here, workers)
    found = survey(shell, host=not gpus) if shell is not None else Survey()
    if found.cut:
        notes.append(found.cut)
    owners = [*found.owners, *_unseen(here, found)]
    owners.sort(key=lambda owner: -owner.bytes)
    return Report(tuple(gpus), _host(workers), workers, tuple(owners), tuple(notes))


def holders(shell: Any, most: int = 3) -> str:
    """Who holds GPU memory in this kernel, the largest first: `model, Out[5]`; empty where it uses no GPU.

    Beside `held_here()`, for whoever needs the room: "this kernel holds 7.9 GiB (model, Out[5])".
    """
    if cuda() is None:
        return ""
    owners = survey(shell, host=False).owners
    names = list(dict.fromkeys(owner.name for owner in owners if owner.bytes >= _MIB))
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _gpus(cards: Cards, here: Sequence[Allocator], workers: Sequence[Worker]) -> tuple[list[Card], list[str]]:
    ours = {int(one.device.rpartition(":")[2]): one for one in here}
    notes = []
    if len(cards):
        gpus = [_card(cards, index, ours.get(index), workers) for index in range(len(cards))]
        silent = [f"GPU {gpu.index}" for gpu in gpus if gpu.total is None]
        if silent:
            notes.append(f"{', '.join(silent)} does not answer its driver; its memory cannot be told.")
        if any("MIG" in gpu.name for gpu in gpus):
            notes.append("The figures are of the MIG instance that this process sees, not of the whole card.")
        return gpus, notes
    gpus = [_told_by_torch(one, workers) for one in here]
    if any(one.device.startswith("mps") for one in here):
        notes.append("Of an Apple GPU only this process's share can be told; it is part of the machine's memory.")
    elif here and _is_amd():
        notes.append("Of an AMD GPU torch alone tells; cards that this process does not use are not shown.")
    elif here:
        notes.append("The driver cannot be asked (no NVML); the figures are torch's own.")
    elif cards.silent:
        notes.append(f"No GPU can be shown (no NVML): {cards.silent}. nvidia-smi tells whether the driver works.")
    elif _DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        notes.append(f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} shows this process no GPU.")
    elif _DRIVER.exists():
        notes.append("There is an NVIDIA driver, but it does not answer: nvidia-smi tells why.")
    return gpus, notes


def _is_amd() -> bool:
    version = getattr(sys.modules.get("torch"), "version", None)
    return getattr(version, "hip", None) is not None


def _card(cards: Cards, index: int, here: Allocator | None, workers: Sequence[Worker]) -> Card:
    memory = cards.memory(index)
    name = cards.name(index) or f"GPU {index}"
    if memory is None:
        return _divided(Card(index, name, None, None, None), here, workers)
    return _divided(Card(index, name, memory.total, memory.used, memory.free), here, workers)


def _told_by_torch(here: Allocator, workers: Sequence[Worker]) -> Card:
    used = None if here.total is None or here.free is None else here.total - here.free
    index = int(here.device.rpartition(":")[2])
    return _divided(Card(index, here.name or f"GPU {index}", here.total, used, here.free), here, workers)


def _divided(card: Card, here: Allocator | None, workers: Sequence[Worker]) -> Card:
    """With what is known of who holds it. A worker tells of the first GPU that it sees, which is ours too."""
    theirs = sum(one.reserved or 0 for one in workers) if card.index == 0 else 0
    ours = here.reserved if here is not None else 0
    others = None if card.used is None else max(0, card.used - ours - theirs)
    card = replace(card, workers=theirs, others=others)
    if here is None:
        return card
    return replace(card, allocated=here.allocated, cached=here.cached, fragmented=here.fragmented)


def _host(workers: Sequence[Worker]) -> HostUse:
    import psutil

    memory, ours = host_memory(), int(psutil.Process().memory_info().rss)
    theirs = sum(one.rss or 0 for one in workers)
    return HostUse(memory.total, memory.free, ours, theirs, max(0, memory.used - ours - theirs))


def _unseen(here: Sequence[Allocator], found: Survey) -> list[Owner]:
    """What the allocator has given out and no tensor in Python has: saved for backward, or kept inside C++."""
    what = "saved for backward, or inside C++"
    if found.graphs:
        what += f": likely by the graph of {few(found.graphs)}"
    if found.cut:
        return []
    return [
        Owner(UNSEEN, what, rest, one.device)
        for one in here
        if one.device.startswith("cuda") and (rest := one.allocated - found.on(one.device)) >= _MIB
    ]
