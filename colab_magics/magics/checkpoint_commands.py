"""What `%checkpoint` does, but for the larger subcommands: find the run, do it, say what was done.

The notebook and `python -m colab_magics checkpoint` do the same by these functions.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event, EventReader
from colab_magics.magics import commands
from colab_magics.magics.cell import Cell
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.checkpoint_survey import chosen, survey
from colab_magics.magics.checkpoint_table import bundle
from colab_magics.magics.checkpoint_upkeep import Said, check, pin, prune, unpin
from colab_magics.magics.display import Screen
from colab_magics.magics.options import Options
from colab_magics.magics.starting import preparing_runs
from colab_magics.panel import words
from colab_magics.run import Run, list_runs

STARTS = ("resume",)  # these end in a run that trains

_PATIENCE = 60.0  # seconds for a save; after that we say so and leave


def perform(line: Line, root: Path, *, replica: str = "", said: Said = print) -> dict[str, str]:
    """Do what the line asks for; what there is to show, as a display bundle that has `text/plain`.

    Parameters
    ----------
    root : Path
        Where runs live.
    replica : str
        Where `fetch` looks if the line does not say it.
    said : function
        Shows one line at once, of what takes its time.

    Raises
    ------
    ColabMagicsError
        Nothing was changed on the disk, or the message says what was.
    """
    match line.command:
        case "fetch":
            from colab_magics.magics.checkpoint_fetch import bring

            return _text(bring(line, root, replica, said))
        case "list":
            return bundle(survey(find(line, root)))
        case "save":
            return _text(save(line, root))
        case "verify":
            return _text(check(find(line, root), full=line.full, said=said))
        case "prune":
            return _text(prune(find(line, root), keep=line.keep, dry_run=line.dry_run))
        case "pin":
            return _text(pin(find(line, root), line))
        case "unpin":
            return _text(unpin(find(line, root), line))
        case "show":
            from colab_magics.magics.checkpoint_show import described

            run = find(line, root)
            return _text(described(run, chosen(run, line)))
        case "export":
            from colab_magics.magics.checkpoint_export import export

            return _text(export(find(line, root), line))
        case "import":
            from colab_magics.magics.checkpoint_import import bring_in

            return _text(bring_in(line, root, said))
    raise AssertionError(f"{line.command} starts a worker: that is for start()")


def start(line: Line, cell: Cell) -> Run:
    """Do what `resume` asks for; the run.

    Parameters
    ----------
    cell : Cell
        With the line's options, and the screen on which the run is shown.
    """
    from colab_magics.magics.resuming import Resume, resume

    return resume(cell, Resume(line.step, line.attempt, line.fork))


def cell_of(line: Line, *, namespace: MutableMapping[str, Any], root: Path, screen: Screen, replica: str = "") -> Cell:
    """The cell that a line with `resume` stands for."""
    options = Options(
        name=line.run,
        out=line.out,
        fork=line.fork,
        deadline=line.deadline,
        panel=line.panel,
        background=line.background,
        quiet=line.quiet,
        traceback=line.traceback,
    )
    return Cell(options=options, body="", namespace=namespace, root=root, screen=screen, replica=replica)


def _text(said: str) -> dict[str, str]:
    return {"text/plain": said}


def find(line: Line, root: Path) -> Run:
    """The run that the line names; without a name the living one, else the newest.

    Raises
    ------
    ColabMagicsError
        There is none; the nearest is named. Or several are alive and none is named. Or it is still preparing.
    """
    place = _place(line, root)
    if not place.run.folder.exists():
        raise ColabMagicsError(
            f"{place.run.name} is still preparing.",
            "It has no checkpoint before its first step.",
            f"%finetune status {place.run.name} shows where it is.",
        )
    return place.run


def _place(line: Line, root: Path) -> commands.Place:
    if line.run is None:
        alive = [*preparing_runs(root), *(run.name for run in list_runs(root) if worker.is_alive(run.folder))]
        if len(alive) > 1:
            raise ColabMagicsError(
                f"{len(alive)} runs are alive: {', '.join(alive)}.",
                "The command is for one of them.",
                f"Name it: %checkpoint {line.command} {'STEP ' if 'pin' in str(line.command) else ''}{alive[0]}.",
            )
    return commands.find(line.run, root)


def save(line: Line, root: Path, *, patience: float = _PATIENCE) -> str:
    """Have the living worker save now, and wait until it has.

    Raises
    ------
    ColabMagicsError
        No worker is alive on the run, it could not save, or it ended first.
    """
    run = find(line, root)
    if not worker.is_alive(run.folder):
        raise ColabMagicsError(
            f"{run.name} is not being trained: it is {run.state}.",
            "Only a living worker has something to save.",
            f"%checkpoint list {run.name} shows what was saved.",
        )
    reader, control = EventReader(run.folder / "events.jsonl"), worker.Control(run.folder)
    reader.read()  # what was saved before is not the answer
    control.send("save")
    deadline = time.monotonic() + patience
    newest: Event = {}
    try:
        while True:
            alive = worker.is_alive(run.folder)  # asked before reading: what it wrote before it went is then read
            for event in reader.read():
                if event["kind"] == "checkpoint" and event.get("action") in ("saved", "failed"):
                    newest = event
                    # a save that was under way already is no answer; of one that failed no reason is told
                    if event.get("reason") == "save" or (event["action"] == "failed" and not _is_pending(control)):
                        return _saved(run, event)
            if not alive:
                if newest:
                    return _saved(run, newest)
                raise ColabMagicsError(
                    f"{run.name} ended before it saved.",
                    "Its worker is gone.",
                    f"%finetune status {run.name} shows how it ended.",
                    f"%checkpoint list {run.name} shows what was saved.",
                )
            if time.monotonic() > deadline:
                return f"{run.name} was told to save and is still at its step; %checkpoint list shows when it has."
            time.sleep(0.05)
    finally:
        reader.close()


def _is_pending(control: worker.Control) -> bool:
    return "save" in control.pending()


def _saved(run: Run, event: Event) -> str:
    if event["action"] == "failed":
        raise ColabMagicsError(
            f"{run.name} could not save a checkpoint; it trains on.",
            str(event.get("message") or "The disk refused."),
            f"Make room, then %checkpoint save {run.name}.",
        )
    said = f"Saved step {int(event.get('step') or 0):,} of {run.name}"
    if event.get("bytes"):
        said += f": {words.size(event['bytes'])}"
    if event.get("stall") is not None:
        said += f"; the training waited {_short(float(event['stall']))}"
    return f"{said}."


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
