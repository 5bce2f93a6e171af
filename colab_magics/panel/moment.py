"""What is true outside of the run at the moment at which a frame is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from colab_magics.session.here import Session


@dataclass(frozen=True)
class Moment:
    """The clock and the session; the run's events know neither.

    Attributes
    ----------
    now : float, optional
        Seconds since the epoch, on the clock of the events; None in a frame that stays, where an age would go stale.
    session : Session, optional
    idle : float, optional
        Seconds since the last cell of this kernel was run, where no cell is running.
    flags : tuple of str
        Red flags of this machine (disk, Drive, hours), each a sentence.
    """

    now: float | None = None
    session: Session | None = None
    idle: float | None = None
    flags: tuple[str, ...] = ()
