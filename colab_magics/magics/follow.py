"""Following a run from the cell: read its events, draw the panel, pass an interrupt on."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.replica import time_to_copy
from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event, EventReader
from colab_magics.magics.died import ended
from colab_magics.magics.display import Panel
from colab_magics.panel.state import PanelState
from colab_magics.run import Run

REPLICA_LOCK = "replica.lock"
_POLL = 0.1  # seconds between two looks at the log
_EXIT = 15.0  # seconds that a worker has to go, once it has said its last word
_LAST_WORD = 10.0  # seconds that the copy has to say that it was given up

# Workers that were left running: waited for here, or they would stay zombies as long as the kernel lives.
_left: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Finished:
    """The run ended in good order: to its end, or stopped early."""

    event: Event


@dataclass(frozen=True)
class Failed:
    """The worker said why it gave up."""

    error: ColabMagicsError
    traceback: str


@dataclass(frozen=True)
class Died:
    """The worker is gone without a word."""

    exit_code: int | None
    step: int


@dataclass(frozen=True)
class Killed:
    """It was ended at once: the cell was interrupted twice, or `stop --now` was given elsewhere."""

    step: int


@dataclass(frozen=True)
class LeftRunning:
    """The worker trains on: it was detached, or only its preflight was awaited."""


Outcome = Finished | Failed | Died | Killed | LeftRunning


@dataclass(frozen=True)
class Followed:
    """How following ended: the outcome, the last state, and how often the cell was interrupted."""

    outcome: Outcome
    state: PanelState
    interrupts: int


@dataclass
class Interrupts:
    """Counts interrupts instead of raising them, while the cell follows."""

    count: int = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Take SIGINT for as long as the context lasts; outside the main thread nobody may, and nobody does."""
    presses = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield presses
        return
    before = signal.signal(signal.SIGINT, presses)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Follower:
    """Follows one attempt of a run until it ends or is left.

    Parameters
    ----------
    run, starting : Path
        The run's folder, and the temporary one from which it comes (None if it is there already).
    attempt : int
        The attempt that is followed; events of earlier ones only set the scene.
    process : Popen, optional
        The worker, if this process started it.
    """

    run: Path
    attempt: int
    starting: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    state: PanelState = field(default_factory=PanelState)
    _end: Event | None = None

    def __post_init__(self) -> None:
        self._reader = EventReader(self.folder / "events.jsonl")
        self._replica = EventReader(self.run / "replica.jsonl")  # there once the run has its name
        worker.Control(self.folder).take("detach")  # an old one was not meant for us

    @property
    def folder(self) -> Path:
        """Where the run is now: the worker renames its folder when the preflight has passed."""
        return self.run if self.starting is None or not self.starting.exists() else self.starting

    def follow(
        self,
        panel: Panel,
        presses: Interrupts,
        *,
        until: Callable[[PanelState], bool] = lambda _: False,
        hand_over: Callable[[Follower, Panel], bool] = lambda *_: False,
    ) -> Followed:
        """Draw until the attempt ends, is left, or `until` holds of its state.

        In that last case the panel is finished, unless `hand_over` says that somebody goes on with it.
        """
        asked = 0
        while True:
            alive = self.alive()  # asked before reading: what it wrote before it went is then read
            self.read()
            if self._end is not None:
                return self._ended(panel, presses)
            if not alive:
                if worker.was_killed(self.folder):  # `stop --now`, from elsewhere
                    return self._done(panel, Killed(self.state.step), presses)
                return self._done(panel, Died(self._exit_code(), self.state.step), presses)
            if presses.count > asked:
                asked = presses.count
                if asked > 1:
                    self._kill()
                    self.read()
                    if self._end is not None:
                        return self._ended(panel, presses)
                    return self._done(panel, Killed(self.state.step), presses)
                self.stop()
            if until(self.state):
                return self._leave(panel, presses, hand_over)
            if worker.Control(self.folder).take("detach"):
                return self._leave(panel, presses)
            panel.update(self.state)
            time.sleep(_POLL)

    def read(self) -> None:
        """Fold what has come since the last time into the state."""
        if not self._reader.is_open:  # the worker may have made its log and renamed the folder since we last looked
            self._reader = EventReader(self.folder / "events.jsonl")
        for event in self._reader.read():
            self.state = self.state.fold(event)
            if event.get("attempt") == self.attempt and event["kind"] in ("finished", "failed"):
                self._end = event
        for event in self._replica.read():
            if event.get("attempt") == self.attempt:
                self.state = self.state.fold(event)

    def stop(self) -> None:
        """Have the worker finish its step and end; at once where it is still preparing."""
        worker.Control(self.folder).send("stop")
        if self._preparing():
            self._hurry()

    def last_state(self) -> PanelState:
        """The state of an attempt that has ended, also where it ended without a word."""
        if self._end is not None:
            return self.state
        return ended(Run(self.run), self.state, self.folder, self.attempt, self._exit_code())

    def _preparing(self) -> bool:
        """Whether there is no step to finish yet."""
        return not self.state.marks

    def _hurry(self) -> None:
        """Make the worker look at its orders now; a signal is a courtesy, the order is in control/."""
        pid = worker.alive_pid(self.folder)
        if pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)

    def alive(self) -> bool:
        """Whether the worker is there."""
        if self.process is not None:
            return self.process.poll() is None
        # while it moves into the folder of the attempt before, its lock is in either
        return worker.is_alive(self.folder) or worker.is_alive(self.run)

    def _exit_code(self) -> int | None:
        return exit_code_of(self.folder) if self.process is None else self.process.poll()

    def _ended(self, panel: Panel, presses: Interrupts) -> Followed:
        """The last word is there; the process has a moment to go, so that nothing is left when the cell ends."""
        deadline = time.monotonic() + _EXIT
        while self.alive() and presses.count < 2:
            if time.monotonic() > deadline:
                self._kill()
                break
            time.sleep(0.02)
        self._await_replica(panel, presses)
        end = self._end or {}
        if end["kind"] == "finished":
            return self._done(panel, Finished(end), presses)
        error = ColabMagicsError.from_dict(end.get("error") or {})
        return self._done(panel, Failed(error, str(end.get("traceback") or "")), presses)

    def _await_replica(self, panel: Panel, presses: Interrupts) -> None:
        """Until all is copied or given up: a notebook that ends may take its machine along. An interrupt goes on.

        Near the session's end the copy gives itself up; one that hangs is left, or the notebook would time out.
        """
        before, left = presses.count, time_to_copy(self._end or {})
        until = math.inf if left is None else time.monotonic() + left + _LAST_WORD
        while self.is_copied() and presses.count == before:
            if time.monotonic() > until:
                said = "Replica: it does not answer, and the session ends. What is not confirmed is not there."
                self.state = self.state.fold({"kind": "warning", "message": said})
                break
            self.read()
            panel.update(self.state)
            time.sleep(_POLL)
        self.read()

    def is_copied(self) -> bool:
        """Whether the process that copies the checkpoints still has something to do."""
        return worker.lock_is_held(self.run / REPLICA_LOCK)

    def close(self) -> None:
        """Read no more."""
        self._reader.close()
        self._replica.close()

    def _done(self, panel: Panel, outcome: Outcome, presses: Interrupts) -> Followed:
        self.close()
        if isinstance(outcome, Died | Killed):
            self.state = self.state.ended_without_a_word(stopped=isinstance(outcome, Killed))
        # the error itself is raised below the panel, which need not say it too
        panel.finish(replace(self.state, failure=()))
        return Followed(outcome, self.state, presses.count)

    def _leave(
        self,
        panel: Panel,
        presses: Interrupts,
        hand_over: Callable[[Follower, Panel], bool] = lambda *_: False,
    ) -> Followed:
        if self.process is not None:
            _left.append(self.process)
        self.state = self.state.put_aside(time.time())
        if hand_over(self, panel):
            return Followed(LeftRunning(), self.state, presses.count)
        return self._done(panel, LeftRunning(), presses)

    def _kill(self) -> None:
        worker.kill(self.folder)
        if self.process is not None:
            self.process.wait()


def exit_code_of(folder: Path) -> int | None:
    """Of the folder's worker, where another cell of this kernel started it and left it running."""
    pid = (worker.read_info(folder) or {}).get("pid")
    return next((process.poll() for process in _left if process.pid == pid), None)


def reap() -> None:
    """Wait for the workers that were left running and have ended since."""
    _left[:] = [process for process in _left if process.poll() is None]
