"""The held-out answers, scored by TRL's own loss and rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from colab_magics.training.oom import OutOfMemory, attempt, release
from colab_magics.training.preferences.rows import Rows
from colab_magics.training.preferences.trainer import parts_of


@dataclass(frozen=True)
class Scored:
    """The mean loss over the samples; the other figures are what the trainer logs at its next `log`."""

    loss: float


def score(trainer: Any, rows: Rows, micro_batch: int, control: Callable[[], str | None]) -> Scored | OutOfMemory | str:
    """Score the model as it is; an order that `control` gives breaks it off and is returned."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        total = 0.0
        for part in parts_of(list(range(len(rows))), micro_batch):
            if (order := control()) is not None:
                return order
            loss = attempt(partial(_loss, trainer, rows, part), "evaluation")
            if isinstance(loss, OutOfMemory):
                release()
                return loss
            total += loss * len(part)
        return Scored(total / len(rows))
    finally:
        trainer.model.train(was_training)


def _loss(trainer: Any, rows: Rows, part: list[int]) -> float:
    with torch.no_grad(), trainer.accelerator.autocast():
        batch = trainer._prepare_inputs(dict(rows.batch(part)))
        loss, *_ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=True)
    return float(loss)
