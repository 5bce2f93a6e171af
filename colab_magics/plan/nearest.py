"""Of a training that does not fit, the change of its recipe that does, and that changes the least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from colab_magics.errors import ColabMagicsError
from colab_magics.plan.facts import Choice, DataFacts, Device, Estimate, ModelShape, Verdict
from colab_magics.plan.fit import fit
from colab_magics.plan.policies import choose_max_length, make_plan, setup_of
from colab_magics.recipe import Recipe

_SHORTEST = 64  # tokens
_RANK = 16  # of adapters: the usual one
_MICRO = "per_device_train_batch_size"
_Fits = Callable[[Mapping[str, Any]], bool]  # whether the recipe fits with these keys


@dataclass(frozen=True)
class Change:
    """Lines to write into the recipe.

    Attributes
    ----------
    keys : mapping
        Keys of the recipe, and what they become.
    cut : int
        How many documents lose their end by it.
    effective : int
        The effective batch, which stays as it is.
    """

    keys: Mapping[str, Any]
    cut: int = 0
    effective: int = 1

    @property
    def lines(self) -> tuple[str, ...]:
        """As they are pasted: a smaller micro-batch with its accumulation, whichever of them the recipe has."""
        written = dict(self.keys)
        micro = written.get(_MICRO)
        if micro is not None:
            written = {_MICRO: micro, "gradient_accumulation_steps": max(1, self.effective // micro), **written}
        return tuple(f"{key}: {_shown(value)}" for key, value in written.items())

    def __str__(self) -> str:
        cut = f" (it cuts {self.cut:,} documents)" if self.cut else ""
        return f"{', '.join(self.lines)}{cut}"


def resized(shape: ModelShape, recipe: Recipe, changed: Recipe) -> ModelShape:
    """The shape, with what a changed recipe makes of its adapters."""
    if changed.modules_to_save is None:
        shape = replace(shape, saved_parameters=0, saves_head=False)
    if changed.r != recipe.r:
        shape = replace(shape, rank=changed.r, lora_parameters=shape.lora_parameters * changed.r // shape.rank)
    return shape


def nearest_change(
    recipe: Recipe, shape: ModelShape, device: Device, data: DataFacts, verdict: Verdict, estimate: Estimate
) -> Change | None:
    """The change that makes it fit; None where nothing does.

    What changes no result comes first (how much is in memory at once), then what changes it a little; several changes
    only where none alone is enough. `max_length` is the largest that fits.

    Parameters
    ----------
    data : the documents, at their length under the recipe as it stands
    """

    def fits(keys: Mapping[str, Any]) -> bool:
        changed = replace(recipe, **keys)
        try:
            cut = choose_max_length(changed, data.lengths, shape.positions)
            held = replace(data, lengths=np.minimum(data.lengths, cut.value).astype(np.int32), max_length=cut)
            plan = make_plan(changed, shape, device, held, verdict, estimate)
        except ColabMagicsError:
            return False
        sized = resized(shape, recipe, changed)
        setup = setup_of(plan, changed, sized, held.lengths, device)
        return fit(estimate(sized, setup), device, cap=changed.max_memory_bytes).colour != "red"

    effective = recipe.effective_batch_size if isinstance(recipe.effective_batch_size, int) else 1
    steps = list(_steps(recipe, shape, device))
    for keys in steps:
        if fits(keys):
            return Change(keys, effective=effective)
    short = _shorter(data, fits, {})
    if short is not None and short.cut * 100 <= len(data.lengths):
        return short
    together: dict[str, Any] = {}
    for keys in steps:
        together |= keys
        if fits(together):
            return Change(_least(together, steps, fits), effective=effective)
    last = short or _shorter(data, fits, together)
    return replace(last, effective=effective) if last is not None else None


def _steps(recipe: Recipe, shape: ModelShape, device: Device) -> Iterator[dict[str, Any]]:
    """Single changes, the cheapest first."""
    micro = recipe.per_device_train_batch_size
    while isinstance(micro, int) and micro > 1:
        micro = _largest_divisor(micro)
        yield {_MICRO: micro}
    if recipe.gradient_checkpointing is False:
        yield {"gradient_checkpointing": True}
    narrow = recipe.optim in ("paged_adamw_8bit", "adamw_8bit") or (recipe.method == "full" and recipe.optim == "auto")
    if not narrow and (recipe.method == "full" or shape.saved_parameters):
        yield {"optim": "adamw_8bit" if device.kind == "cpu" else "paged_adamw_8bit"}
    if recipe.method == "full":
        yield {"method": "lora"}
    elif recipe.r > _RANK:
        # alpha / r, by which what an adapter adds is scaled, stays as it is
        yield {"r": _RANK, "lora_alpha": max(1, recipe.lora_alpha * _RANK // recipe.r)}
    if recipe.method in ("lora", "full") and not shape.quantised:
        yield {"method": "qlora"}
    if recipe.method != "full" and shape.saved_parameters:
        yield {"modules_to_save": None}


def _largest_divisor(number: int) -> int:
    """Below itself: found by the smallest factor, for a number written with a slip may have many digits."""
    factor = next((one for one in range(2, math.isqrt(number) + 1) if number % one == 0), number)
    return number // factor


def length_that_fits(
    recipe: Recipe, shape: ModelShape, device: Device, data: DataFacts, verdict: Verdict, estimate: Estimate
) -> Choice:
    """The `max_length` of the data, or where `auto` chose more than fits, the longest that does.

    Where nothing fits it stays as it is: a refusal then names what would.
    """
    if recipe.max_length != "auto":
        return data.max_length

    def fits(length: int) -> bool:
        held = replace(data, lengths=np.minimum(data.lengths, length).astype(np.int32))
        try:
            plan = make_plan(recipe, shape, device, held, verdict, estimate)
        except ColabMagicsError:
            return True  # it is told when the plan is made
        setup = setup_of(plan, recipe, shape, held.lengths, device)
        return fit(estimate(shape, setup), device, cap=recipe.max_memory_bytes).colour == "green"

    if fits(data.max_length.value):
        return data.max_length
    longest = _longest(data.max_length.value, fits)
    if longest is None:
        return data.max_length
    cut = int((data.lengths > longest).sum())
    return Choice(
        longest,
        f"the longest of which one {recipe.samples.removesuffix('s')} fits on this {device.name}; {cut:,} of "
        f"{len(data.lengths):,} {recipe.samples} lose their end",
    )


def _shorter(data: DataFacts, fits: _Fits, keys: dict[str, Any]) -> Change | None:
    """The longest `max_length` that fits, in steps of 64."""
    longest = int(data.lengths.max()) if len(data.lengths) else 0
    best = _longest(longest, lambda length: fits({**keys, "max_length": length}))
    if best is None:
        return None
    return Change({**keys, "max_length": best}, int((data.lengths > best).sum()))


def _longest(below: int, fits: Callable[[int], bool]) -> int | None:
    """Of the multiples of 64 below a length, the greatest that fits."""
    low, high, best = 1, max(0, (below - 1) // _SHORTEST), None
    while low <= high:
        middle = (low + high) // 2
        if fits(middle * _SHORTEST):
            best, low = middle * _SHORTEST, middle + 1
        else:
            high = middle - 1
    return best


def _least(keys: dict[str, Any], steps: list[dict[str, Any]], fits: _Fits) -> dict[str, Any]:
    """Without the keys that are not needed beside the others, and each of the others changed as little as will do."""
    kept = dict(keys)
    for key in keys:
        together = ("r", "lora_alpha") if key == "r" else (key,)
        fewer = {other: value for other, value in kept.items() if other not in together and key != "lora_alpha"}
        if fewer and fits(fewer):
            kept = fewer
    for step in steps:
        for key, value in step.items():
            if key in kept and kept[key] == keys[key] and fits({**kept, key: value}):
                kept[key] = value
    return kept


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
