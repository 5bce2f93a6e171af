"""`colab_magics.track`: a person's own loop, with the folder, log, checkpoints and panel of a run."""

from __future__ import annotations

import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints import replica as replicas
from colab_magics.checkpoints.interval import Every
from colab_magics.errors import ColabMagicsError, Interrupted, clean, redact
from colab_magics.events import EventLog
from colab_magics.magics import durable
from colab_magics.magics.display import Screen, screen_for
from colab_magics.magics.options import check_panel
from colab_magics.magics.starting import written_in
from colab_magics.magics.track_given import checked_limit, checked_state, checked_total
from colab_magics.magics.track_panel import PanelView
from colab_magics.memory.sampling import Sampler
from colab_magics.run import cache_folder, check_name, runs_root
from colab_magics.session.deadline import Deadline, session_told
from colab_magics.tracking import randomness
from colab_magics.tracking.cache import Cache
from colab_magics.tracking.opening import MADE_BY, Hold, Opening, opened, put_aside
from colab_magics.tracking.saving import Saved, Saver
from colab_magics.tracking.state import encoded, put_back
from colab_magics.tracking.stopping import interrupts
from colab_magics.tracking.tracked import Parts, Tracked

_POLL = 0.1  # seconds between two looks at a copy that is waited for
_LAST_WORD = 10.0  # seconds that the copy has to say that it was given up
_MOST_TRACEBACK = 8000  # characters

# Copies that were left to themselves: asked for here, or they would stay zombies as long as the kernel lives.
_left: list[subprocess.Popen[bytes]] = []


class Track:
    """What `track` gives: `with` begins the run, and ends it."""

    def __init__(
        self,
        name: str,
        state: Mapping[str, Any] | None,
        total: float | None,
        unit: str | None,
        root: str | os.PathLike[str] | None,
        save_every: float | str,
        save_total_limit: int,
        replica: str | None,
        panel: str,
        again: bool,
    ) -> None:
        self.name = check_name(name)
        self._state = checked_state(state)
        self._total, self._unit, self._again = checked_total(total), unit, again
        self._every, self._limit = Every.of(save_every), checked_limit(save_total_limit)
        encoded(self._state)  # what cannot be saved is told before anything is begun
        shell = _shell()
        rooms = durable.rooms(runs_root(root or _configured(shell, "FinetuneMagics", "root") or None))
        self._root, self._note = rooms.root, rooms.said
        copies = rooms.copies or _configured(shell, "CheckpointMagics", "replica")
        self._where = durable.replica_of(replica, copies)
        kind = check_panel(panel, "panel=")
        if kind == "auto":
            kind = _configured(shell, "FinetuneMagics", "panel") or "auto"
        self._quiet = kind == "off"
        self._copying: subprocess.Popen[bytes] | None = None
        self._screen: Screen = screen_for(kind, in_kernel=getattr(shell, "kernel", None) is not None)

    def __enter__(self) -> Tracked:
        with ExitStack() as undo:
            self._begin(undo)
            self._undo = undo.pop_all()
        return self.run

    def _begin(self, undo: ExitStack) -> None:
        self._say(self._note)
        durable.protect(self._where, self._root, self._say)
        opening = self._opened = self._opening()
        folder = self._folder = opening.run.folder
        with written_in(self._root):
            folder.mkdir(parents=True, exist_ok=True)
            undo.callback(Hold(folder, opening.attempt).release)
            self._log = EventLog(folder / "events.jsonl", opening.attempt)
        undo.callback(self._log.close)
        saved = Saved.read(opening.origin.folder) if opening.origin is not None else None
        if saved is not None:
            put_back(self._state, saved.state, saved.tensors)
        self._say(opening.said)
        self._view = PanelView(opening.run, self._screen, opening.attempt)
        self._deadline = Deadline(tell=lambda said: self.run.tell("warning", message=said))
        self.run = self._tracked(opening, saved)
        self._tell_started(saved)
        if self._where is not None:
            with suppress(OSError):
                self._copying = replicas.start(folder, self._where, self._limit)
        self._sampler = Sampler(self.run.tell, _devices(), _allocator)
        self._sampler.start()
        undo.callback(self._sampler.stop)
        self.run.listen(undo.enter_context(interrupts(self.run.hurry)))
        self._began = time.monotonic()

    def _opening(self) -> Opening:
        """The run that is meant; what it lacks here is fetched from its replica."""
        copies = durable.held(self._where, self._say)
        for found in copies:
            if found.remote.name == self.name and not (self._root / self.name).exists() and not self._again:
                durable.until_free(found, self._say)
                durable.bring(found, self._root, self._say, need_whole=False)
        opening = opened(self.name, self._root, again=self._again)
        if opening.run.folder.exists() and any(found.remote.id == opening.run.id for found in copies):
            durable.complete(opening.run, copies, self._say)
            opening = opened(self.name, self._root, again=self._again)
        return opening

    def _tracked(self, opening: Opening, saved: Saved | None) -> Tracked:
        saver = Saver(
            folder=self._folder,
            run=opening.id,
            attempt=opening.attempt,
            every=self._every,
            limit=self._limit,
            facts={"name": self._folder.name, "made_by": MADE_BY},
            on_event=self._tell,
            left=self._deadline.left,
            parent=opening.origin.name if opening.origin is not None else None,
        )
        parts = Parts(
            folder=self._folder,
            state=self._state,
            total=self._total,
            unit=self._unit,
            log=self._log,
            saver=saver,
            view=self._view,
            cache=Cache(cache_folder() / "track" / self.name, self._say),
            left=self._deadline.left,
            saved=saved,
        )
        return Tracked(parts)

    def _tell(self, kind: str, **fields: Any) -> None:
        self.run.tell(kind, **fields)

    def _tell_started(self, saved: Saved | None) -> None:
        tell, origin = self.run.tell, self._opened.origin
        before = [int(event["step"]) for event in self._opened.run.events() if event["kind"] == "step"]
        tell(
            "started",
            name=self._folder.name,
            run=self._opened.id,
            made_by=MADE_BY,
            again_of=self.name if self._folder.name != self.name else None,
            unit=self.run.unit,
            total=self._total,
            done=self.run.done,
            save_total_limit=self._limit,
            **session_told(),
        )
        put_aside(self._opened.skipped, lambda said: tell("warning", message=said))
        if saved is not None and origin is not None:
            lost = randomness.draw_on(saved.random)
            tell(
                "resumed",
                step=origin.step,
                checkpoint=origin.name,
                lost_steps=max(0, (before[-1] if before else 0) - origin.step),
                skipped=[{"name": entry.name, "reason": entry.broken} for entry in self._opened.skipped],
                changes=[],
                finished=self.run.finished,
                exact=not lost,
                differs=lost,
            )
        if (said := self._deadline.warning()) is not None:
            tell("warning", message=said)

    # --- the end -----------------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            with self._undo:  # the lock is let go, so that the copy knows of the end
                stopped = self._end(error, trace)
            self.run.fold()
            self._wait_for_the_copy()
        finally:
            self._view.finish()
        return self._conclude(stopped, error)

    def _end(self, error: BaseException | None, trace: TracebackType | None) -> str | None:
        """Save what is whole, and write the log's last word. Why the loop was stopped, `""` where it came to its end,
        None where it failed."""
        run, saver = self.run, self.run.saver
        with suppress(ColabMagicsError):  # a step too many was told to the loop already
            run.flush()
        stopped = run.stopped or ("stop-now" if isinstance(error, KeyboardInterrupt) else "")
        if error is not None and not stopped:
            saver.wait()
            self._sampler.stop()
            self._tell_failed(error, trace)
            return None
        if not stopped and not run.is_over:
            run.finish()
        saver.wait()
        self._sampler.stop()
        if stopped:
            run.tell("stopping", reason=stopped)
        run.tell(
            "finished",
            step=run.step,
            reason={"": "completed", "stop-now": "stopped"}.get(stopped, stopped),
            checkpoint=saver.newest,
            seconds=time.monotonic() - self._began,
            tokens=run.done if run.unit == "tokens" else None,
            done=run.done,
            unit=run.unit,
            stall=sum(saver.stalls),
            session_left=self._deadline.left(),
        )
        return stopped

    def _tell_failed(self, error: BaseException, trace: TracebackType | None) -> None:
        told = {
            "type": type(error).__name__,
            "what": f"The loop raised {type(error).__name__}.",
            "why": redact(clean(str(error)))[:400],
        }
        lines = "".join(traceback.format_exception(type(error), error, trace))
        last = redact(clean(lines))[-_MOST_TRACEBACK:]
        self.run.tell("failed", error=told, traceback=last, session_left=self._deadline.left())

    def _wait_for_the_copy(self) -> None:
        """Until all is copied or given up: a notebook that ends may take its machine along. An interrupt goes on."""
        left = self._deadline.left()
        until = math.inf if left is None else time.monotonic() + max(0.0, left - replicas.BEFORE_THE_END) + _LAST_WORD
        try:
            while self._is_copied() and time.monotonic() < until:
                self._view.draw()
                time.sleep(_POLL)
        except KeyboardInterrupt:
            self._say("The copy goes on in the background: it ends with the machine.")
        if self._copying is not None and self._copying.poll() is None:
            _left[:] = [process for process in (*_left, self._copying) if process.poll() is None]

    def _is_copied(self) -> bool:
        """Whether something is still to be copied: by the process that was started here, or one that was there."""
        starting = self._copying is not None and self._copying.poll() is None
        return starting or worker.lock_is_held(self._folder / replicas.LOCK)

    def _conclude(self, stopped: str | None, error: BaseException | None) -> bool:
        """What the cell ends with; whether `error` was ours."""
        name, run = self._folder.name, self.run
        if stopped is None:
            self._say(f"{name} failed after step {run.step:,}; {self._what_next()}.")
            return False
        if stopped == "deadline":
            self._say(f"{name} stopped in good order before the session's end; in a new one, {self._what_next()}.")
            return error is not None
        if stopped:
            of = f" of {run.total:,.0f} {run.unit}" if run.total else ""
            done = f" ({run.done:,}{of})" if run.total else ""
            how = "was ended at once at" if stopped == "stop-now" else "stopped after"
            raise Interrupted(f"{name} {how} step {run.step:,}{done}; {self._what_next()}.") from None
        if run.total and run.done < run.total and not run.is_over and not run.converged_anywhere:
            # whether the loop was left early on purpose, nobody but its author knows
            self._say(
                f"{name} was left at {run.done:,} of {run.total:,.0f} {run.unit}, and counts as finished: the same "
                "cell takes no further step. Not meant so? again=True begins anew; a larger total goes on."
            )
        return False

    def _what_next(self) -> str:
        newest = self.run.saver.newest
        if newest is None:
            return "there is no checkpoint yet, and the cell, run again, starts over"
        return f"run the cell again to go on from step {int(newest.partition('-')[0]):,}"

    def _say(self, line: str) -> None:
        if line and not self._quiet:
            print(redact(clean(line)))


def track(
    name: str,
    state: Mapping[str, Any] | None = None,
    *,
    total: float | None = None,
    unit: str | None = None,
    root: str | os.PathLike[str] | None = None,
    save_every: float | str = "auto",
    save_total_limit: int = 2,
    replica: str | None = None,
    panel: str = "auto",
    again: bool = False,
) -> Track:
    """Track a loop of your own, in plain PyTorch or anything else: `with track("phase1", state={...}) as run:`.

    The same cell run again, after an interrupt, a crash or in a new session, finds the newest whole checkpoint here or
    in the replica, puts the state back in place, and goes on: loop over `run.rest(batches)`, and call `run.log(...)`
    once a step.

    Parameters
    ----------
    name : str
        Of the run; it becomes a folder of the root.
    state : mapping of str to anything that can be saved without pickle
        Modules, optimizers, schedulers, scalers, generators, tensors, arrays, numbers, text, lists and dicts of these,
        and objects with `state_dict()` and `load_state_dict()`. The random states of python, numpy and torch are saved
        with it.
    total : float, optional
        How much there is to do, in `unit`.
    unit : str, optional
        What one step is called: "steps", "batches"; or a figure that is given to `log`: "tokens", "samples". Else
        steps; tokens, where the first `log` has `tokens=`.
    root : path, optional
        Where runs are kept; else COLAB_MAGICS_ROOT, else ./runs.
    save_every : "auto", seconds or "25 steps"
    save_total_limit : int
        How many checkpoints are kept, besides the best, the pinned and the newest in the replica.
    replica : str, optional
        Where checkpoints are copied to: a folder or an fsspec URL; "none" for nowhere.
    panel : {"auto", "widget", "html", "text", "off"}
    again : bool
        Begin anew: as `NAME-2`, where there is a run of that name.

    Returns
    -------
    A context manager; `with` gives the tracked run (`colab_magics.tracking.tracked.Tracked`).

    Raises
    ------
    ColabMagicsError
        Something in the state cannot be saved (says what, by its place in it); or, by `with`: the run is under way
        elsewhere, or the checkpoint is of another state (names both).
    Interrupted
        By `with`: the cell was interrupted, or the run stopped from elsewhere; the step was finished and saved.
    """
    return Track(name, state, total, unit, root, save_every, save_total_limit, replica, panel, again)


def _shell() -> Any:
    from IPython import get_ipython

    return get_ipython()


def _configured(shell: Any, magics: str, trait: str) -> str:
    """What `%config` says; empty where nothing does, or the extension is not loaded."""
    manager = getattr(shell, "magics_manager", None)
    found = manager.registry.get(magics) if manager is not None else None
    return str(getattr(found, trait, "") or "")


def _devices() -> Callable[[], list[Any]]:
    """Reads the GPUs, once this process uses one."""
    from colab_magics.memory.allocator import cuda
    from colab_magics.memory.nvml import Cards

    cards = Cards()
    return lambda: list(cards.read()) if cuda() is not None else []


def _allocator() -> dict[str, int]:
    """What torch's allocator has on the first GPU that is in use here."""
    from colab_magics.memory.allocator import allocators

    for one in allocators():
        if one.reserved:
            return {"allocated": one.allocated, "reserved": one.reserved, "peak": one.peak}
    return {}
