"""Optimizers and schedules by the names that transformers gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe

_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
}


def check_optimizer(name: str, device: str) -> None:
    """Raise, before anything is loaded, for an optimizer that does not work on `device` ("cpu" or "cuda")."""
    if device != "cuda" and name.startswith("paged_"):
        raise ColabMagicsError(
            f"optim: {name} needs a GPU.",
            "A paged optimizer moves its state between GPU and host memory.",
            "Use optim: adamw_8bit or adamw_torch_fused.",
        )
    if name in _BITSANDBYTES:
        try:
            import bitsandbytes  # noqa: F401
        except Exception as error:
            raise ColabMagicsError(
                f"optim: {name} needs bitsandbytes, which cannot be imported.",
                str(error).partition("\n")[0],
                "pip install bitsandbytes",
                "or use optim: adamw_torch_fused",
            ) from None


def build_optimizer(model: nn.Module, recipe: Recipe, name: str, rate: float) -> torch.optim.Optimizer:
    """The optimizer over what is trainable; biases, norms and other vectors do not decay."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": rate,
        "betas": (recipe.adam_beta1, recipe.adam_beta2),
        "eps": recipe.adam_epsilon,
    }
    if name in _BITSANDBYTES:
        import bitsandbytes

        return getattr(bitsandbytes.optim, _BITSANDBYTES[name])(groups, **options)  # type: ignore[no-any-return]
    return torch.optim.AdamW(groups, fused=name == "adamw_torch_fused", **options)


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """transformers' schedule of that name."""
    from transformers import get_scheduler

    return get_scheduler(
        recipe.lr_scheduler_type, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps
    )
