"""Trials as they are shown: what each was of, where it is, and which is the best. Pure: runs' states in, words out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from colab_magics.panel import words
from colab_magics.panel.state import PanelState

Standing = Literal["waiting", "training", "finished", "stopped", "failed"]

LAST_PART = 0.25  # of a trial's steps: the mean loss of these is its smoothed training loss
BEST_BY = {"eval_loss": "evaluation loss", "loss": "training loss, the mean of the last quarter"}
_SHORT = {"learning_rate": words.rate}


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes
    ----------
    run : str
        The name of its run; empty before it has one.
    values : mapping
        What differs between the trials.
    state : PanelState, optional
        Its run's; None before it has begun.
    reason : str
        Why it failed.
    """

    run: str
    values: Mapping[str, Any]
    state: PanelState | None = None
    standing: Standing = "waiting"
    reason: str = ""

    @property
    def smoothed(self) -> float | None:
        """The mean training loss of the last quarter of its steps so far."""
        points = self.state.curve.drawn() if self.state is not None else ()
        last = points[len(points) - max(1, round(LAST_PART * len(points))) :]
        return math.fsum(y for _, y in last) / len(last) if last else None

    @property
    def eval_loss(self) -> float | None:
        """The loss of its last evaluation."""
        return self.state.evals[-1].loss if self.state is not None and self.state.evals else None

    @property
    def seconds(self) -> float | None:
        """What the last attempt took, from its worker's start to its end."""
        state = self.state
        if state is None or state.began_clock is None or state.ended_clock is None:
            return None
        return state.ended_clock - state.began_clock

    @property
    def tokens_per_second(self) -> float | None:
        """Over the last attempt's training, not of one step."""
        state = self.state
        if state is None or not state.seconds or state.tokens is None or state.resumed_step:
            return state.tokens_per_second if state is not None else None
        return state.tokens / state.seconds

    @property
    def memory(self) -> float | None:
        """Bytes: the most that was allocated on the GPU; on a CPU, what the worker held."""
        memory = self.state.memory if self.state is not None else None
        return None if memory is None else memory.peak if memory.peak is not None else memory.resident

    def score(self, best_by: str) -> float | None:
        """What it is compared by; None before it is finished, and where that was not measured."""
        score = self.eval_loss if best_by == "eval_loss" else self.smoothed
        return score if self.standing == "finished" and score is not None and math.isfinite(score) else None

    def called(self) -> str:
        """Its values, in few words."""
        return ", ".join(f"{key} {shown(key, value)}" for key, value in self.values.items())


def best_of(trials: Sequence[Trial], best_by: str) -> int | None:
    """Which of them is the best; the first of equals, None where none is finished."""
    scores = [(score, place) for place, trial in enumerate(trials) if (score := trial.score(best_by)) is not None]
    return min(scores)[1] if scores else None


def shown(key: str, value: Any) -> str:
    """A value as short as it can be read."""
    if isinstance(value, float) and key in _SHORT:
        return _SHORT[key](value)
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "nothing"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
