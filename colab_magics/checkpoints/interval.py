"""How often to save: Young's and Daly's interval, from what a save really costs the training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from colab_magics.errors import ColabMagicsError

# Half of all free sessions that end without a word do so within this time (reports of 40 minutes to 5 hours).
MEAN_TIME_BETWEEN_DEATHS = 3 * 3600.0
SHORTEST, LONGEST = 60.0, 900.0
_STEPS = re.compile(r"([1-9][0-9]*)\s*steps?")


@dataclass(frozen=True)
class Every:
    """When a save is due: after so many seconds (None: what the measured stall says), or at every so many steps."""

    seconds: float | None = None
    steps: int | None = None

    @staticmethod
    def of(save_every: float | str) -> Every:
        """What `save_every` says: "auto", seconds, or "25 steps".

        Raises
        ------
        ColabMagicsError
            It says none of these.
        """
        if save_every == "auto":
            return Every()
        if isinstance(save_every, str) and (found := _STEPS.fullmatch(save_every.strip())):
            return Every(steps=int(found[1]))
        if isinstance(save_every, int | float) and not isinstance(save_every, bool) and save_every > 0:
            return Every(seconds=float(save_every))
        raise ColabMagicsError(
            f"save_every={save_every!r} says no time.",
            'It can be "auto", a number of seconds, or "25 steps".',
            'Leave it out: "auto" saves every 1 to 15 minutes, by what a save costs.',
        )

    def interval(self, stalls: Sequence[float]) -> float:
        """Seconds between two saves, where none are given in steps, after saves for which the loop waited so long."""
        if self.seconds is not None:
            return self.seconds
        return best_interval(max(stalls[-5:])) if stalls else SHORTEST


def best_interval(stall: float, mean_time: float = MEAN_TIME_BETWEEN_DEATHS) -> float:
    """Seconds between two saves at which lost work and time spent saving are least together, from 60 to 900.

    Parameters
    ----------
    stall : float
        Seconds for which the training waited at a save, as measured.
    mean_time : float
        Seconds from one death of the machine to the next, on average.

    Notes
    -----
    T = sqrt(2 x stall x mean_time): J. W. Young, CACM 17 (1974); J. T. Daly, FGCS 22 (2006).
    """
    return min(LONGEST, max(SHORTEST, math.sqrt(2 * max(0.0, stall) * mean_time)))
