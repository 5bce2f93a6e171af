"""What a training by comparison holds: TRL's trainer, and beside it what checkpoints and the order of samples need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from colab_magics.data import Documents
from colab_magics.plan import Plan
from colab_magics.recipe import Recipe
from colab_magics.training.batches import Order
from colab_magics.training.loop import Progress
from colab_magics.training.oom import Arrangement
from colab_magics.training.optim import build_optimizer, build_schedule
from colab_magics.training.preferences.rows import Rows, rows_for
from colab_magics.training.preferences.trainer import Parts, make_trainer, parts_of


@dataclass(frozen=True)
class Tuning:
    """What is trained by comparison, on what, and how."""

    trainer: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    device: torch.device
    rows: Rows
    eval_rows: Rows | None
    order: Order
    total_steps: int
    eval_steps: int | None
    early_stopping: int | None
    recipe: Recipe

    def parts(self, samples: list[int], progress: Progress) -> Parts:
        """The micro-batches of one step."""
        return parts_of(samples, progress.arrangement.micro_batch)


def make_tuning(
    model: nn.Module,
    reference: nn.Module | None,
    tokenizer: Any,
    recipe: Recipe,
    plan: Plan,
    documents: Documents,
    eval_documents: Documents | None,
    *,
    device: torch.device,
) -> tuple[Tuning, Progress]:
    """Everything that the training holds, at its start; torch's random state is set from the recipe's seed.

    Parameters
    ----------
    reference : the untouched model, where all weights are trained
    """
    trainer = make_trainer(model, reference, tokenizer, recipe, plan, device=device)
    optimizer = build_optimizer(model, recipe, plan["optim"], plan["learning_rate"])
    schedule = build_schedule(optimizer, recipe, plan["warmup_steps"], plan["total_steps"])
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    read = rows_for(trainer, recipe.objective)
    rows = Rows(documents, read)
    tuning = Tuning(
        trainer=trainer,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        scaler=trainer.accelerator.scaler,
        device=device,
        rows=rows,
        eval_rows=Rows(eval_documents, read) if eval_documents is not None else None,
        order=Order(len(rows), plan["effective_batch"], recipe.seed),
        total_steps=plan["total_steps"],
        eval_steps=plan["eval_every"],
        early_stopping=recipe.early_stopping,
        recipe=recipe,
    )
    arrangement = Arrangement(
        micro_batch=plan["micro_batch"],
        packed=False,
        gradient_checkpointing=plan["gradient_checkpointing"],
        loss_chunk=plan["loss_chunk"],
    )
    torch.manual_seed(recipe.seed)
    return tuning, Progress(arrangement)
