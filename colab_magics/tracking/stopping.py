"""How a loop is asked to end at its next `log`: by an interrupt, from elsewhere, or by the end of the session."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Leave(SystemExit):
    """Raised by `log` to end a person's loop; `track` turns it into what he sees.

    No `except Exception` of his stops it.
    """


class Presses:
    """How often the cell was interrupted. The first asks for the end of the step; the second does not wait for it.

    Parameters
    ----------
    hurry : callable
        Has the next `log` look at once.
    outer : Presses, optional
        Of the loop within which this one is tracked: it is asked to end too.
    """

    def __init__(self, hurry: Callable[[], None], outer: Presses | None = None) -> None:
        self.count = 0
        self._hurry, self._outer = hurry, outer

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        self._press()
        if self.count > 1:
            raise KeyboardInterrupt

    def _press(self) -> None:
        self.count += 1
        self._hurry()
        if self._outer is not None:
            self._outer._press()


@contextmanager
def interrupts(hurry: Callable[[], None]) -> Iterator[Presses]:
    """Take SIGINT for as long as the context lasts; outside the main thread nobody may, and nobody does."""
    if threading.current_thread() is not threading.main_thread():
        yield Presses(hurry)
        return
    before: Any = signal.getsignal(signal.SIGINT)
    presses = Presses(hurry, before if isinstance(before, Presses) else None)
    signal.signal(signal.SIGINT, presses)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)
