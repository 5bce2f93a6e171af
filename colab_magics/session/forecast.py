"""When the training ends: measured from its own steps, with how sure that is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Forecast:
    """Seconds from now until the training ends.

    Attributes
    ----------
    p50, p90 : float
        With even odds, and with nine chances in ten, it has ended by then.
    measured : bool
        From the run's own steps; False: from the plan, before two steps were taken.
    """

    p50: float
    p90: float
    measured: bool = True
