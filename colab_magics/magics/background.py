"""A panel that moves on after its cell has returned: a callback on the kernel's own event loop, in its main thread.

No thread is needed: while no cell runs, the kernel waits in that loop. While one does, the panel waits for it. And as
the kernel listens then, the panel's buttons work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from pathlib import Path

from colab_magics import worker
from colab_magics.magics.display import INTERVAL, Panel, Widget
from colab_magics.magics.follow import Follower

_log = logging.getLogger(__name__)

# (the run's folder, whether it is %panel's): the same command again replaces what it showed before
_moving: dict[tuple[Path, bool], MovingPanel] = {}


class MovingPanel:
    """Follows a run from the event loop until it ends; then plain output takes the place of the widgets."""

    def __init__(self, follower: Follower, panel: Panel, screen: Widget, loop: asyncio.AbstractEventLoop) -> None:
        self._follower = follower
        self._panel = panel
        self._screen = screen
        self._loop = loop
        self._next: asyncio.TimerHandle | None = None
        screen.offer({"stop": follower.stop, "save": lambda: worker.Control(follower.folder).send("save")})

    def start(self) -> None:
        self._next = self._loop.call_later(INTERVAL, self._look)

    def leave(self) -> None:
        """Stop moving; the frame that is there stays, without the buttons, which nobody would hear."""
        with suppress(Exception):
            self._panel.finish(self._follower.last_state() if self._ended() else self._follower.state)
        self._stop()

    def _look(self) -> None:
        # first of all: what may be raised into this callback by an interrupt is not ours to stop at
        self.start()
        try:
            if not self._ended():
                # no cell waits for it, whatever it does: nothing to interrupt
                self._panel.update(self._follower.state.put_aside())
                self._screen.pending(worker.Control(self._follower.folder).pending())
                return
            self._stop()
            self._panel.finish(self._follower.last_state())
        except Exception:  # nothing of a panel may reach the kernel's loop
            _log.debug("the panel stops moving", exc_info=True)
            self.leave()

    def _ended(self) -> bool:
        follower = self._follower
        alive = follower.alive()  # asked before reading: what it wrote before it went is then read
        follower.read()
        return not alive and not follower.is_copied()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._follower.close()
        for key in [key for key, moving in _moving.items() if moving is self]:
            del _moving[key]


def go_on(follower: Follower, panel: Panel, *, asked: bool = False) -> bool:
    """Have `panel` follow on while the kernel is free; whether it does.

    Parameters
    ----------
    asked : bool
        By `%panel`, and not by the cell that started the run.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if not isinstance(panel.screen, Widget) or threading.current_thread() is not threading.main_thread():
        return False
    key = (follower.run, asked)
    if key in _moving:
        _moving[key].leave()
    _moving[key] = MovingPanel(follower, panel, panel.screen, loop)
    _moving[key].start()
    return True


def leave_all() -> None:
    """Stop all panels that move: for the extension's end."""
    for moving in list(_moving.values()):
        moving.leave()
