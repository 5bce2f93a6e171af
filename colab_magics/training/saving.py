"""When a checkpoint is taken, and how: a copy on the training thread, all else beside it.

The training waits only while the tensors are copied to the host (the stall). A thread then writes, reads back,
deletes what is superfluous, and tells. Nothing that a disk does ends the training.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch

from colab_magics.checkpoints.commit import sweep
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.keeping import Writer
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.errors import ColabMagicsError
from colab_magics.session.budget import STOP_BEFORE
from colab_magics.session.deadline import EarlySave
from colab_magics.training.loop import OnEvent, Progress, RandomState, Trainee
from colab_magics.training.state import HostCopies, Snapshot, configs_of, take, weights_of

Reason = Literal[
    "interval", "steps", "best", "stop", "save", "terminated", "deadline", "finished", "failed", "resumed"
]  # fmt: skip

# What a kernel gives a process between SIGTERM and SIGKILL is 2.5 seconds (jupyter_client 8).
GRACE = 2.0
_SLOW_DISK = 100e6  # bytes a second, until a save has shown what it is


@dataclass
class Saver:
    """Takes a run's checkpoints.

    Parameters
    ----------
    folder : Path
        The run's folder.
    task, progress : what is saved
    run, attempt : whose it is
    every, limit : the recipe's `save_every` and `save_total_limit`
    facts : mapping
        What every manifest tells besides step and metrics.
    state : mapping
        What every `state.json` holds besides what `take` puts there.
    on_event : as for the loop; called from the writing thread too
    asked : callable
        Whether a person has asked for a save; asking resets it.
    left : callable
        Seconds until the session's end; None where nobody knows.
    make_room : callable
        Called before the state of a run that has failed is taken: whatever held its memory down may let go.

    Raises
    ------
    ColabMagicsError
        The run's `checkpoints` is a symbolic link.
    """

    folder: Path
    task: Trainee
    progress: Progress
    run: str
    attempt: int
    every: Every
    limit: int
    facts: Mapping[str, Any]
    state: Mapping[str, Any]
    on_event: OnEvent
    asked: Callable[[], bool] = lambda: False
    left: Callable[[], float | None] = lambda: None
    make_room: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    disk: Disk = DISK
    stalls: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._checkpoints = self.folder / "checkpoints"
        if self._checkpoints.is_symlink():
            raise _linked(self._checkpoints)
        self._checkpoints.mkdir(exist_ok=True)
        sweep(self._checkpoints, disk=self.disk)
        self._writer = Writer(self.folder, self.run, self.limit, self.on_event, disk=self.disk)
        self._configs = configs_of(self.task.model)
        self._copies = HostCopies()
        self._writing: threading.Thread | None = None
        self._drawn: RandomState | None = None
        self._saved_step = -1
        self._last = self.clock()
        self._early = EarlySave()
        self._speed = _SLOW_DISK

    @property
    def parent(self) -> str | None:
        """The checkpoint that the next one comes after: the newest that was read back, or that the run goes on from."""
        return self._writer.parent

    @parent.setter
    def parent(self, name: str | None) -> None:
        self._writer.parent = name

    # --- called by the loop ------------------------------------------------------------------------------------------

    def rests(self, drawn: RandomState | None) -> None:
        """Between these two calls (a state, then None) weights and optimizer are what they were at the step's start."""
        self._drawn = drawn

    def after_step(self, *, best: bool = False) -> None:
        """Save if one is due. `best`: an evaluation of this step was the best so far."""
        reason = self._due(best=best)
        if reason is not None:
            self.now(reason)

    def stops(self) -> str | None:
        """ "deadline" once the session's end is so near that the run must stop."""
        left = self.left()
        return "deadline" if left is not None and left <= STOP_BEFORE else None

    def _due(self, *, best: bool) -> Reason | None:
        if self.asked():
            return "save"
        if best:
            return "best"
        if self._early.is_due(self.left()):
            return "deadline"
        if self.every.steps is not None:
            return "steps" if self.progress.step % self.every.steps == 0 else None
        busy = self._writing is not None and self._writing.is_alive()
        return "interval" if not busy and self.clock() - self._last >= self.interval else None

    @property
    def interval(self) -> float:
        """Seconds between two saves, where none are given in steps."""
        return self.every.interval(self.stalls)

    # --- taking ------------------------------------------------------------------------------------------------------

    def now(self, reason: Reason, drawn: RandomState | None = None) -> None:
        """Take a checkpoint of the present step, unless there is one; returns when it has been copied.

        Parameters
        ----------
        drawn : RandomState, optional
            torch's random state at the step's start, where one is under way.
        """
        if reason == "save":  # whoever asked is waiting for the answer, which is known when all is written
            self.wait()
        if self._saved_step == self.progress.step:
            if reason == "save":
                self.on_event("checkpoint", action="saved", name=self.parent, step=self.progress.step, reason=reason)
            return
        begin = time.perf_counter()
        if reason == "failed":
            self.make_room()
        self.wait()  # the host's copy is that of the save before, until it is written
        metrics = {"loss": self.progress.last_loss}
        score = self.progress.eval_loss
        if self.progress.evaluated == self.progress.step and score is not None and math.isfinite(score):
            metrics["eval_loss"] = score
        manifest = Manifest(
            "checkpoint",
            self.run,
            {},
            self.progress.step,
            self.attempt,
            {
                **self.facts,
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "samples": self.progress.samples,
                "total_steps": self.task.total_steps,
                "reason": reason,
                "parent": self.parent,
                "metrics": metrics,
            },
        )
        try:
            snapshot = take(self.task, self.progress, self._copies, facts=self.state, drawn=drawn)
        except (MemoryError, RuntimeError) as error:  # the host's memory is full
            message = f"it could not be copied: {str(error).partition(chr(10))[0]}"
            self.on_event("checkpoint", action="failed", step=self.progress.step, message=message)
            return
        now = self.clock()
        since, self._last, self._saved_step = now - self._last, now, self.progress.step
        stall = time.perf_counter() - begin
        self.stalls.append(stall)
        told = {
            "reason": reason,
            "stall": stall,
            "stall_share": stall / since if since > 0 else None,
            "every": self.interval if self.every.steps is None else None,
        }
        self._writing = threading.Thread(target=self._write, args=(snapshot, manifest, told), name="checkpoint")
        try:
            self._writing.start()
        except RuntimeError:  # no room for its stack: the training waits for the disk then
            self._writing = None
            self._write(snapshot, manifest, told)

    def terminated(self) -> None:
        """SIGTERM has come, in the middle of whatever the training thread did."""
        seconds = _bytes_of(self.task) / self._speed
        if seconds > GRACE:
            newest = f"the newest may remain {self.parent}" if self.parent is not None else "there may be none"
            self.on_event(
                "warning",
                message=f"The machine is ending this process. A checkpoint takes about {seconds:.0f} s here and there "
                f"may be {GRACE:.0f}: {newest}.",
            )
        if self._drawn is not None:
            self.now("terminated", self._drawn)

    def wait(self) -> None:
        """Until what is being written is written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    # --- beside the training -----------------------------------------------------------------------------------------

    def _write(self, snapshot: Snapshot, manifest: Manifest, told: Mapping[str, Any]) -> None:
        begin = time.perf_counter()
        written = self._writer.write(lambda: snapshot.contents(self._configs), manifest, told, snapshot.bytes)
        if written is None:
            self._saved_step = -1
        else:
            self._speed = max(1.0, written / max(time.perf_counter() - begin, 1e-3))


def _linked(checkpoints: Path) -> ColabMagicsError:
    return ColabMagicsError(
        f"{checkpoints} is a symbolic link, and no checkpoint is written through one.",
        "What it names may hang, vanish, or be somebody else's.",
        "Make it a real folder, with what it names moved there.",
        "For a copy on another disk or on Drive, say replica: WHERE in the recipe.",
    )


def _bytes_of(task: Trainee) -> int:
    """Bytes of what a snapshot would copy."""
    states = [value for state in task.optimizer.state.values() for value in state.values()]
    tensors = [*weights_of(task.model).values(), *(value for value in states if isinstance(value, torch.Tensor))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
