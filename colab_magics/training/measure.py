"""Packing or sorting by length: whichever is faster on this device, found out by trying both."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from colab_magics.plan import Choice, Device, ModelShape, Plan
from colab_magics.training.batches import Sample, group, read_samples
from colab_magics.training.loop import Progress, Task, micro_batch_gradients, random_state, restore_random_state
from colab_magics.training.oom import Arrangement, OutOfMemory, attempt, release

_TOKENS = 1024  # enough to fill the device; the measurement costs four times this, once
_ROUNDS = 2


def settle_packing(
    task: Task, progress: Progress, plan: Plan, shape: ModelShape, device: Device, *, cache: Path | None
) -> Plan:
    """Decide a `packing: auto` by running both on documents of the first step, without an update.

    What was found is kept by model shape, device and settings, so that a resumed run goes on in the same way.
    `progress.arrangement` and the returned plan hold the decision; weights, gradients and random state are as before.
    """
    if plan["packing"] != "auto":
        return plan
    kept = _kept(plan, shape, device, cache)
    seconds = _read(kept)
    when = "by an earlier run of this shape: " if seconds is not None else ""
    if seconds is None:
        found = _measure(task, progress)
        if isinstance(found, OutOfMemory):
            # no step was lost: the first one will meet it again, and tell it
            reason = f"sorted by length: memory ran out while both were tried ({found.first_line})"
            return _settled(progress, plan, Choice(False, reason))
        seconds = found
        if seconds is not None and kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            staged = kept.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(json.dumps(seconds))
            staged.replace(kept)
    if seconds is None:
        choice = Choice(False, "sorted by length: there is nothing to pack at one document at a time")
    else:
        packed, padded = seconds["packed"], seconds["sorted"]
        faster = "packing" if packed < padded else "sorting by length"
        share = 1 - min(packed, padded) / max(packed, padded)
        choice = Choice(
            packed < padded,
            f"{faster} is {share:.0%} faster here (measured {when}{packed:.3g} s packed, {padded:.3g} s sorted)",
        )
    return _settled(progress, plan, choice)


def _settled(progress: Progress, plan: Plan, choice: Choice) -> Plan:
    progress.arrangement = replace(progress.arrangement, packed=choice.value)
    return plan.choosing(packing=choice)


def timed_here(plan: Plan, shape: ModelShape, device: Device, cache: Path | None) -> tuple[float, int] | None:
    """(seconds, tokens) of forward and backward, as they were measured on this device under these settings.

    Of the arrangement that the plan has; of the faster one, where it is yet to decide.
    """
    found = _read(_kept(plan, shape, device, cache))
    if found is None or not {"packed_clock", "sorted_clock", "tokens"} <= found.keys():
        return None
    packed = found["packed"] < found["sorted"] if plan["packing"] == "auto" else bool(plan["packing"])
    return found["packed_clock" if packed else "sorted_clock"], int(found["tokens"])


def _kept(plan: Plan, shape: ModelShape, device: Device, cache: Path | None) -> Path | None:
    """Where the measurement is kept: by model shape, device and settings."""
    settings = [asdict(shape), device.name, [plan[key] for key in ("method", "precision", "max_length", "micro_batch")]]
    key = hashlib.sha256(json.dumps([torch.__version__, *settings], sort_keys=True, default=str).encode()).hexdigest()
    return cache / "packing" / f"{key[:32]}.json" if cache else None


def _read(kept: Path | None) -> dict[str, float] | None:
    if kept is None or not kept.is_file():
        return None
    try:
        read = {key: float(value) for key, value in json.loads(kept.read_text()).items()}
    except (ValueError, AttributeError, TypeError):
        return None
    return read if {"packed", "sorted"} <= read.keys() else None


def _measure(task: Task, progress: Progress) -> dict[str, float] | OutOfMemory | None:
    """Seconds for the same documents in both arrangements; None when they do not differ.

    `packed` and `sorted` are compared; the same with `_clock` are what passed meanwhile, for so many `tokens`.
    """
    if progress.arrangement.micro_batch == 1:
        return None
    _, ids = next(iter(task.order.steps(0, 1)))
    samples: list[Sample] = []
    for sample in read_samples(task.documents, ids):
        if len(samples) > 1 and sum(map(len, samples)) + len(sample) > _TOKENS:
            break
        samples.append(sample)
    if len(samples) < 2:
        return None
    random = random_state(task.device)
    ways = {name: replace(progress.arrangement, packed=name == "packed") for name in ("packed", "sorted")}
    task.model.train()
    best: dict[str, float] = {}
    try:
        for round_ in range(_ROUNDS + 1):
            for name, way in ways.items():
                # the first round only warms up: allocations, kernels chosen
                taken = attempt(lambda way=way, warm=round_ == 0: _time(task, way, samples[:2] if warm else samples))  # type: ignore[misc]
                if isinstance(taken, OutOfMemory):
                    return taken
                if round_:
                    for key, seconds in zip((name, f"{name}_clock"), taken, strict=True):
                        best[key] = min(best.get(key, seconds), seconds)
    finally:
        task.optimizer.zero_grad(set_to_none=True)
        release()
        restore_random_state(random, task.device)
    return {**best, "tokens": sum(map(len, samples))}


def _time(task: Task, arrangement: Arrangement, samples: list[Sample]) -> tuple[float, float]:
    """(seconds by which the two are compared, seconds of the clock)."""
    # on a shared CPU the seconds of this process say more than those of the clock
    clock = time.perf_counter if task.device.type == "cuda" else time.process_time
    _wait(task.device)
    begin, began = clock(), time.perf_counter()
    for part in group(samples, arrangement.micro_batch, arrangement.token_budget, packed=arrangement.packed):
        micro_batch_gradients(task, part, arrangement.packed, labelled=1)
    _wait(task.device)
    return clock() - begin, time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
