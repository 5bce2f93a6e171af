"""Does the training end before the session does, and what becomes of it if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "likely", "unlikely", "no", "unknown"]


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
