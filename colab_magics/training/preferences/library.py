"""TRL as it is installed: whether it is there, its trainer for an objective, and that trainer's settings.

What differs between its releases is told by what a class has, never by a version: 0.29 is the newest that Colab's
`datasets` satisfies, and KTO moved and was written anew after it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from colab_magics.errors import ColabMagicsError
from colab_magics.hub import first_line
from colab_magics.plan import Plan
from colab_magics.recipe import Recipe

_MODULES = {"dpo": ("trl", "DPO"), "kto": ("trl", "KTO"), "orpo": ("trl.experimental.orpo", "ORPO")}


def check_trl(recipe: Recipe) -> None:
    """Raise, before anything is read, where the recipe compares answers and TRL is missing."""
    if recipe.compares and find_spec("trl") is None:
        raise ColabMagicsError(
            f"objective: {recipe.objective} needs trl, which is not installed.",
            "It has the trainers that compare answers.",
            'pip install "trl>=0.29"',
            'On Colab: pip install "trl<1", which moves nothing else. Newer ones bring datasets 4.7 and pyarrow 21, '
            "which Colab's cudf and gcsfs do not go with.",
        )


def import_trl(recipe: Recipe) -> None:
    """Raise, before a weight is loaded, where the recipe compares answers and the installed TRL does not work.

    Importing takes seconds, which a mistake in the data need not wait for.
    """
    if not recipe.compares:
        return
    try:
        trainer_of(recipe.objective)
    except Exception as error:  # libraries that do not go together raise what they like
        raise ColabMagicsError(
            f"objective: {recipe.objective} needs trl, and the one installed does not work here.",
            first_line(error),
            "pip install -U trl (no restart is needed: every run imports afresh)",
        ) from None


def trainer_of(objective: str) -> tuple[Any, Any]:
    """TRL's trainer and config classes for an objective."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO stands there, and it would warn of that
    module, name = _MODULES[objective]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = import_module(module)
        return getattr(found, f"{name}Trainer"), getattr(found, f"{name}Config")


def settings(recipe: Recipe, plan: Plan, config: Any, *, device: torch.device, scratch: Path) -> Any:
    """An instance of TRL's `config` for a recipe under its plan.

    Everything that this worker does itself is off in it: saving, evaluating, reporting, the data's order.
    """
    micro = int(plan["micro_batch"])
    wanted: dict[str, Any] = {
        "output_dir": os.fspath(scratch),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": 1,
        "max_steps": int(plan["total_steps"]),
        "learning_rate": plan["learning_rate"],
        "max_grad_norm": recipe.max_grad_norm,
        "seed": recipe.seed,
        "bf16": plan["precision"] == "bf16",  # TRL's own default is bf16 wherever fp16 is not asked for
        "fp16": plan["precision"] == "fp16",
        "use_cpu": device.type == "cpu",
        "gradient_checkpointing": bool(plan["gradient_checkpointing"]),
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number ends the run, and is not averaged away
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "max_length": int(plan["max_length"]),
        "beta": recipe.beta,
        "loss_type": [recipe.loss] if recipe.objective == "dpo" else recipe.loss,
        "label_smoothing": recipe.label_smoothing,
        "desirable_weight": recipe.desirable_weight,
        "undesirable_weight": recipe.undesirable_weight,
    }
    known = {one.name for one in fields(config)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that transformers is about to change
        made = config(**{key: value for key, value in wanted.items() if key in known})
    on_one_device(made)
    return made


def on_one_device(arguments: Any) -> None:
    """Keep transformers' Trainer from spreading the model over every visible GPU, which TRL's trainers refuse."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
