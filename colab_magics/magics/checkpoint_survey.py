"""What there is of a run's checkpoints, as one value: read from its folder, drawn elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.marks import pinned
from colab_magics.checkpoints.replica import LOG
from colab_magics.checkpoints.retention import best_of
from colab_magics.checkpoints.verify import ASIDE, Entry, entries
from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event, read_events
from colab_magics.magics.checkpoint_line import Line
from colab_magics.run import Run

NO_REPLICA = "no replica"
# what is said of a copy that the replica process has not brought to the store
_NOT_THERE = {
    "waiting": "local, waiting",
    "full": "local, the store is full",
    "refused": "local, the store refused it",
    "given up": "local, copying was given up",
}


@dataclass(frozen=True)
class Row:
    """One checkpoint, as a table shows it.

    Attributes
    ----------
    saved : float or None
        Seconds since the epoch.
    size : int or None
        Bytes; None of a broken one, whose manifest counts for nothing.
    copy : str
        `local`, `handed over`, `confirmed`, how much of it is copied or why not, or `no replica`.
    marks : tuple of str
        Of `newest`, `best`, `pinned`.
    broken : str
        How it differs from what was committed; empty if it does not, as far as a quick look tells.
    """

    entry: Entry
    saved: float | None
    loss: float | None
    eval_loss: float | None
    size: int | None
    copy: str
    marks: tuple[str, ...]
    broken: str


@dataclass(frozen=True)
class Survey:
    """A run's checkpoints, the newest first.

    Attributes
    ----------
    aside : tuple of str
        The folders that were set aside as broken.
    replica : str
        Where copies go, and why not if they do not; empty without a replica.
    resume : str
        What a resume would use.
    """

    name: str
    rows: tuple[Row, ...]
    aside: tuple[str, ...]
    replica: str
    resume: str


def found_in(run: Run) -> list[Entry]:
    """The run's checkpoints after a quick look, the newest first; without those that its worker has just deleted."""
    found = entries(run.checkpoints, run=run.id or None)
    return [entry for entry in found if entry.manifest is not None or entry.folder.exists()]


def survey(run: Run) -> Survey:
    """A quick look at the run's folder: no file is read but manifests and logs."""
    found = found_in(run)
    told = replica_events(run.folder)
    copies = _copies(told)
    whole = [entry for entry in found if entry.manifest is not None]
    best, pins = best_of(whole), pinned(run.folder)
    marks: dict[str, list[str]] = {entry.name: [] for entry in found}
    if whole:
        marks[whole[0].name].append("newest")
    if best is not None:
        marks[best.name].append("best")
    for entry in found:
        if entry.name in pins:
            marks[entry.name].append("pinned")
    rows = tuple(_row(entry, copies, tuple(marks[entry.name])) for entry in found)
    return Survey(run.name, rows, _set_aside(run.checkpoints), _replica(told), _resume(run, found))


def _row(entry: Entry, copies: Mapping[str, str] | None, marks: tuple[str, ...]) -> Row:
    manifest = entry.manifest
    metrics = manifest.metrics if manifest is not None else {}
    return Row(
        entry=entry,
        saved=saved_at(manifest.facts) if manifest is not None else None,
        loss=_number(metrics.get("loss")),
        eval_loss=_number(metrics.get("eval_loss")),
        size=manifest.size if manifest is not None else None,
        copy=NO_REPLICA if copies is None else copies.get(entry.name, "local"),
        marks=marks,
        broken=entry.broken,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def saved_at(facts: Mapping[str, Any]) -> float | None:
    """When a checkpoint was saved, in seconds since the epoch, from its manifest's facts."""
    told = facts.get("time")
    if isinstance(told, str):
        with suppress(ValueError, OverflowError):
            when = datetime.fromisoformat(told)
            return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    return _number(told)


def replica_events(folder: Path) -> list[Event]:
    """What the run's replica process has said, the oldest first."""
    return [event for event in read_events(folder / LOG) if event["kind"] == "replica"]


def _replica(told: list[Event]) -> str:
    where = next((str(event["where"]) for event in reversed(told) if event.get("where")), "")
    newest = told[-1] if told else {}
    why = newest.get("message") if newest.get("state") in ("local", *_NOT_THERE) else None
    if not why:
        return where
    return str(why) if where in str(why) else f"{where}: {why}"


def _copies(told: list[Event]) -> dict[str, str] | None:
    """Checkpoint -> the newest that is known of its copy, in words; None if the run has no replica."""
    if not told:
        return None
    found = {}
    for event in told:
        state, name = event.get("state"), event.get("checkpoint")
        if isinstance(name, str) and name:
            if state in ("local", "handed over", "confirmed"):
                found[name] = str(state)
            elif state == "copying":
                done, total = event.get("bytes_done"), event.get("bytes_total")
                found[name] = f"local, copying {done / total:.0%}" if done and total else "local, copying"
            elif state in _NOT_THERE:
                found[name] = _NOT_THERE[state]
    return found


def _set_aside(checkpoints: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(name for name in os.listdir(checkpoints) if name.startswith(ASIDE)))
    except OSError:
        return ()


def _resume(run: Run, found: list[Entry]) -> str:
    """What a resume would use, in one line."""
    state = run.state
    if state == "finished":
        return f"{run.name} is finished: there is nothing to resume."
    whole = [entry for entry in found if entry.manifest is not None]
    if not whole:
        then = "If it ended now, it would start over" if state == "running" else "It would start over"
        return f"{run.name} has no {'whole ' if found else ''}checkpoint. {then} from step 0."
    step = whole[0].step
    attempt = max((int(event.get("attempt", 0)) for event in run.events()), default=0)
    reached = [event["step"] for event in run.events() if event["kind"] == "step" and event["attempt"] == attempt]
    lost = max(0, max(reached, default=step) - step)
    again = f"; {lost:,} {'step' if lost == 1 else 'steps'} after it would be done again" if lost else ""
    if state == "running":
        doing = "at work" if run.is_own_loop else "being trained"
        return f"{run.name} is {doing}. If it ended now, a resume would use step {step:,}{again}."
    how = "its cell, run again" if run.is_own_loop else f"%checkpoint resume {run.name}"
    return f"A resume would use step {step:,}{again}: {how}"


def chosen(run: Run, line: Line) -> Entry:
    """The checkpoint that the line means: of several of one step, the newest that is whole; of no step, the newest.

    Raises
    ------
    ColabMagicsError
        There is none: names the nearest step. Or it is broken: says how.
    """
    found = found_in(run)
    if not found:
        raise no_checkpoint(run)
    meant = [
        entry
        for entry in found
        if line.step in (None, entry.step) and (line.attempt is None or line.attempt == entry.attempt)
    ]
    if not meant:
        steps = sorted({entry.step for entry in found})
        close = min(steps, key=lambda step: abs(step - (line.step or 0)))
        shown = ", ".join(str(step) for step in steps[-6:])
        raise ColabMagicsError(
            f"{run.name} has no checkpoint of step {line.step}"
            + (f", attempt {line.attempt}." if line.attempt is not None else "."),
            f"It has {'… ' if len(steps) > 6 else ''}{shown}.",
            f"Did you mean {close}?",
        )
    whole = [entry for entry in meant if entry.manifest is not None]
    if not whole:
        which = f"The checkpoint of step {meant[0].step}" if len(meant) == 1 else f"Every checkpoint of {run.name}"
        raise ColabMagicsError(
            f"{which} is broken.", meant[0].broken, f"%checkpoint verify {run.name} looks at all of them."
        )
    return whole[0]


def no_checkpoint(run: Run) -> ColabMagicsError:
    """There is nothing to work on."""
    if run.checkpoints.is_symlink():
        return ColabMagicsError(
            f"{run.checkpoints} is a symbolic link, and is not followed.",
            "What it names may be anybody's.",
            "Make it a real folder, with what it names moved there.",
        )
    running = run.state == "running"
    return ColabMagicsError(
        f"{run.name} has no checkpoint.",
        "It is being trained and has not saved one yet." if running else "It ended before it saved one.",
        f"%checkpoint save {run.name} saves one now." if running else "%checkpoint list shows another run by its name.",
    )
