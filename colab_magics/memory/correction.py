"""A prediction put right by what a worker of the same run has measured."""

from __future__ import annotations

from dataclasses import astuple, fields, replace

from colab_magics.memory.estimate import Estimate, estimate
from colab_magics.memory.measured import Measured
from colab_magics.memory.prediction import Prediction
from colab_magics.plan import ModelShape

_MOVING = ("activations", "attention", "dequantised", "head")


def corrected(made: Prediction, shape: ModelShape, seen: Measured) -> Prediction:
    """The prediction, with what moves in it scaled as much as the measured step was off.

    That step had fewer tokens in memory than the plan reckons with, or more: it is compared with what the formula says
    of just those.
    """
    # as many documents as the plan has at once: their mask, or their scores, go by the length of each
    length = max(1, round(seen.in_memory / made.setup.documents))
    expected = estimate(shape, replace(made.setup, length=length))
    moving = sum(getattr(expected, name) for name in _MOVING)
    still = expected.peak - moving
    factor = max(0.0, (seen.peak - still) / moving) if moving else 1.0
    values = dict(zip((one.name for one in fields(Estimate)), astuple(made.parts), strict=True))
    scaled = {name: round(value * factor) if name in _MOVING else value for name, value in values.items()}
    return replace(made, parts=Estimate(**scaled), tier=2)
