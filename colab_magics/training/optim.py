"""Optimizers and schedules by the names that transformers gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe
from colab_magics.training.model import import_peft

_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
}


def check_bitsandbytes(method: str, optim: str, device: str = "cpu") -> None:
    """Raise, before a weight is loaded, where bitsandbytes is needed and cannot do its work on `device`.

    Parameters
    ----------
    method, optim : as the plan chose them
    device : "cuda" or "cpu"
    """
    if method != "qlora" and optim not in _BITSANDBYTES:
        return
    wanted = "method: qlora" if method == "qlora" else f"optim: {optim}"
    try:
        from bitsandbytes import cextension
    except Exception as error:  # a build for another CUDA raises what it likes
        missing = isinstance(error, ImportError) and "No module named 'bitsandbytes'" in str(error)
        raise ColabMagicsError(
            f"{wanted} needs bitsandbytes, which {'is not installed' if missing else 'does not work here'}.",
            "It has the 4-bit layers and the 8-bit optimizers." if missing else str(error).partition("\n")[0],
            "pip install -U bitsandbytes (no restart is needed)",
            "Or use method: lora with optim: adamw_torch_fused.",
        ) from None
    if device == "cuda" and not getattr(cextension.lib, "compiled_with_cuda", False):
        # it imports all the same, and raises at its first layer, with the weights already loaded
        raise ColabMagicsError(
            f"{wanted} needs a bitsandbytes with GPU code, and the one installed has none.",
            "It was built for the CPU alone, or for another CUDA than torch's.",
            "pip install -U bitsandbytes (no restart is needed)",
            "Or use method: lora with optim: adamw_torch_fused.",
        )


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
    if name == "adafactor":
        from transformers.optimization import Adafactor

        # as TrainingArguments(optim="adafactor") has it: the rate is the schedule's, and is not scaled by the weights
        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)  # type: ignore[no-any-return]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate)
    return torch.optim.AdamW(groups, fused=name == "adamw_torch_fused", **options)


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """transformers' schedule of that name."""
    return import_schedules()(  # type: ignore[no-any-return]
        recipe.lr_scheduler_type, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps
    )


def import_schedules() -> Any:
    """transformers' `get_scheduler`. The module where it is imports peft, which takes what it does on the way.

    A step's cap (`cap.py`) must not count it: with bitsandbytes and torch's compiler it was 36 MiB.
    """
    import_peft(bitsandbytes=False)
    from transformers import get_scheduler

    return get_scheduler
