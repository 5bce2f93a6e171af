"""The same cell again: which run a name means now, from where it goes on, and that nobody else is at it."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.verify import Entry, newest_verified, set_aside
from colab_magics.errors import ColabMagicsError
from colab_magics.run import Run, family, following_name

MADE_BY = "track"
_held: set[int] = set()  # descriptors of locks: a process that is forked must not hold them on


def _let_go_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)  # the workers of a DataLoader outlive a kernel that is killed


class Hold:
    """The run's lock, for as long as its loop goes on: this process is the one that works on it.

    Raises
    ------
    ColabMagicsError
        Somebody works on it already.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self._folder = folder
        descriptor = worker.hold_lock(folder, wait=0.5)
        if descriptor is None:
            raise at_work(folder)
        self._descriptor = descriptor
        _held.add(descriptor)
        worker.Control(folder).clear()
        # without a pid: this is a person's own kernel, which no order may kill
        told = {
            "kernel": os.getpid(),
            "start_time": worker.start_time(os.getpid()),
            "boot_id": worker.boot_id(),
            "host": socket.gethostname(),
            "attempt": attempt,
        }
        partial = folder / f".{worker.INFO}.{os.getpid()}"
        with suppress(OSError):  # a full disk: the lock is what counts
            partial.write_text(json.dumps(told))
            partial.replace(folder / worker.INFO)

    def release(self) -> None:
        """May be called twice."""
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            os.close(self._descriptor)


def at_work(folder: Path) -> ColabMagicsError:
    """That the run is under way."""
    told = worker.read_info(folder) or {}
    here = told.get("kernel") == os.getpid() and told.get("boot_id") == worker.boot_id()
    where = "this notebook" if here else f"process {told.get('kernel') or told.get('pid') or 'unknown'}"
    return ColabMagicsError(
        f"{folder.name} is at work already, in {where}.",
        "Two loops that write one run's checkpoints would spoil both.",
        "Give this one another name." if here else f"%finetune stop {folder.name} ends it in good order.",
    )


@dataclass(frozen=True)
class Opening:
    """The run that a cell means.

    Attributes
    ----------
    run : Run
        Its folder may not be there yet.
    id : str
    attempt : int
        The one that begins now.
    origin : Entry, optional
        The checkpoint that it goes on from.
    skipped : tuple of Entry
        Newer ones that are broken.
    said : str
        What a person should know of the choice.
    """

    run: Run
    id: str
    attempt: int
    origin: Entry | None
    skipped: tuple[Entry, ...] = ()
    said: str = ""


def meant(name: str, root: Path, *, again: bool) -> str:
    """The name of the run: itself, or the newest of those that `again` made of it, or a new one of these.

    Raises
    ------
    ColabMagicsError
        That run was made by `%%finetune`.
    """
    for member in family(name, root):
        told = _first(Run(root / member))
        if member != name and told.get("again_of") != name:
            continue  # a person gave it that name
        if told and told.get("made_by") != MADE_BY:
            raise ColabMagicsError(
                f"{member} is a run of %%finetune.",
                f"It is in {root / member}, and its checkpoints are of another kind.",
                "Give this loop another name.",
            )
        return following_name(name, root) if again else member
    return name


def _first(run: Run) -> Mapping[str, Any]:
    return next((event for event in run.events() if event["kind"] == "started"), {})


def opened(name: str, root: Path, *, again: bool) -> Opening:
    """What the cell that names `name` is to do; nothing is written.

    Raises
    ------
    ColabMagicsError
        The run is under way, or is one of `%%finetune`, or its log is gone.
    """
    asked, name = name, meant(name, root, again=again)
    run = Run(root / name)
    if worker.is_alive(run.folder):
        raise at_work(run.folder)
    if not run.id:
        if any(run.checkpoints.glob("*-a*")):
            raise ColabMagicsError(
                f"{name} has checkpoints, and its event log is gone.",
                f"There is no events.jsonl in {run.folder}, so nothing can go on there.",
                "Rename the folder, and run the cell again.",
            )
        said = f"{asked} is kept as it is; {name} starts at step 0." if name != asked else ""
        return Opening(run, secrets.token_hex(8), run.attempts + 1, None, said=said)
    search = newest_verified(run.checkpoints, run=run.id)
    called = f"{name} (the newest of {asked})" if name != asked else name
    if search.entry is None:
        over = "none of its checkpoints is whole" if search.skipped else "it ended before its first checkpoint"
        said = f"{called} starts over from step 0: {over}."
    elif run.state == "finished":
        said = f"{called} is finished, at step {search.entry.step:,}: its state is put back."
    else:
        said = f"{called} goes on from step {search.entry.step:,}."
    return Opening(run, run.id, run.attempts + 1, search.entry, search.skipped, said)


def put_aside(skipped: tuple[Entry, ...], say: Callable[[str], None]) -> None:
    """Rename the broken ones that were passed over, so that they are looked at once."""
    for entry in skipped:
        say(f"{entry.name} is broken ({entry.broken}), and is set aside.")
        with suppress(OSError):
            set_aside(entry)
