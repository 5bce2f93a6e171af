"""`status`, `list`, `attach`, `stop` and `detach`: readers of a run's folder, and one small file as the way back.

The notebook and `python -m colab_magics` do the same by these functions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventReader
from colab_magics.magics import cell as cells
from colab_magics.magics.died import ended
from colab_magics.magics.display import Panel, Screen, state_of
from colab_magics.magics.follow import exit_code_of
from colab_magics.magics.starting import living_run, preparing_runs
from colab_magics.panel import words
from colab_magics.panel.attempts import as_it_stood
from colab_magics.panel.state import PanelState
from colab_magics.run import Run, find_run, list_runs

_PATIENCE = 60.0  # seconds for a step to end; after that we say so and leave


@dataclass(frozen=True)
class Place:
    """A run, and the temporary folder in which it still is while it prepares."""

    run: Run
    starting: Path | None = None

    @property
    def folder(self) -> Path:
        return self.starting if self.starting is not None and self.starting.exists() else self.run.folder


def find(name: str | None, root: Path, command: str = "%finetune status") -> Place:
    """The run called `name`, preparing ones included; without a name the living one, else the newest.

    Raises
    ------
    ColabMagicsError
        There is none; the nearest is named. Or several are alive and none is named: the wrong one must not be stopped.
    """
    preparing = preparing_runs(root)
    if name is None:
        alive = [*preparing, *(run.name for run in list_runs(root) if worker.is_alive(run.folder))]
        if len(alive) > 1:
            raise ColabMagicsError(
                f"{len(alive)} runs are alive: {', '.join(alive)}.",
                "The command is for one of them.",
                f"Name it: {command} {alive[0]}.",
            )
    wanted = name if name is not None else next(iter(preparing), None)
    if wanted is not None and wanted in preparing and (living := living_run(wanted, root)) is not None:
        return Place(Run(living[0]), living[1])
    return Place(find_run(name, root))


def status(name: str | None, root: Path) -> PanelState:
    """The run as a panel would show it now."""
    place = find(name, root)
    state = state_of(place.folder, place.run.name)
    if worker.is_alive(place.folder):
        return state.put_aside(time.time())
    # no cell waits for what may still be copied
    return ended(place.run, state, place.folder, exit_code=exit_code_of(place.folder)).put_aside(time.time())


def listing(root: Path) -> str:
    """All runs, newest first, a line each."""
    rows = [("run", "state", "step", "loss", "model", "data")]
    rows += [(name, "preparing", "", "", "", "") for name in preparing_runs(root)]
    for run in list_runs(root):
        state = as_it_stood(PanelState(name=run.name).fold_all(run.history()))
        step = f"{state.step}/{state.total_steps}" if state.total_steps else str(state.step)
        loss = words.number(state.loss) if state.step else ""
        model = state.model.id if state.model else "(a loop of one's own)" if state.own is not None else ""
        rows.append((run.name, run.state, step, loss, model, state.data[0].source if state.data else ""))
    if len(rows) == 1:
        return f"There is no run in {root}."
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def attach(cell: cells.Cell) -> Run:
    """Show the run that the line names until it ends; one that has ended is shown as it is."""
    place = find(cell.options.name, cell.root, "%finetune attach")
    if worker.is_alive(place.folder):
        return cells.attach(cell, place.run.folder, place.starting)
    cell.screen.finish(status(place.run.name, cell.root))
    return cell.bind(place.run)


def stop(name: str | None, root: Path, *, now: bool = False) -> str:
    """Have the run finish its step, write its result and end; with `now`, end it at once. Waits for the end."""
    place = _alive(name, root, "stop")
    if now:
        worker.kill(place.folder)
    else:
        worker.Control(place.folder).send("stop")
    deadline = time.monotonic() + _PATIENCE
    while worker.is_alive(place.folder):
        if time.monotonic() > deadline:
            return f"{place.run.name} was told to stop and is still at its step; %finetune status shows when it has."
        time.sleep(0.1)
    state = status_of_ended(place)
    return f"{place.run.name} has ended{state}."


def status_of_ended(place: Place) -> str:
    """` at step N, with its result in …`, as far as that is so."""
    if not place.run.folder.exists():
        return " before its first step"
    state = state_of(place.run.folder, place.run.name)
    result = f"; its result is in {state.path}" if state.path else "; it wrote no result"
    return f" at step {state.step}{result}"


def detach(name: str | None, root: Path) -> str:
    """Have the cell that shows the run return; the run trains on."""
    place = _alive(name, root, "detach")
    worker.Control(place.folder).send("detach")
    return f"The cell that shows {place.run.name} returns, and {place.run.name} trains on."


def _alive(name: str | None, root: Path, command: str) -> Place:
    place = find(name, root, f"%finetune {command}")
    if not worker.is_alive(place.folder):
        raise ColabMagicsError(
            f"{place.run.name} is not being trained: it is {place.run.state}.",
            "No worker is alive on it.",
            f"%finetune status {place.run.name} shows how it ended.",
        )
    return place


def watch(name: str | None, root: Path, screen: Screen) -> None:
    """Show the run until it ends, as a bystander: an interrupt ends the watching, not the run."""
    place = find(name, root, "%finetune attach")
    panel = Panel(screen)
    reader = EventReader(place.folder / "events.jsonl")
    state = PanelState(name=place.run.name)
    while True:
        alive = worker.is_alive(place.folder)
        state = state.fold_all(reader.read())
        if not alive:
            break
        panel.update(state)
        time.sleep(0.2)
    panel.finish(ended(place.run, state, place.folder))
