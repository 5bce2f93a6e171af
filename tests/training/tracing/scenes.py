"""Tiny trainings, described as they are traced."""

from __future__ import annotations

from typing import Any

from conftest import tiny_config

from colab_magics.plan import Setup
from colab_magics.recipe import Recipe
from colab_magics.training.tracing.scene import Case


def setup(**changes: Any) -> Setup:
    given: dict[str, Any] = {
        "method": "lora", "precision": "fp16", "optim": "adamw_torch", "documents": 2, "length": 64,
        "gradient_checkpointing": False, "loss_chunk": 64,
    }  # fmt: skip
    return Setup(**(given | changes))


def case(
    model_type: str = "qwen3",
    config: dict[str, Any] | None = None,
    *,
    attention: str = "colab_magics",
    kind: str = "cuda",
    capability: tuple[int, int] = (7, 5),
    recipe: dict[str, Any] | None = None,
    **changes: Any,
) -> Case:
    made = setup(**changes)
    asked = Recipe(**({"model": "m", "data": "d", "method": made.method, "r": 8} | (recipe or {})))
    return Case(tiny_config(model_type, **(config or {})), asked, made, attention, kind, capability)
