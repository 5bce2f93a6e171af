"""When this kernel's cells were run, as IPython tells it. Platforms end a machine whose kernel runs none for long.

It is only looked at, and never brought about: nothing here pretends to be a user.
"""

from __future__ import annotations

from typing import Any

from colab_magics.session.clock import BootClock

_CLOCK = BootClock()


class Activity:
    """The kernel's last cells. Seconds on the clock of `BootClock`, which goes on while the machine sleeps.

    Attributes
    ----------
    began : float, optional
        When the cell that runs now was begun; None while none runs.
    ended : float, optional
        When the last cell that ran to its end ended; None before the first.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended: float | None = None

    def idle(self) -> float | None:
        """Seconds since the last cell ended; None while one runs, and where none has run yet."""
        return None if self.began is not None else self.since_last()

    def since_last(self) -> float | None:
        """Seconds since the last cell ended, the one that runs now left out; None where there was none."""
        return None if self.ended is None else max(0.0, _CLOCK.now() - self.ended)


ACTIVITY = Activity()
"""Of this process, which is one kernel."""


# IPython calls hooks with what it pleases, by version, and prints a traceback into the user's cell if one raises.


def cell_begins(*_: Any) -> None:
    """For IPython's `pre_run_cell`."""
    ACTIVITY.began = _CLOCK.now()


def cell_ended(*_: Any) -> None:
    """For IPython's `post_run_cell`."""
    ACTIVITY.began, ACTIVITY.ended = None, _CLOCK.now()


HOOKS = {"pre_run_cell": cell_begins, "post_run_cell": cell_ended}
