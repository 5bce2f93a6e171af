"""From a plan, a model and documents to what the loop runs."""

from __future__ import annotations

import torch
from torch import nn

from colab_magics.plan import Plan
from colab_magics.plan.policies import CPU_TOKENS
from colab_magics.recipe import Recipe
from colab_magics.training.batches import Documents, Order
from colab_magics.training.loop import INITIAL_SCALE, Progress, Task
from colab_magics.training.loss import HeadLoss, HiddenLoss, Loss
from colab_magics.training.model import DTYPES, causal_lm
from colab_magics.training.oom import Arrangement
from colab_magics.training.optim import build_optimizer, build_schedule


def make_task(
    model: nn.Module,
    recipe: Recipe,
    plan: Plan,
    documents: Documents,
    eval_documents: Documents | None,
    *,
    device: torch.device,
) -> tuple[Task, Progress]:
    """Everything that the loop holds, at its start; torch's random state is set from the recipe's seed."""
    optimizer = build_optimizer(model, recipe, plan["optim"], plan["learning_rate"])
    schedule = build_schedule(optimizer, recipe, plan["warmup_steps"], plan["total_steps"])
    dtype = DTYPES[plan["precision"]]
    lm = causal_lm(model)
    # an adapter or a trained copy on the head takes the model's own way through it
    hidden = plan["loss"] == "hidden" and type(lm.get_output_embeddings()) is nn.Linear
    loss: Loss = HiddenLoss(lm, plan["loss_chunk"], dtype) if hidden else HeadLoss(lm, plan["loss_chunk"])
    task = Task(
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE) if plan["precision"] == "fp16" else None,
        device=device,
        autocast=None if dtype == torch.float32 else dtype,
        documents=documents,
        eval_documents=eval_documents if eval_documents is not None and len(eval_documents) else None,
        order=Order(len(documents), plan["effective_batch"], recipe.seed),
        total_steps=plan["total_steps"],
        max_grad_norm=recipe.max_grad_norm,
        eval_steps=plan["eval_every"],
        early_stopping=recipe.early_stopping,
    )
    arrangement = Arrangement(
        micro_batch=plan["micro_batch"],
        packed=plan["packing"] is True,
        gradient_checkpointing=plan["gradient_checkpointing"],
        loss_chunk=plan["loss_chunk"],
        token_budget=CPU_TOKENS if device.type == "cpu" else None,
    )
    torch.manual_seed(recipe.seed)
    return task, Progress(arrangement)
