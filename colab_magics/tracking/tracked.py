"""A tracked run: what `with colab_magics.track(...) as run` gives.

`log` only puts a step's figures on a list. Twice a second it turns to all else, in the loop's own thread: the batch is
written to the log, orders and the session's end are looked at, a checkpoint is taken if one is due, the panel is drawn.
No thread of ours draws or prints.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.session.budget import STOP_BEFORE
from colab_magics.tracking import randomness
from colab_magics.tracking.cache import Cache
from colab_magics.tracking.figures import EVERY, NUMBERS, Batch, fetch, plain
from colab_magics.tracking.phases import Phase
from colab_magics.tracking.progress import UNIT, Progress
from colab_magics.tracking.saving import Saved, Saver
from colab_magics.tracking.stopping import Leave, Presses
from colab_magics.worker import Control

_AT_ONCE = float("-inf")


class View(Protocol):
    """What shows the run while it goes on."""

    def fold(self, event: Mapping[str, Any]) -> None:
        """Take one more event."""

    def draw(self) -> None:
        """Show what was taken, if the last frame is old enough."""


@dataclass
class Parts:
    """What a tracked run is made of.

    Attributes
    ----------
    folder : Path
        The run's.
    state : dict
        The person's own mapping, where it is a dict.
    unit : str, optional
        None where the person has named none.
    left : callable
        Seconds until the session's end; None where nobody knows.
    saved : Saved, optional
        The checkpoint that it goes on from.
    """

    folder: Path
    state: dict[str, Any]
    total: float | None
    unit: str | None
    log: EventLog
    saver: Saver
    view: View
    cache: Cache
    left: Callable[[], float | None]
    saved: Saved | None = None


class Tracked(Phase):
    """A loop under way.

    Attributes
    ----------
    state : dict
        What a checkpoint holds. Tensors and objects are put back in place; numbers and text have no place but this
        one: `run.state["best"]`.
    resumed : bool
        Whether it goes on from a checkpoint.
    cache_folder : Path
        Where `cache` keeps what it was given.
    folder : Path
        The run's own: log and checkpoints.
    """

    def __init__(self, parts: Parts) -> None:
        saved = parts.saved.progress if parts.saved is not None else {}
        self._progresses = {path: Progress.of(told) for path, told in saved.items()}
        whole = self._progresses.setdefault("", Progress("", UNIT))
        if parts.total != whole.total and whole.finished and (parts.total or math.inf) > whole.done:
            whole.finished = False  # more is wanted of it now
            for loops in whole.loops.values():
                loops[-1].ended = False  # it was left when there was enough
        whole.total, whole.unit = parts.total, parts.unit or whole.unit
        super().__init__(self, "", whole)
        self.state, self.folder, self.resumed = parts.state, parts.folder, parts.saved is not None
        self.saver, self.stopped = parts.saver, ""
        self._parts = parts
        self._presses = Presses(self.hurry)
        self._began = whole.step
        self._was_over = whole.finished
        self._control = Control(parts.folder)
        self._open: list[Phase] = [self]
        self._lock = threading.RLock()
        self._owner = threading.get_ident()
        self._to_fetch = False  # some of these lie on a GPU
        self._pending: list[dict[str, Any]] = []
        self._heard: deque[Mapping[str, Any]] = deque()
        self._clock = time.perf_counter
        self._due = _AT_ONCE
        every = parts.saver.every.steps
        self._every = every or 0
        self._to_save = every - whole.step % every if every else math.inf
        self._unit_checked = False
        self._batch = Batch(whole, whole)
        self._batch.begin(self._clock())

    # --- what a person calls -----------------------------------------------------------------------------------------

    def log(self, **figures: Any) -> None:
        """Tell the figures of the step that has just been done. Once a step, when the state is that after the step.

        Here the checkpoint is taken where one is due, and here the loop is ended where that was asked for.

        Parameters
        ----------
        **figures
            Numbers, or tensors of one number: `loss=loss`, `tokens=batch.numel()`, `accuracy=...`. A tensor on a GPU
            is not waited for.

        Raises
        ------
        ColabMagicsError
            A figure is no number; or what is logged was finished before.
        """
        for name, value in figures.items():
            if type(value) not in NUMBERS:
                figures[name] = plain(name, value)
                self._to_fetch |= type(figures[name]) not in NUMBERS
        with self._lock:
            now = self._clock()
            self._pending.append(figures)
            self._to_save -= 1
            if now >= self._due or self._to_save <= 0:
                self._turn(now)

    def cache(self, key: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make(*arguments)` gives, from the cache where it was made before.

        Parameters
        ----------
        key : str
            Its name. With other arguments (numbers, text, tensors, files) it is another entry.
        make : callable
            Gives tensors, arrays, numbers, text, and lists and dicts of these. Anything else is given back, and not
            kept. Where its own code has changed since, the value is made anew; functions that it calls, and variables
            that it reads, are not looked at.
        """
        return self._parts.cache.get(key, make, arguments)

    @property
    def cache_folder(self) -> Path:
        return self._parts.cache.folder

    def save(self) -> None:
        """Take a checkpoint now. Where one is due, `log` does so by itself."""
        with self._lock:
            self._turn(self._clock(), reason="save")

    # --- the phases' --------------------------------------------------------------------------------------------------

    def _progress_of(self, path: str, name: str, unit: str, total: float | None) -> Progress:
        progress = self._progresses.setdefault(path, Progress(name, unit))
        progress.unit, progress.total = unit, total
        return progress

    def _forget(self, prefix: str) -> None:
        for path in [path for path in self._progresses if path.startswith(prefix)]:
            del self._progresses[path]

    def _enter(self, phase: Phase) -> None:
        if phase is self:
            raise ColabMagicsError("The run is entered already.", "track(...) is what stands behind with.")
        with self._lock:
            self._count()
            self._open.append(phase)
            self._new_batch()

    def _leave(self, phase: Phase, *, completed: bool) -> None:
        with self._lock:
            self._count()
            self._tell_batch(self._clock())
            phase._progress.finished |= completed
            if phase in self._open:
                self._open = self._open[: self._open.index(phase)]
                self._new_batch()

    def _new_batch(self) -> None:
        now = self._clock()
        self._tell_batch(now)
        self._batch = Batch(self._progress, self._open[-1]._progress)
        self._batch.begin(now)

    def _draw_on(self) -> None:
        """Put the random numbers where they stood at the checkpoint."""
        if self._parts.saved is not None:
            randomness.draw_on(self._parts.saved.random)

    # --- the cell's --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether it had been finished before, and there was nothing to do."""
        return self._was_over and self._progress.step == self._began

    @property
    def converged_anywhere(self) -> bool:
        """Whether a figure, of the run or of a phase, has settled as was asked: then an early end is meant."""
        return any(progress.converged() for progress in self._progresses.values())

    def listen(self, presses: Presses) -> None:
        """From whom it hears of an interrupt."""
        self._presses = presses

    def finish(self) -> None:
        """It has come to its end: the last checkpoint says so."""
        self._progress.finished = True
        self.checkpoint("finished")

    # --- twice a second ----------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Take what was logged since the last time into the counts."""
        with self._lock:
            pending, self._pending = self._pending, []
            if pending and (self._progress.finished or self._open[-1].finished):
                raise self._over()
            inner = self._open[-1]._progress
            if self._to_fetch:
                self._to_fetch = False
                fetch(pending)
            if pending and self._parts.unit is None and not self._progress.step and "tokens" in pending[0]:
                self._progress.unit = "tokens"  # they are counted already, and nobody has named what else is meant
            for figures in pending:
                for phase in self._open:
                    phase._progress.count(figures)
                inner.remember(figures)
                self._batch.add(figures)

    def _over(self) -> ColabMagicsError:
        phase = self._open[-1]
        what = f"The phase {phase.name!r}" if phase is not self and not self._progress.finished else self.folder.name
        return ColabMagicsError(
            f"{what} is finished: this step was not to be done again.",
            "A cell that is run again must leave out what was done.",
            "Loop over run.rest(batches) and run.epochs(n), or ask: if not run.finished.",
            "again=True begins anew beside it." if self._progress.finished else "",
        )

    def _turn(self, now: float, reason: str | None = None) -> None:
        self._count()
        self._check_unit()
        self._tell_batch(now)
        if self._every:
            self._to_save = self._every - self._progress.step % self._every
        orders = self._control.pending()
        leaving = self._leaving(orders)
        asked = "save" in orders and self._control.take("save")
        reason = reason or leaving or self.saver.due(self._progress.step, asked=asked)
        if reason is not None and reason != "stop-now":
            self.checkpoint(reason)
        self._show()
        self._due = self._clock() + EVERY
        if leaving is not None:
            self.stopped = leaving
            raise Leave if threading.get_ident() == self._owner else SystemExit  # which a thread ends by in silence

    def _check_unit(self) -> None:
        """Say so once where no figure is of the unit: no speed and no end can be told then."""
        whole = self._progress
        if self._unit_checked or not whole.step:
            return
        self._unit_checked = True
        if not whole.done and self.unit == "tokens":
            logged = ", ".join(whole.histories or self._open[-1]._progress.histories)
            self.tell(
                "warning",
                message=f"no tokens are counted: log has {logged or 'no figure'} and no tokens=. Write "
                'run.log(tokens=...), or track(..., unit="samples") for what is counted.',
            )

    def _leaving(self, orders: frozenset[str]) -> str | None:
        """Why the loop is to end: `stopped`, `stop-now` or `deadline`; None where it goes on."""
        if "stop-now" in orders:
            return "stop-now"
        if self._presses.count or "stop" in orders:
            return "stopped"
        left = self._parts.left()
        return "deadline" if left is not None and left <= STOP_BEFORE else None

    def hurry(self) -> None:
        """Have the next `log` look at once; called by a signal."""
        self._due = _AT_ONCE

    def checkpoint(self, reason: str) -> None:
        """Take a checkpoint of the state as it is."""
        histories = self._open[-1]._progress.histories
        metrics = {
            name: one.newest[-1] for name, one in histories.items() if one.newest and math.isfinite(one.newest[-1])
        }
        told = {path: one.told() for path, one in self._progresses.items()}
        facts = {"metrics": metrics, "done": f"{self._progress.done:,.0f} {self.unit}"}
        self.saver.save(reason, self._progress.step, self.state, told, randomness.drawn(), facts)

    def tell(self, kind: str, **fields: Any) -> None:
        """Write one event; from any thread. It is shown at the next turn."""
        self._heard.append(self._parts.log.written(kind, **fields))

    def _tell_batch(self, now: float) -> None:
        fields = self._batch.told(now)
        if fields is not None:
            wall = time.time() + now - self._clock()
            self.tell(
                "step", time=datetime.fromtimestamp(wall, timezone.utc).isoformat(timespec="milliseconds"), **fields
            )

    def flush(self) -> None:
        """Have every figure in the log."""
        with self._lock:
            self._count()
            self._tell_batch(self._clock())

    def _show(self) -> None:
        if threading.get_ident() != self._owner:  # what a thread shows goes to whatever cell runs by then
            return
        self.fold()
        self._parts.view.draw()

    def fold(self) -> None:
        """Pass on what has happened to what shows it."""
        while self._heard:
            self._parts.view.fold(self._heard.popleft())
