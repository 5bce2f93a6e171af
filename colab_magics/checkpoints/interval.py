"""How often to save: Young's and Daly's interval, from what a save really costs the training."""

from __future__ import annotations

import math

# Half of all free sessions that end without a word do so within this time (reports of 40 minutes to 5 hours).
MEAN_TIME_BETWEEN_DEATHS = 3 * 3600.0
SHORTEST, LONGEST = 60.0, 900.0


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
