"""What a training will take on a device: the plan that would be made there, and its peak by the closed formula."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from colab_magics.memory.estimate import Estimate, estimate, peak
from colab_magics.plan import (
    DataFacts,
    Device,
    Fit,
    ModelShape,
    Plan,
    Setup,
    Verdict,
    choose_max_length,
    fit,
    make_plan,
    setup_of,
)
from colab_magics.recipe import Recipe

# The formula against traces, worst cases of benchmarks/memory grid: scores that are kept are counted roughly.
_BY_FORMULA = {"fused": 0.08, "grouped": 0.08, "math": 0.30, "eager": 0.30}
_ROUGH = 0.15  # with DoRA, or with modules that are trained whole beside adapters
Tier = Literal[0, 1, 2]
# Of the peak, by how far an estimate may be off: the formula against traces, a trace against what was measured, and
# what a measurement of the same run has corrected (docs/memory.md).
ERROR: dict[Tier, float] = {0: 0.08, 1: 0.03, 2: 0.02}


@dataclass(frozen=True)
class Prediction:
    """A training on a device.

    Attributes
    ----------
    tier : int
        0: by formula; 1: traced; 2: corrected by what a worker has measured.
    moment : str
        When the peak is, of a trace.
    cap : int, optional
        `max_memory` in bytes.
    rough : bool
        Whether the formula knows the adapters but roughly.
    """

    device: Device
    plan: Plan
    setup: Setup
    parts: Estimate
    tier: Tier = 0
    moment: str = ""
    cap: int | None = None
    rough: bool = False

    @property
    def fit(self) -> Fit:
        """Whether it fits there."""
        return fit(self.parts.peak, self.device, cap=self.cap)

    @property
    def error(self) -> float:
        """By what share of it the peak may be off."""
        if self.tier > 0:
            return ERROR[self.tier]
        return max(_BY_FORMULA[self.setup.attention], _ROUGH if self.rough else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, bytes."""
        found = self.fit
        return {
            "device": asdict(self.device),
            "plan": self.plan.to_dict(),
            "setup": asdict(self.setup),
            "parts": {**asdict(self.parts), "context": found.context, "margin": found.holes},
            "peak": self.parts.peak,
            "need": found.need,
            "room": found.room,
            "verdict": found.colour,
            "tier": self.tier,
            "moment": self.moment,
        }


def predict(
    shape: ModelShape, verdict: Verdict, recipe: Recipe, device: Device, lengths: npt.NDArray[np.int32]
) -> Prediction:
    """The plan for documents of these lengths, and what it takes.

    Raises
    ------
    ColabMagicsError
        The recipe asks for what the device or the model cannot do.
    """
    cut = choose_max_length(recipe, lengths, shape.positions)
    held = np.minimum(lengths, cut.value).astype(np.int32)
    plan = make_plan(recipe, shape, device, DataFacts(held, 0, cut), verdict, peak)
    return by_formula(plan, shape, recipe, device, held)


def by_formula(
    plan: Plan, shape: ModelShape, recipe: Recipe, device: Device, lengths: npt.NDArray[np.int32]
) -> Prediction:
    """What a plan that is made already takes, with documents of the lengths that it was made for."""
    setup = setup_of(plan, recipe, shape, lengths, device)
    rough = shape.dora or shape.saved_parameters > 0  # DoRA, and modules that are trained whole beside adapters
    return Prediction(device, plan, setup, estimate(shape, setup), cap=recipe.max_memory_bytes, rough=rough)


def peers(setup: Setup, shape: ModelShape, device: Device) -> dict[str, Setup]:
    """The same micro-batch on the way that others take, by their names.

    Of TRL: adapters of a quantised model in bf16; of both: checkpointing as their configs have it, and on a GPU below
    capability 8.0 torch's own attention where heads are grouped and rows are of one length, as a single one is.
    """
    old = device.kind == "cuda" and (device.capability or (0, 0)) < (8, 0)
    # a window that cuts comes as a mask, for which the heads are repeated: that takes the fused kernel
    windowed = shape.window is not None and setup.length > shape.window
    grouped = shape.key_value != shape.query and not windowed
    attention: Any = "math" if old and grouped else "fused" if device.kind == "cpu" or old else "grouped"
    theirs = replace(setup, attention=attention, packed=False)
    adapters = 2 if setup.method == "qlora" else 4
    return {
        "TRL 1.16": replace(theirs, loss="trl", adapter_bytes=adapters, gradient_checkpointing=True),
        "transformers Trainer": replace(theirs, loss="logits", gradient_checkpointing=False),
    }


def fixed_lengths(length: int, documents: int = 64) -> npt.NDArray[np.int32]:
    """So many documents of that length: where there is no data, each is as long as it may be."""
    return np.full(documents, length, np.int32)
