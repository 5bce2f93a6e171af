"""From a recipe and devices to traced predictions: describe, probe, plan, trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.memory.estimate import Estimate
from colab_magics.memory.prediction import Prediction, peers, predict
from colab_magics.plan import Device, Setup
from colab_magics.recipe import Recipe
from colab_magics.training import attention
from colab_magics.training.model import describe
from colab_magics.training.probe import probe
from colab_magics.training.source import ModelSource
from colab_magics.training.tracing.extrapolate import Moments, peak_of, whole
from colab_magics.training.tracing.scene import Case, trace

_PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "attention", "dequantised", "head", "copies")


def answer(
    source: ModelSource,
    recipe: Recipe,
    devices: Sequence[Device],
    lengths: npt.NDArray[np.int32],
    *,
    compare: bool = False,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Everything in plain values: the model's shape, its verdict, and a prediction for each device.

    Parameters
    ----------
    lengths : of the documents
    compare : also what others' way takes
    cache : where verdicts are kept
    """
    shape = describe(source, recipe)
    verdict = probe(source.config, cache, trust_remote_code=recipe.trust_remote_code)
    made = []
    for device in devices:
        planned = predict(shape, verdict, recipe, device, lengths)
        made.append(
            {
                **_told(traced(planned, source, recipe)),
                "peers": {
                    name: asdict(_parts(_moments(source, recipe, setup, _theirs(setup), device))[1])
                    for name, setup in (peers(planned.setup, shape, device) if compare else {}).items()
                },
            }
        )
    return {"shape": asdict(shape), "verdict": asdict(verdict), "predictions": made}


def traced(planned: Prediction, source: ModelSource, recipe: Recipe) -> Prediction:
    """The prediction with its parts from a trace of the model's own code."""
    moments = _moments(source, recipe, planned.setup, planned.plan["attention"], planned.device)
    moment, parts = _parts(moments)
    return replace(planned, parts=parts, tier=1, moment=moment)


def _moments(source: ModelSource, recipe: Recipe, setup: Setup, implementation: str, device: Device) -> Moments:
    case = Case(source.config, recipe, setup, implementation, device.kind, device.capability)
    return whole(source.config, lambda layers: trace(case, layers))


def _parts(moments: Moments) -> tuple[str, Estimate]:
    moment, parts = peak_of(moments)
    return moment, Estimate(**{name: parts.get(name, 0) for name in _PARTS})


def _theirs(setup: Setup) -> str:
    """Packed rows need ours; everything else is the library's own."""
    return attention.NAME if setup.packed else "sdpa"


def _told(made: Prediction) -> dict[str, Any]:
    return {
        "plan": made.plan.to_dict(),
        "setup": asdict(made.setup),
        "parts": asdict(made.parts),
        "moment": made.moment,
    }
