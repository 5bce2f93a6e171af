"""`%checkpoint resume`: go on with a run, without its cell's body, here or on a machine that has only the replica."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from colab_magics.checkpoints.manifest import Broken, folder_name
from colab_magics.checkpoints.verify import Entry, entries, verify
from colab_magics.credentials import token_environment
from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics import durable
from colab_magics.magics.again import check_log, is_imported, newest_entry, newest_whole
from colab_magics.magics.cell import Cell, attach, check_background, check_free, follow_worker, go_on
from colab_magics.magics.commands import find
from colab_magics.magics.display import Panel
from colab_magics.magics.starting import INPUTS, living_run, preparing_runs, temporary_run
from colab_magics.run import Run, following_name, list_runs


@dataclass(frozen=True)
class Resume:
    """What the line asks for.

    Attributes
    ----------
    step, attempt : int, optional
        The checkpoint to go on from; without one the newest that is whole.
    fork : str, optional
        The name of a new run that begins there.
    """

    step: int | None = None
    attempt: int | None = None
    fork: str | None = None


def resume(cell: Cell, asked: Resume) -> Run:
    """Go on with the run that the cell names, wherever it was left, and follow it.

    Without a name: the newest run of the root; else the one that a replica, a mounted Drive or a finished version's
    output holds.

    Raises
    ------
    ColabMagicsError
        There is no such run or checkpoint, nothing is left to do, or somebody else is at it.
    Interrupted
        The run was stopped before its end.
    """
    check_background(cell.options)
    name = cell.options.name
    if name is not None:
        _check_begun(Run(cell.root / name))
    preparing = name in preparing_runs(cell.root) if name is not None else False
    here = list_runs(cell.root)
    if preparing or (here and (name is None or any(run.name == name for run in here))):
        run = find(name, cell.root, "resume").run
        if asked.step is None and (run.folder / "recipe.yaml").exists():
            durable.complete(run, durable.held(_replica_of(cell, run), cell.say), cell.say)
        return resume_here(cell, run, asked)
    return _resume_from_elsewhere(cell, name, asked, here)


def _check_begun(run: Run) -> None:
    """Raise where there are checkpoints, and no run to go on with: imported weights, or a lost log."""
    check_log(run)
    newest = newest_entry(run)
    if newest is not None and is_imported(run):
        raise ColabMagicsError(
            f"{run.name} was imported, and has no recipe yet.",
            f"Its weights of step {newest.step:,} are here; what they are trained on is not.",
            f"%%finetune {run.name} with model, method and data begins from them.",
        )


def _resume_from_elsewhere(cell: Cell, name: str | None, asked: Resume, here: list[Run]) -> Run:
    found = durable.search(cell.root, cell.replica, cell.say)
    usable = [one for one in found if (one.remote.name == name if name else one.remote.state != "finished")]
    if not usable:
        if name is not None:
            close = nearest(name, [*(run.name for run in here), *(one.remote.name for one in found)])
            raise ColabMagicsError(
                f"There is no run called {name!r} here, nor in a replica.",
                f"It was looked for in {cell.root} and {_places(found)}.",
                f"Did you mean {close}?" if close else "Name the place: %checkpoint fetch --from WHERE.",
            )
        raise ColabMagicsError(
            "There is no run to resume.",
            f"It was looked for in {cell.root} and {_places(found)}.",
            "Name the place: %checkpoint fetch --from WHERE, or set COLAB_MAGICS_REPLICA.",
        )
    if len({one.remote.name for one in usable}) > 1:
        names = ", ".join(sorted({one.remote.name for one in usable}))
        raise ColabMagicsError(
            f"There are several runs to resume: {names}.",
            f"They are in {_places(usable)}.",
            f"Name one: %checkpoint resume {usable[0].remote.name}.",
        )
    chosen = max(usable, key=lambda one: one.remote.step)
    if asked.fork is None:
        durable.until_free(chosen, cell.say)
    run = durable.bring(chosen, cell.root, cell.say)
    if chosen.read_only and asked.fork is None:
        asked = replace(asked, fork=following_name(run.name, cell.root))
        cell.say(f"{run.name} is a finished version's output, which stays as it is: it goes on as {asked.fork}.")
    return resume_here(replace(cell, options=replace(cell.options, name=run.name)), run, asked)


def _places(found: list[durable.Found]) -> str:
    where = sorted({one.where for one in found})
    return ", ".join(where) if where else "no replica (none is named, and no Drive is mounted)"


def resume_here(cell: Cell, run: Run, asked: Resume) -> Run:
    """Go on with `run`, which lies in the root, and follow it.

    Raises
    ------
    ColabMagicsError
        There is no such checkpoint, or nothing is left to do.
    Interrupted
        The run was stopped before its end.
    """
    if run.is_own_loop:
        raise ColabMagicsError(
            f"{run.name} is a loop of your own, which only its cell can go on with.",
            "What it does stands there, and in no recipe.",
            "Run that cell again: it goes on from the newest whole checkpoint.",
        )
    living = living_run(run.name, cell.root)
    if living is not None and asked.fork is None:
        cell.say(f"{run.name} is being trained already: this shows it.")
        return attach(cell, *living)
    origin = _origin(run, asked)
    if asked.fork is not None:
        return _fork(cell, run, origin, asked.fork, exactly=asked.step is not None)
    if run.state == "finished":
        raise ColabMagicsError(
            f"{run.name} is finished: there is nothing left to resume.",
            f"Its result is in {run.adapter_path}." if run.adapter_path else "It came to its end.",
            f"%%finetune {run.name} --override with more num_train_epochs or max_steps trains it on.",
        )
    if origin is None:
        raise _nothing_to_resume(run)
    cell.say(f"{run.name} goes on from step {origin.step:,}.")
    where = _replica_of(cell, run)
    durable.protect(where, cell.root, cell.say)
    exactly = asked.step is not None
    return go_on(cell, run, origin.folder if exactly else run.checkpoints, Panel(cell.screen), where)


def _replica_of(cell: Cell, run: Run) -> str | None:
    return durable.replica_of(run.recipe.replica, cell.replica)


def _origin(run: Run, asked: Resume) -> Entry | None:
    if asked.step is None:
        return newest_whole(run).entry
    found = [entry for entry in entries(run.checkpoints, run=run.id or None) if entry.step == asked.step]
    if asked.attempt is not None:
        found = [entry for entry in found if entry.name == folder_name(asked.step, asked.attempt)]
    for entry in found:
        try:
            verify(entry.folder, run=run.id or None)
        except Broken as broken:
            why = str(broken)
        else:
            return entry
    if found:
        raise ColabMagicsError(
            f"The checkpoint of step {asked.step} cannot be used.",
            f"{found[-1].name}: {why}.",
            "%checkpoint list shows those that are whole.",
        )
    steps = ", ".join(f"{entry.step}" for entry in entries(run.checkpoints) if entry.manifest is not None)
    raise ColabMagicsError(
        f"{run.name} has no checkpoint of step {asked.step}.",
        f"There are those of {steps}." if steps else "It has none at all.",
        "%checkpoint list shows them." if steps else "",
    )


def _nothing_to_resume(run: Run) -> ColabMagicsError:
    broken = entries(run.checkpoints)
    return ColabMagicsError(
        f"{run.name} has no checkpoint to go on from.",
        "None of those there is whole." if broken else "It ended before its first one.",
        f"%%finetune {run.name} with the same recipe starts over from step 0.",
        details=[f"{entry.name}: {entry.broken}" for entry in broken[:3]],
    )


def _fork(cell: Cell, run: Run, origin: Entry | None, name: str, *, exactly: bool) -> Run:
    check_free(name)
    if (cell.root / name).exists():
        raise ColabMagicsError(
            f"There is a run {name} already.",
            "A fork is a new run.",
            f"Try --fork {following_name(name, cell.root)}.",
        )
    if origin is None:
        raise _nothing_to_resume(run)
    with temporary_run(cell.root, name) as temporary:
        copy_to_start(run, temporary.folder)
        cell.say(f"{name} begins where {run.name} was at step {origin.step:,}.")
        # of a run that trains on, the newest may be another one by the time that the worker looks
        arguments = ["--name", name, "--resume", os.fspath(origin.folder if exactly else run.checkpoints)]
        where = _replica_of(cell, run)
        durable.protect(where, cell.root, cell.say)
        new = Run(cell.root / name)
        panel = Panel(cell.screen)
        return follow_worker(cell, new, 1, arguments, panel, token_environment(), where, temporary.folder)


def copy_to_start(run: Run, folder: Path) -> None:
    """Give a new run what the old one was started with: recipe, inputs, and the data as it was prepared."""
    try:
        shutil.copyfile(run.folder / "recipe.yaml", folder / "recipe.yaml")
        inputs = json.loads((run.folder / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ColabMagicsError(
            f"{run.name} cannot be forked: its recipe or its inputs cannot be read.",
            str(error),
            "Write the cell again with --fork, or %checkpoint export takes the weights out.",
        ) from None
    (folder / INPUTS).write_text(json.dumps(inputs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def take(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another disk: /kaggle/input, say
            shutil.copyfile(source, target)

    for part in ("data", "prepared"):
        if (run.folder / part).is_dir():
            shutil.copytree(run.folder / part, folder / part, copy_function=take, symlinks=True)
