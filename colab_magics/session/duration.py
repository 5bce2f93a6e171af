"""How long a training will take, before its first step: operations a token against what the device gets done.

Of an accelerator's peak, fine-tuning gets a share that the table has from public logs; between one log and the next
lies a factor of two, and so the answer is a band. Where this very device has already been timed, that counts instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.plan import ModelShape, Plan
from colab_magics.session.budget import evaluations_left
from colab_magics.session.table import Accelerator

MODELLED = 2.0  # times and divided by: between public logs of the same card
_LAUNCHES = 2e-3  # seconds a layer and micro-batch: some 100 kernels forward and backward, of 10 to 20 us each
MEASURED = 1.4  # a micro-batch was timed for a moment; the machine has not been under load for an hour


@dataclass(frozen=True)
class Work:
    """What is to be computed: tokens that are trained on and tokens that are only scored, over the whole run.

    Attributes
    ----------
    length : float
        Of a token's document, on average over the tokens: what attention costs.
    micro_batches : float
        How often a GPU is told what to do: small models spend their time on that.
    """

    tokens: float
    scored: float = 0.0
    length: float = 0.0
    micro_batches: float = 0.0


def work_of(plan: Plan, lengths: npt.NDArray[np.int32], *, documents: int, tokens: int, eval_tokens: int = 0) -> Work:
    """The work of a whole run, from its first step to its last.

    Parameters
    ----------
    lengths : of the documents of an epoch, or quantiles of them
    documents, tokens : of an epoch, of which the last step may take fewer than the others
    eval_tokens : of one evaluation
    """
    held = np.asarray(lengths, np.float64)
    length = float((held**2).sum() / held.sum()) if held.size and held.sum() else 0.0
    total, every = int(plan["total_steps"]), plan["eval_every"]
    evaluations = evaluations_left(total, every) if eval_tokens else 0
    steps = max(1, math.ceil(documents / int(plan["effective_batch"])))
    return Work(tokens * total / steps, float(eval_tokens * evaluations), length, float(total * plan["accumulation"]))


@dataclass(frozen=True)
class Duration:
    """Seconds: the estimate, and the band in which the truth should lie."""

    low: float
    mid: float
    high: float

    def times(self, share: float) -> Duration:
        """The same for a part of the work."""
        return Duration(share * self.low, share * self.mid, share * self.high)

    @staticmethod
    def around(seconds: float, factor: float) -> Duration:
        """The band from `seconds / factor` to `seconds * factor`."""
        return Duration(seconds / factor, seconds, seconds * factor)

    def to_dict(self) -> dict[str, float]:
        """How it travels in the plan event."""
        return {"low": round(self.low, 1), "mid": round(self.mid, 1), "high": round(self.high, 1)}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Duration:
        """The duration that `to_dict` wrote."""
        return Duration(float(fields["low"]), float(fields["mid"]), float(fields["high"]))


def passes(plan: Plan) -> tuple[float, float]:
    """How many times the forward's operations a trained token costs: (in the weights, in attention).

    Frozen weights need no gradients of their own, which is a third of a full training's work. Gradient checkpointing
    does the forward twice. Attention has no weights: its backward is always twice its forward.
    """
    again = 1.0 if plan["gradient_checkpointing"] else 0.0
    return (3.0 if plan["method"] == "full" else 2.0) + again, 3.0 + again


def operations(shape: ModelShape, plan: Plan, work: Work) -> float:
    """Floating-point operations of the whole run.

    Parameters
    ----------
    shape : sizes of the model
    plan : its `method` and `gradient_checkpointing` count
    work : tokens, over all epochs and evaluations
    """
    forward = 2.0 * (shape.linear_parameters + shape.vocabulary * shape.hidden)
    # scores and their sum over values, of the half that a causal mask leaves
    attention = 2.0 * work.length * shape.query * shape.layers
    weights, scores = passes(plan)
    return work.tokens * (weights * forward + scores * attention) + work.scored * (forward + attention)


def prior(shape: ModelShape, plan: Plan, accelerator: Accelerator | None, work: Work) -> Duration | None:
    """The duration from the table's figures; None for a device, or a precision of it, of which it has none."""
    if accelerator is None:
        return None
    peak, share = (figures.get(str(plan["precision"])) for figures in (accelerator.flops, accelerator.share))
    if not peak or not share:
        return None
    launches = _LAUNCHES * shape.layers * work.micro_batches if accelerator.capability is not None else 0.0
    return Duration.around(operations(shape, plan, work) / (peak * share) + launches, MODELLED)


def from_measured(shape: ModelShape, plan: Plan, work: Work, seconds: float, tokens: int) -> Duration | None:
    """The duration from `seconds` that forward and backward of `tokens` tokens took on this device."""
    timed = operations(shape, plan, Work(tokens, 0.0, work.length))
    if seconds <= 0 or timed <= 0:
        return None
    return Duration.around(operations(shape, plan, work) * seconds / timed, MEASURED)
