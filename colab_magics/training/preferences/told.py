"""What the log tells of a comparison: its figures by TRL's names, and an out-of-memory, which ends it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.training.oom import Arrangement, OutOfMemory
from colab_magics.training.oom_told import told
from colab_magics.training.preferences.rows import Rows

REWARDS = ("chosen", "rejected", "margins", "accuracies")
_OTHERS = ("kl", "nll_loss", "log_odds_ratio")


def figures(logs: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Of what a trainer logs, the fields of a `step` or `eval` event: `rewards` by kind, and what its loss is made of.

    A micro-batch of KTO may hold no rejected answer: what is not known, or no number, is left out.
    """
    rewards = _known({name: logs.get(f"{prefix}rewards/{name}") for name in REWARDS})
    if "margins" not in rewards and {"chosen", "rejected"} <= rewards.keys():
        # KTO's margin is no number where one micro-batch of the step held but one judgement
        rewards["margins"] = rewards["chosen"] - rewards["rejected"]
    others = _known({name: logs.get(f"{prefix}{name}") for name in _OTHERS})
    return {**({"rewards": rewards} if rewards else {}), **others}


def _known(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(number) for name, number in numbers.items() if number is not None and math.isfinite(float(number))
    }


def told_of(
    failure: OutOfMemory, rows: Rows, samples: Sequence[int], step: int, arrangement: Arrangement, *, first: bool
) -> dict[str, Any]:
    """The fields of an `oom` event: counted in samples, of which a pair has two answers in memory at once."""
    return told(failure, step=step, arrangement=arrangement, first=first) | {
        "documents": len(samples),
        "tokens": rows.tokens(samples),
        "in_memory": rows.padded(samples),
    }


def does_not_fit(failure: OutOfMemory, oom: Mapping[str, Any], *, objective: str) -> ColabMagicsError:
    """A micro-batch does not fit. It is not split by itself: TRL's losses look at a micro-batch as a whole."""
    samples, longest = int(oom["documents"]), max(oom["tokens"], default=0)
    what = ("pair" if objective != "kto" else "answer") + ("s" if samples != 1 else "")
    least = 2 if objective == "kto" else 1
    steps = []
    if samples > least:
        steps.append(f"per_device_train_batch_size: {max(least, samples // 2)} (the effective batch stays as it is)")
    if not oom["gradient_checkpointing"]:
        steps.append("gradient_checkpointing: true, for a third more compute")
    return ColabMagicsError(
        f"Out of memory at step {oom['step']}: {samples} {what} of up to {longest} tokens do not fit together.",
        f"TRL compares a micro-batch as a whole, so it is not split without being asked. {failure.first_line}",
        *steps[:2],
        "Or a smaller max_length, adapter: qlora, or a smaller model.",
        "%%finetune --override goes on from the last checkpoint with it.",
        facts={"oom": dict(oom)},
    )
