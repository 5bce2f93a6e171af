"""Beginning where another trainer's checkpoint stands: what must agree, and what is not as it was there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from colab_magics.checkpoints.foreign import ADAPTER, adapted_modules
from colab_magics.checkpoints.tensors import Tensor, read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Plan
from colab_magics.recipe import Recipe
from colab_magics.training.batches import Order
from colab_magics.training.loop import Progress, Task
from colab_magics.training.model import adapted_shapes
from colab_magics.training.source import ModelSource
from colab_magics.training.state import OPTIMIZER, Saved, put_schedule, put_weights, tensor_of

# With another value of one of these the same tensors mean something else. lora_alpha is not even a matter of shape.
_MUST_AGREE = ("r", "lora_alpha", "use_rslora", "use_dora", "modules_to_save")
# What transformers' Trainer does not decay, besides nn.LayerNorm: the second group of its optimizer.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def check_recipe(saved: Saved, source: ModelSource, recipe: Recipe) -> None:
    """Raise, before any weight is loaded, where the recipe would make something else of the checkpoint's weights."""
    if recipe.compares:
        raise ColabMagicsError(
            f"An imported checkpoint does not go on with objective: {recipe.objective}.",
            "Its steps were of another loss, and the model that it began from is what answers are compared with.",
            "Merge it into its base model, and name the result as model.",
        )
    told = saved.imported or {}
    full = told.get("method") == "full"
    if full != (recipe.method == "full"):
        raise ColabMagicsError(
            f"The imported checkpoint holds {'a full model' if full else 'a LoRA adapter'}, "
            f"and the recipe says method: {recipe.method}.",
            "The weights of the one are none of the other.",
            "Set method: full." if full else "Set method: lora, or qlora.",
        )
    if full:
        return
    adapter, values = told.get("adapter") or {}, recipe.values()
    rows = [(key, adapter.get(key), values[key]) for key in _MUST_AGREE if _differs(adapter.get(key), values[key])]
    if rows:
        raise ColabMagicsError(
            "The recipe's LoRA is not the imported adapter's.",
            "With other values the same weights are another adapter.",
            f"Set {', '.join(f'{key}: {_shown(was)}' for key, was, _ in rows)}.",
            details=[f"{key}: {_shown(was)} in the checkpoint, {_shown(now)} in the recipe" for key, was, now in rows],
        )
    _check_modules(saved, adapted_shapes(source, recipe))


def _check_modules(saved: Saved, here: dict[str, tuple[int, ...]]) -> None:
    there = adapted_modules(read_tensors(saved.folder / ADAPTER))
    if odd := sorted(set(there) ^ set(here)):
        modules = sorted({name.rpartition(".")[2] for name in there})
        known = {name.rpartition(".")[2] for name in here}
        where = "the checkpoint" if odd[0] in there else "the recipe"
        raise ColabMagicsError(
            "The recipe's target_modules are not the imported adapter's.",
            f"{odd[0]} has an adapter only in {where}.",
            f"Set target_modules: {', '.join(modules)}." if set(modules) != known else "Set model as it was there.",
        )
    for name, shape in here.items():
        sides = (there[name]["A"][1], there[name]["B"][0])
        if sorted(sides) != sorted(shape):  # Conv1D keeps them the other way round
            raise ColabMagicsError(
                "The imported adapter was made for another model.",
                f"{name} is {sides[0]} by {sides[1]} there, and {shape[-1]} by {shape[0]} here.",
                "Set model as it was there.",
            )


def _differs(was: object, now: object) -> bool:
    if isinstance(was, list | None) and isinstance(now, list | None):
        return set(was or ()) != set(now or ())
    return was != now


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)


def check_steps(saved: Saved, plan: Plan) -> None:
    """Raise where the recipe ends at the checkpoint's step, or before it."""
    step, total = _step(saved), int(plan["total_steps"])
    if total <= step:
        raise ColabMagicsError(
            f"There is nothing left to train: the imported checkpoint is of step {step:,}, and the recipe "
            f"has {total:,}.",
            "Its steps are counted on from there.",
            f"Set max_steps: {step + max(total, 1)} for {max(total, 1):,} more, or raise num_train_epochs.",
        )


def _step(saved: Saved) -> int:
    return int(saved.state["progress"]["step"])


def begin(task: Task, progress: Progress, saved: Saved, recipe: Recipe) -> list[str]:
    """Put the imported weights, its step and, if there are any, the optimizer's moments where the loop begins.

    Returns
    -------
    What is not as it was there, one sentence each.
    """
    step, told = _step(saved), saved.imported or {}
    differs = []
    cast = put_weights(task.model, saved, cast=True)
    if cast:
        differs.append(f"its weights are {' and '.join(sorted(cast))} there, and F32 here")
    differs.append(_put_moments(task, saved))
    progress.step, progress.samples = step, task.order.position(step)
    progress.last_loss = saved.state["progress"].get("last_loss")
    put_schedule(task.schedule, step)
    differs.append(_order_said(task.order, step, told.get("epoch")))
    base = (told.get("adapter") or {}).get("base")
    if base is not None and base != recipe.model:
        differs.append(f"the adapter was made for {base}, and is trained on {recipe.model}")
    return differs


def _order_said(order: Order, step: int, epoch: object) -> str:
    said = "the order of the samples is ours: rows of the present epoch may be taken twice, or not at all"
    here = step / order.steps_per_epoch
    if isinstance(epoch, float) and abs(epoch - here) > 0.05 * max(epoch, here):
        said += f"; step {step:,} was epoch {epoch:.2f} there, and is {here:.2f} with this effective_batch_size"
    return said


def _put_moments(task: Task, saved: Saved) -> str:
    """Put the imported moments into the optimizer, if all of them fit; what to say of it."""
    groups = (saved.imported or {}).get("groups")
    fresh = "the optimizer begins without moments"
    if groups is None:
        return f"{fresh}: they were not imported"
    if type(task.optimizer) is not torch.optim.AdamW:
        return f"{fresh}: those imported are AdamW's, and it is {type(task.optimizer).__name__}"
    read = read_tensors(saved.folder / OPTIMIZER)
    theirs = _in_their_order(task.model, [int(size) for size in groups])
    if theirs is None:
        trained = sum(1 for parameter in task.model.parameters() if parameter.requires_grad)
        return f"{fresh}: those imported are of {sum(groups)} parameters in other groups, and {trained} are trained"
    states: dict[nn.Parameter, dict[str, Any]] = {}
    for place, parameter in enumerate(theirs):
        found = {key: read.get(f"{key}/#{place}") for key in ("exp_avg", "exp_avg_sq", "step")}
        if not _fit(found, parameter):
            return f"{fresh}: those imported do not have the shapes of what is trained"
        states[parameter] = {key: tensor_of(one).clone() for key, one in found.items() if one is not None}
    packed = task.optimizer.state_dict()
    here = [parameter for group in task.optimizer.param_groups for parameter in group["params"]]
    placed = {index: states[parameter] for index, parameter in enumerate(here)}
    task.optimizer.load_state_dict({"state": placed, "param_groups": packed["param_groups"]})
    return "the optimizer has the imported moments, and the recipe's rate, decay and schedule"


def _fit(found: dict[str, Tensor | None], parameter: nn.Parameter) -> bool:
    shapes = {key: one.shape if one is not None else None for key, one in found.items()}
    return shapes == {"exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape), "step": ()}


def _in_their_order(model: nn.Module, groups: list[int]) -> list[nn.Parameter] | None:
    """What is trained in the order of the Trainer's optimizer: what decays, then the rest; None if it was another."""
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in _trained(model):
        plain = _NOT_DECAYED.search(name.lower()) or f"{name.rpartition('.')[0]}." in norms
        (others if plain else decayed).append(parameter)
    return decayed + others if groups in ([len(decayed), len(others)], [len(decayed)]) else None


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
