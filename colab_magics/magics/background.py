"""A panel that moves on after its cell has returned: a callback on the kernel's own event loop, in its main thread.

No thread is needed: while no cell runs, the kernel waits in that loop. While one does, the panel waits for it. And as
the kernel listens then, the panel's buttons work.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from colab_magics import worker
from colab_magics.magics.display import INTERVAL, Notebook, Panel, Widget
from colab_magics.magics.follow import Follower
from colab_magics.panel.parts import Saved

_log = logging.getLogger(__name__)
_SAVED_BEFORE = 5.0  # seconds after which no checkpoint comes, since the step had one

# (the run's folder, whether it is %panel's): the same command again replaces what it showed before
_moving: dict[tuple[Path, bool], MovingPanel] = {}


class MovingPanel:
    """Follows a run from the event loop until it ends; its last frame stays, without the buttons."""

    def __init__(
        self, follower: Follower, panel: Panel, screen: Notebook | Widget, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._follower = follower
        self._panel = panel
        self._screen = screen
        self._loop = loop
        self._next: asyncio.TimerHandle | None = None
        self._asked: float | None = None  # when a save was asked for that has not been seen yet
        self._saved: Saved | None = None  # the newest checkpoint by then
        screen.offer({"stop": follower.stop, "save": self._save})

    def start(self) -> None:
        self._next = self._loop.call_later(INTERVAL, self._look)

    def leave(self, *, shown_again: bool = False) -> None:
        """Stop moving; a frame stays that says of when it is, without the buttons, which nobody would hear."""
        with suppress(Exception):
            if self._ended():
                self._panel.finish(self._follower.last_state().put_aside(time.time()))
            else:
                self._panel.finish(self._follower.state.put_aside(time.time(), shown_again=shown_again))
        self._stop()

    def _look(self) -> None:
        # first of all: what may be raised into this callback by an interrupt is not ours to stop at
        self.start()
        try:
            if not self._ended():
                given = self._given()
                # No cell waits for it, whatever it does: nothing to interrupt. And any frame may be the last that a
                # page or a saved notebook gets.
                self._panel.update(self._follower.state.put_aside(time.time()))
                self._screen.pending(given)
                return
            self._stop()
            self._panel.finish(self._follower.last_state().put_aside(time.time()))
        except Exception:  # nothing of a panel may reach the kernel's loop
            _log.debug("the panel stops moving", exc_info=True)
            self.leave()

    def _save(self) -> None:
        self._asked, self._saved = time.monotonic(), self._follower.state.saved
        worker.Control(self._follower.folder).send("save")

    def _given(self) -> set[str]:
        """The orders that are not done yet: the worker takes one first, and then does it."""
        orders = set(worker.Control(self._follower.folder).pending())
        if self._follower.state.phase == "stopping":
            orders.add("stop")
        if self._asked is not None:
            if self._follower.state.saved != self._saved:
                self._panel.hurry()
                self._asked = None
            elif "save" not in orders and time.monotonic() - self._asked > _SAVED_BEFORE:
                self._asked = None
            else:
                orders.add("save")
        return orders

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
    if not isinstance(panel.screen, Notebook | Widget) or threading.current_thread() is not threading.main_thread():
        return False
    key = (follower.run, asked)
    if key in _moving:
        _moving[key].leave(shown_again=True)
    if not asked:
        panel.settle(follower.state)
    _moving[key] = MovingPanel(follower, panel, panel.screen, loop)
    _moving[key].start()
    return True


def leave_all() -> None:
    """Stop all panels that move: for the extension's end."""
    for moving in list(_moving.values()):
        moving.leave()
