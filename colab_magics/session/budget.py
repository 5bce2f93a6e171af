"""Does the training end before the session does, and what becomes of it if not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from colab_magics.session.forecast import Forecast
from colab_magics.session.here import Session

Answer = Literal["yes", "likely", "unlikely", "no", "unknown"]

# Before the session's end: a save with time to copy it elsewhere, then a clean stop.
SAVE_BEFORE, STOP_BEFORE = 15 * 60.0, 5 * 60.0


@dataclass(frozen=True)
class Budget:
    """The training's rest against the session's.

    Attributes
    ----------
    answer : str
        `yes` if even the P90 fits, `likely` if the P50 does, `unlikely` if only less than the P50 does,
        `no` if not half of the P50 does; `unknown` without a limit or a forecast.
    left : float, optional
        Seconds until the clean stop.
    stops_at : int, optional
        The step at which it will be stopped, where it does not end before.
    sessions : int
        How many sessions it takes, this one included.
    """

    answer: Answer
    left: float | None = None
    stops_at: int | None = None
    sessions: int = 1


def budget(forecast: Forecast | None, session: Session | None, step: int, total_steps: int | None) -> Budget:
    """Set the forecast of the training's end against the session's.

    Parameters
    ----------
    forecast : seconds until the training ends, if that is known
    session : whose `left` counts, less what the clean stop takes
    step, total_steps : where the training is
    """
    rest = session.left if session is not None else None
    if session is None or rest is None:
        return Budget("unknown")
    left = max(0.0, rest - STOP_BEFORE)
    if forecast is None:
        return Budget("unknown", left)
    if forecast.p90 <= left:
        return Budget("yes", left)
    if forecast.p50 <= left:
        return Budget("likely", left)
    stops_at = None
    if total_steps is not None:
        stops_at = min(total_steps, step + math.floor((total_steps - step) * left / forecast.p50))
    further = sessions_for(forecast.p50 - left, session.limit)
    return Budget("unlikely" if 2 * left >= forecast.p50 else "no", left, stops_at, 1 + (further or 0))


def sessions_for(seconds: float, limit: float | None) -> int | None:
    """How many whole sessions of `limit` seconds hold `seconds` of training; None where no number of them does."""
    if limit is None:
        return 1
    useful = limit - STOP_BEFORE
    return max(1, math.ceil(seconds / useful)) if useful > 0 else None


def evaluations_left(total: int, every: int | None, step: int = 0, scored: int = 0) -> int:
    """How many evaluations are still to come: one every so many steps, and one after the last.

    Parameters
    ----------
    total : steps of the run
    every : steps between two; None: only the one after the last
    step : the newest
    scored : the step of the newest evaluation: that of the newest step comes after it, and is to come until it is told
    """
    after = step if scored >= step else step - 1
    at_the_end = after < total and (not every or total % every != 0)
    return at_the_end + (max(0, total // every - after // every) if every else 0)


def seconds_of_evaluation(took: Sequence[float], tokens: int | None, tokens_per_second: float | None) -> float:
    """What one evaluation takes: as those before, and until there is one a third of training on its tokens."""
    if took:
        return sum(took) / len(took)
    return tokens / tokens_per_second / 3 if tokens and tokens_per_second else 0.0
