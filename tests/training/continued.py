"""Runs that are interrupted, written to a real disk, built anew and gone on with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import Trained

from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.verify import newest_verified
from colab_magics.training.loop import train
from colab_magics.training.saving import Saver
from colab_magics.training.state import Saved, arrangement_of, put_back, read_saved

RUN = "0123456789abcdef"
NEVER = Every(steps=10**9)


def saver_of(run: Trained, folder: Path, *, every: Every = NEVER, attempt: int = 1, **more: Any) -> Saver:
    """The keeper of a run's checkpoints, as the worker makes it."""
    folder.mkdir(exist_ok=True)
    options = {"limit": 3, "facts": {"name": folder.name}, "state": {}, "on_event": run.tell} | more
    return Saver(folder=folder, task=run.task, progress=run.progress, run=RUN, attempt=attempt, every=every, **options)


def train_with(run: Trained, saver: Saver, control: Callable[[], str | None] = lambda: None) -> Trained:
    """Train, with checkpoints, to the end or to what `control` orders; all of them are written when this returns."""
    try:
        run.outcome = train(run.task, run.progress, run.tell, control, saver)
    finally:
        saver.wait()
    return run


def stopped_after(run: Trained, step: int, folder: Path) -> Trained:
    """Train `step` steps and stop as the stop button does; a checkpoint of that step is in `folder`."""
    return train_with(run, saver_of(run, folder), lambda: "stop" if run.progress.step == step else None)


def saved_steps(run: Trained) -> list[int]:
    """The steps of which a checkpoint was told to be saved."""
    return [event["step"] for event in run.told("checkpoint") if event["action"] == "saved"]


def newest(folder: Path) -> Saved:
    """What a resume of the run in `folder` would go on from."""
    entry = newest_verified(folder / "checkpoints", run=RUN).entry
    assert entry is not None, "there is no whole checkpoint"
    return read_saved(entry.folder)


def goes_on(run: Trained, saved: Saved) -> Trained:
    """Put a run that was just built where the checkpoint was, after all that is random has drawn something else."""
    torch.manual_seed(987)
    torch.rand(31)
    np.random.seed(987)
    random.seed(987)
    assert put_back(run.task, run.progress, saved) == []
    run.progress.arrangement = arrangement_of(saved)
    return run


def tensors_of(run: Trained) -> dict[str, torch.Tensor]:
    """Every number that training changes: weights and optimizer states."""
    names = {parameter: name for name, parameter in run.model.named_parameters()}
    found = {name: parameter.detach() for parameter, name in names.items() if parameter.requires_grad}
    for parameter, states in run.task.optimizer.state.items():
        for key, value in states.items():
            found[f"{key} of {names[parameter]}"] = torch.as_tensor(value)
    return found


def assert_same_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """Bit for bit, so that not even the sign of a zero differs."""
    assert ours.keys() == theirs.keys()
    different = [name for name, tensor in ours.items() if not _same_bits(tensor, theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} differ: {different[:3]}"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)


def assert_same_end(gone_on: Trained, parts: list[Trained], plain: Trained) -> None:
    """The run in parts has told the losses of the run in one, and ended in its weights."""
    told = [loss for part in (*parts, gone_on) for loss in part.losses]
    assert told == plain.losses
    assert_same_tensors(tensors_of(gone_on), tensors_of(plain))
    assert gone_on.progress == plain.progress
