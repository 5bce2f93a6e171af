"""Whether a model fits where it is to be asked, beside the runs that train there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.events import read_events
from colab_magics.memory.allocator import allocators
from colab_magics.memory.devices import this_device
from colab_magics.memory.inference import Generating, generating, weights_for
from colab_magics.memory.living import Worker, living
from colab_magics.plan import Device, ModelShape
from colab_magics.plan.fit import context_of, fit
from colab_magics.sizes import size

MOST_AT_ONCE = 32  # sequences: above it a batch gains little, and an interrupt loses much


@dataclass(frozen=True)
class Room:
    """What is free for a model on a device.

    Attributes
    ----------
    device : Device
        Its `free` is what is left when the runs that train there have taken all that they need.
    waits_for : tuple of Worker
        Those runs.
    """

    device: Device
    waits_for: tuple[Worker, ...] = ()


def room(kind: str, root: Path) -> Room:
    """What is free on the GPU or the CPU.

    Raises
    ------
    ColabMagicsError
        A run is starting there and has not said yet what it will need.
    """
    device = this_device(cuda=kind == "cuda")
    if kind == "cuda" and device.kind == "cpu":
        device = _told_by_torch(device)
    if kind == "cuda":
        cached = sum(max(0, one.reserved - one.allocated) for one in allocators()[:1])
        device = replace(device, free=min(device.total, device.free + cached))
    workers, outstanding = [], 0
    for worker in living(root):
        told = _plan(worker, root)
        if told is None:
            raise ColabMagicsError(
                f"{worker.run} is starting, and has not said yet how much memory it needs.",
                "What a model took now it might miss then.",
                "Wait until it trains: %finetune attach shows it.",
                *([] if kind == "cpu" else ["--on cpu asks the model there, slowly."]),
            )
        if (told.get("on") or {}).get("kind", kind) != kind:
            continue
        peak = int((told.get("estimate") or {}).get("peak") or 0)
        has = (worker.reserved if kind == "cuda" else worker.rss) or 0
        outstanding += max(0, fit(peak, device).need - has)
        workers.append(worker)
    return Room(replace(device, free=max(0, device.free - outstanding)), tuple(workers))


def _told_by_torch(device: Device) -> Device:
    """The GPU by torch's word, where its driver cannot be asked (no NVML, or an AMD card)."""
    cuda: Any = sys.modules["torch"].cuda
    free, total = map(int, cuda.mem_get_info(0))  # it makes the context that the model would make
    return Device("cuda", cuda.get_device_name(0), total, free, device.host_free, cuda.get_device_capability(0))


def _plan(worker: Worker, root: Path) -> Mapping[str, Any] | None:
    folder = root / worker.run
    found = (
        [event for event in read_events(folder / "events.jsonl") if event["kind"] == "plan"] if folder.is_dir() else []
    )
    return found[-1] if found else None


def at_once(
    shape: ModelShape | None, four_bit: bool, found: Room, *, loaded: bool, count: int, context: int, label: str
) -> int:
    """How many sequences are asked at once: as many as fit, up to `MOST_AT_ONCE`.

    Parameters
    ----------
    loaded : whether the weights are there already
    count : how many there are to ask
    context : tokens of the longest, prompt and answer together

    Raises
    ------
    ColabMagicsError
        Not even one fits; says what takes how much, and what to do.
    """
    most = min(count, MOST_AT_ONCE)
    if shape is None:
        return min(most, 8)
    weights = 0 if loaded else weights_for(shape, "qlora" if four_bit else "lora", found.device)
    weights += 0 if loaded else 4 * shape.lora_parameters
    device = found.device
    if loaded:  # CUDA and the libraries are there as well
        device = replace(device, free=min(device.total, device.free + context_of(device)))
    for batch in range(most, 0, -1):
        [taken] = generating(shape, weights, device, batch=batch, context=context)
        if taken.fit.colour != "red":
            return batch
    raise _no_room(taken, found, label)


def _no_room(taken: Generating, found: Room, label: str) -> ColabMagicsError:
    gpu = found.device.kind == "cuda"
    names = ", ".join(worker.run for worker in found.waits_for)
    beside = f" beside {names}, which trains" if names else ""
    parts = f"{size(taken.weights)} of weights, " if taken.weights else ""
    left = "when the run has all that it needs" if names else "now"
    return ColabMagicsError(
        f"{label} does not fit on the {'GPU' if gpu else 'machine'}{beside}.",
        f"It takes {size(taken.peak)} ({parts}{size(taken.cache)} for {taken.context:,} tokens), "
        f"and {size(found.device.free)} are free {left}.",
        f"Wait for its end, or %finetune stop {found.waits_for[0].run}." if names else "",
        "--on cpu asks it there, slowly." if gpu else "",
        "%vram shows who holds the memory, and %vram free gives back what can be given back." if gpu else "",
        "A smaller --max-new-tokens needs less." if taken.cache > taken.weights else "",
    )
