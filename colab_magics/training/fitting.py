"""Whether a plan fits, asked before anything is downloaded: by formula first, by a trace where that is in doubt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.estimate import peak
from colab_magics.memory.prediction import Prediction, by_formula
from colab_magics.plan import GIB, DataFacts, Device, Fit, ModelShape, Plan, Verdict, cap_for, nearest_change
from colab_magics.recipe import Recipe
from colab_magics.sizes import size
from colab_magics.training.source import ModelSource

_WORTH_FREEING = GIB // 4


def check_fit(
    plan: Plan,
    recipe: Recipe,
    source: ModelSource,
    shape: ModelShape,
    verdict: Verdict,
    device: Device,
    data: DataFacts,
    *,
    kernel_holds: int = 0,
    tracing: Callable[[], None] = lambda: None,
) -> str | None:
    """Refuse what cannot fit; returns a caution where little is to spare.

    Parameters
    ----------
    kernel_holds : bytes of the device that the notebook's kernel holds itself, as it says
    tracing : called before a trace, which takes some seconds

    Raises
    ------
    ColabMagicsError
        Even at the lower end of what the estimate may be off by, it does not fit; names the nearest change that does.
    """
    made = by_formula(plan, shape, recipe, device, data.lengths)
    if made.fit.colour == "green":
        return None
    if not recipe.compares:  # the traces are of our own loop
        tracing()
        # what traces imports peft and bitsandbytes, and may not be asked for by most runs
        with suppress(Exception):  # a model's code may raise anything on tensors without numbers: the formula stands
            from colab_magics.training.tracing.answer import traced

            made = traced(made, source, recipe)
    found = made.fit
    if found.colour == "green":
        return None
    figures = f"about {size(found.need)}, and {_to_be_had(found, device)}"
    if found.capped:  # in the recipe's own terms: it caps tensors
        figures = f"about {size(found.peak + found.holes)} for its tensors, and max_memory is {recipe.max_memory}"
    if not found.cannot(made.error):
        if found.colour == "amber":
            return f"memory will be tight: this needs {figures}"
        then = (
            "the run then stops and says what would fit"
            if recipe.compares
            else "the step is then tried in smaller parts"
        )
        return f"memory may run out: this needs {figures}; {then}"
    raise _refusal(made, recipe, shape, verdict, data, figures, kernel_holds)


def _room_without(found: Fit, held: int) -> int:
    """What there would be with so much of what is held given back."""
    return replace(found, held=max(0, found.held - held)).room


def _to_be_had(found: Fit, device: Device) -> str:
    if found.room < found.total:
        return f"{size(found.room)} of {device.shown} can be had"
    return f"there is a {device.shown}" if device.kind == "cuda" else f"there is {device.shown}"


def _refusal(
    made: Prediction,
    recipe: Recipe,
    shape: ModelShape,
    verdict: Verdict,
    data: DataFacts,
    figures: str,
    kernel_holds: int,
) -> ColabMagicsError:
    device, found, setup = made.device, made.fit, made.setup
    what = "answers" if recipe.compares else "documents"
    at_once = f"{setup.documents} {what}" if setup.documents > 1 else f"one {what[:-1]}"
    if setup.reference:
        at_once = f"the reference model and {at_once}"
    checkpointing = " with gradient checkpointing" if setup.gradient_checkpointing else ""
    said = (
        f"This does not fit: {setup.method} with {at_once} of {setup.length:,} tokens at once{checkpointing} needs "
        f"{figures}."
    )
    others = max(0, found.held - kernel_holds)
    held = [
        f"this notebook's kernel holds {size(kernel_holds)}" if kernel_holds >= _WORTH_FREEING else "",
        f"other processes hold {size(others)}" if others >= _WORTH_FREEING and device.kind == "cuda" else "",
    ]
    why = "; ".join(filter(None, held))
    raised = found.capped and replace(found, cap=None).colour != "red"
    change = nearest_change(recipe, shape, device, data, verdict, peak)
    steps = []
    if kernel_holds >= _WORTH_FREEING and found.need <= _room_without(found, kernel_holds):
        steps.append("%vram free gives back what the kernel holds: then it fits as it is.")
    elif kernel_holds >= _WORTH_FREEING:
        steps.append("%vram free gives back what the kernel holds.")
    if others >= _WORTH_FREEING and device.kind == "cuda" and found.need <= _room_without(found, found.held):
        steps.append("On an empty card it fits as it is: end the other processes there (%vram names them).")
    if change is not None:
        cut = f" (it cuts {change.cut:,} of {len(data.lengths):,} {recipe.samples})" if change.cut else ""
        lines = "; ".join(change.lines)
        steps.append(f"{'Or change' if steps else 'Change'} the recipe, the least that fits: {lines}{cut}")
    elif not steps and not raised:
        steps.append("Use a smaller model, or a larger GPU: %vram estimate --model ID --gpu L4 tells beforehand.")
    if raised:
        steps.append(f"{'Or set' if steps else 'Set'} max_memory: {cap_for(found.peak)}")
    return ColabMagicsError(said, f"{why[:1].upper()}{why[1:]}." if why else "", *steps)
