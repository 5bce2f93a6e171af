"""What the worker has been told to do: by a file in `control/`, by SIGTERM, or by the session's coming end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from colab_magics.errors import Interrupted
from colab_magics.worker import Control


class Orders:
    """Read at every micro-batch, and between the rows and files of the preflight.

    While the worker is only preparing there is nothing to finish, so an order to stop ends it on the spot. Once it
    trains, the loop asks and finishes its step.

    Attributes
    ----------
    phase : str
        What the worker is doing, for a message that must say where it was.
    on_terminate : callable, optional
        Called when SIGTERM comes during the training, in the middle of whatever is under way.
    is_late : callable
        Gives "deadline" once the session's end is near.
    session_left : callable
        Seconds until the session's end, as far as that is known; the copy of the checkpoints has so long.
    """

    def __init__(self, folder: Path) -> None:
        self.phase = "starting"
        self.on_terminate: Callable[[], None] | None = None
        self.is_late: Callable[[], str | None] = lambda: None
        self.session_left: Callable[[], float | None] = lambda: None
        self._control = Control(folder)
        self._training = False
        self._terminated = False
        signal.signal(signal.SIGTERM, self._terminate)
        # The terminal's ^C belongs to whoever follows the run; it becomes an order if it is meant for us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self._terminated = True
        if not self._training:
            raise self.interrupted()
        if self.on_terminate is not None:
            self.on_terminate()

    def moved(self, folder: Path) -> None:
        """The run's folder has its name; orders come there from now on."""
        self._control = Control(folder)

    def training_begins(self) -> None:
        """From here on a stop waits for the end of the step, and the result is written."""
        self._training = True

    def __call__(self) -> str | None:
        """The order to obey: "stop-now", "stop", "deadline" or none."""
        pending = self._control.pending()
        if "stop-now" in pending or self._terminated:  # who sends SIGTERM does not wait for a step
            return "stop-now"
        return "stop" if "stop" in pending else self.is_late()

    def save_is_asked(self) -> bool:
        """Whether a checkpoint was asked for since the last time."""
        return self._control.take("save")

    def stop_if_told(self) -> None:
        """End here if a stop was ordered; for the phases in which nothing is there to be finished."""
        if not self._training and self() is not None:
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        return Interrupted(f"stopped while {self.phase}, before the first step; nothing was trained.")
