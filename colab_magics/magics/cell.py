"""What a `%%finetune` cell does, from its text to its run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colab_magics import worker
from colab_magics.credentials import token_environment
from colab_magics.errors import ColabMagicsError, Interrupted, clean, redact
from colab_magics.magics import background, durable
from colab_magics.magics.again import Attach, Begin, Continue, Show, decide, newest_entry
from colab_magics.magics.died import died, what_next
from colab_magics.magics.display import Panel, Screen, state_of
from colab_magics.magics.follow import (
    Died,
    Failed,
    Finished,
    Followed,
    Follower,
    Killed,
    LeftRunning,
    interrupts,
    reap,
)
from colab_magics.magics.held import held_by_kernel
from colab_magics.magics.options import RESERVED, Options
from colab_magics.magics.starting import keep_log_of, living_run, sweep, temporary_run, write_inputs, written_in
from colab_magics.panel.state import PanelState
from colab_magics.recipe import Recipe
from colab_magics.run import Run, automatic_name, check_name
from colab_magics.session.detect import is_batch, on_colab
from colab_magics.session.here import for_worker, this_session

if TYPE_CHECKING:
    from colab_magics.magics.trials_shown import Trials


@dataclass(frozen=True)
class Cell:
    """One cell: its line, its body, and what it may touch."""

    options: Options
    body: str
    namespace: MutableMapping[str, Any]
    root: Path
    screen: Screen
    said: Callable[[str], None] = print
    replica: str = ""  # what the root or %config says; the recipe's own comes first
    note: str = ""  # on the root, said before a run is written there
    clock: str = ""  # of templates that print the date, where it is not the run's own start

    def say(self, line: str) -> None:
        """Print one line above the panel, unless `--quiet`."""
        if line and not self.options.quiet:
            self.said(redact(clean(line)))

    def bind(self, run: Run) -> Run:
        """Give the run to the variable that `--out` names."""
        if self.options.out is not None:
            self.namespace[self.options.out] = run
        return run


def train(cell: Cell) -> Run | Trials:
    """Train what the cell describes, or show what there is of it already; returns its run, or its trials.

    Raises
    ------
    ColabMagicsError
        Whatever is wrong with the input, and whatever ended the worker.
    Interrupted
        The run was stopped before its end, by this cell or from elsewhere.
    """
    from colab_magics.recipe import parse

    reap()
    options = cell.options
    check_background(options)
    this_session()  # a mistake in the user's own table is told before anything is begun
    for name in filter(None, (options.name, options.fork)):
        check_free(name)
    parsed = parse(cell.body, options.recipe, preset=options.preset, namespace=cell.namespace)
    for note in parsed.notes:
        cell.say(note)
    if parsed.search is not None:
        from colab_magics.magics.trials import try_out

        return try_out(cell, parsed.search)
    return train_recipe(cell, parsed.recipe)


def train_recipe(cell: Cell, recipe: Recipe) -> Run:
    """Train `recipe` under the name that the cell's line gives it, or show what there is of it already.

    Raises
    ------
    ColabMagicsError, Interrupted
        As `train`.
    """
    options = cell.options
    if options.name is not None and (living := living_run(options.name, cell.root)) is not None:
        return _attach_instead(cell, recipe, *living)

    cell.say(cell.note)
    where = durable.replica_of(recipe.replica, cell.replica)
    durable.protect(where, cell.root, cell.say)
    copies = durable.held(where, cell.say)
    taken = [found.remote.name for found in copies]
    name = options.name or automatic_name(recipe.model, recipe.data, cell.root, taken)
    for found in copies:
        if found.remote.name == name and not (cell.root / name).exists():
            if options.fork is None:
                durable.until_free(found, cell.say)
            durable.bring(found, cell.root, cell.say, need_whole=False)
    durable.complete(Run(cell.root / name), copies, cell.say)
    sweep(cell.root)
    if Run(cell.root / name).state != "finished":  # before the rows of a variable are read, under a panel
        _check_trackers(recipe)
    with temporary_run(cell.root, name) as temporary:
        panel = Panel(cell.screen)
        try:
            inputs = write_inputs(temporary.folder, recipe, cell.namespace, _shown_on(panel, name), cell.say)
        except ColabMagicsError as error:
            if newest_entry(Run(cell.root / name)) is None:
                raise
            resume = f"Or %checkpoint resume {name}: the run keeps its data, and goes on without the source."
            raise ColabMagicsError(error.what, error.why, *error.next_steps, resume, details=error.details) from None
        match decide(name, cell.root, recipe, inputs, options, taken, cell.say):
            case Show(run=run, said=said):
                cell.say(said)
                cell.screen.finish(state_of(run.folder, run.name))
                return cell.bind(run)
            case Attach(run_folder=run_folder, starting=starting):
                living = (run_folder, starting)
            case Continue(run=run, said=said):
                living = living_run(run.name, cell.root)
                if living is None:
                    cell.say(said)
                    return go_on(cell, run, run.checkpoints, panel, where)
            case Begin() as begin:
                folder = temporary.call(begin.name)
                environment = token_environment()
                # the data may have taken minutes, and the tokens a question: somebody may have been faster
                living = living_run(begin.name, cell.root)
                if living is None:
                    cell.say(begin.said)
                    return _begin(cell, begin, folder, panel, environment, where)
    return _attach_instead(cell, recipe, *living)


def _begin(
    cell: Cell, begin: Begin, folder: Path, panel: Panel, environment: Mapping[str, str], where: str | None
) -> Run:
    """Start the worker in the temporary `folder` and follow it."""
    if begin.replaced is not None:
        keep_log_of(begin.replaced, folder)
    arguments = ["--name", begin.name]
    if begin.resume is not None:
        arguments += ["--resume", os.fspath(begin.resume)]
    run = Run(cell.root / begin.name)
    return follow_worker(cell, run, begin.attempt, arguments, panel, environment, where, starting=folder)


def go_on(cell: Cell, run: Run, origin: Path, panel: Panel, where: str | None) -> Run:
    """Start a further attempt at `run` from the checkpoint `origin`, or the newest of a `checkpoints` folder."""
    arguments = ["--resume", os.fspath(origin)]
    return follow_worker(cell, run, run.attempts + 1, arguments, panel, token_environment(), where)


def follow_worker(
    cell: Cell,
    run: Run,
    attempt: int,
    arguments: list[str],
    panel: Panel,
    environment: Mapping[str, str],
    where: str | None,
    starting: Path | None = None,
) -> Run:
    """Start a worker in the run's folder, or in the temporary one where it prepares, and follow it to its end."""
    if cell.options.deadline is not None:
        arguments = [*arguments, "--deadline", str(cell.options.deadline)]
    if where is not None:
        arguments = [*arguments, "--replica", where]
    if cell.clock:
        arguments = [*arguments, "--clock", cell.clock]
    if (held := held_by_kernel(cell.say)) > 0:
        arguments = [*arguments, "--kernel-holds", str(held)]
    environment = {**environment, **for_worker()}
    folder = starting or run.folder
    with suppress(OSError):  # a recipe that is gone is the worker's to tell
        _check_trackers(Run(folder).recipe)
    with interrupts() as presses:
        with written_in(run.folder.parent):
            process = worker.spawn(folder, attempt, arguments=tuple(arguments), env=environment)
        state = PanelState(name=run.name)
        follower = Follower(run.folder, attempt, starting=starting, process=process, state=state)
        followed = follower.follow(panel, presses, until=_has_passed(cell, attempt), hand_over=background.go_on)
    return conclude(cell, run, followed, follower.folder, attempt)


def _check_trackers(recipe: Recipe) -> None:
    """Refuse a dashboard that cannot work; the worker would too, under a panel of a run that never was."""
    from colab_magics.training.trackers import check_trackers

    check_trackers(recipe)


def _has_passed(cell: Cell, attempt: int) -> Callable[[PanelState], bool]:
    """Whether a cell in the background may return: the preflight is over, and no mistake is left to be told."""
    loading = ("downloading", "loading", "training")
    return lambda state: cell.options.background and state.attempt == attempt and state.phase in loading


def _shown_on(panel: Panel, name: str) -> Callable[[str, int, int | None, str], None]:
    """Shows the reading of a notebook variable, which the kernel does itself, before there is a worker."""

    def progress(phase: str, done: int, total: int | None, unit: str) -> None:
        event = {"kind": "progress", "phase": phase, "done": done, "total": total, "unit": unit}
        panel.update(PanelState(name=name).fold(event))

    return progress


def attach(cell: Cell, run_folder: Path, starting: Path | None) -> Run:
    """Follow a worker that another cell, or an earlier kernel, has started."""
    folder = starting or run_folder
    info = worker.read_info(folder) or {}
    attempt = int(info.get("attempt", 1))
    follower = Follower(run_folder, attempt, starting=starting, state=PanelState(name=run_folder.name))
    try:
        with interrupts() as presses:
            followed = follower.follow(Panel(cell.screen), presses)
        return conclude(cell, Run(run_folder), followed, follower.folder, attempt)
    finally:
        # its own cell is gone, so that a preflight that failed has nobody else to clear up after it
        if starting is not None and not worker.is_alive(starting):
            shutil.rmtree(starting, ignore_errors=True)


def _attach_instead(cell: Cell, recipe: Any, run_folder: Path, starting: Path | None) -> Run:
    name = run_folder.name
    cell.say(f"{name} is being trained already: this cell shows it.")
    try:
        same = Run(starting or run_folder).recipe.fingerprint() == recipe.fingerprint()
    except (OSError, ColabMagicsError):
        same = True
    if not same:
        cell.say(f"It trains with the recipe that it was started with; %finetune stop {name} first to change it.")
    return attach(cell, run_folder, starting)


def conclude(cell: Cell, run: Run, followed: Followed, folder: Path, attempt: int) -> Run:
    """What the cell returns, or raises, for the way in which the run ended."""
    if run.folder.exists():
        cell.bind(run)
    match followed.outcome:
        case Finished(event=event):
            if event.get("reason") == "stopped" or followed.interrupts:
                raise _interrupted(run, followed)
            if event.get("reason") == "deadline":
                cell.say(f"{run.name} stopped in good order before the session's end; in a new one, {what_next(run)}.")
                if event.get("limit_from") == "table":
                    cell.say(
                        "That end is the platform's usual one. If this session lives longer: %session set limit 24h."
                    )
            return run
        case LeftRunning():
            _say_left(cell, run)
            return run
        case Killed():
            raise _interrupted(run, followed)
        case Failed(error=error, traceback=traceback):
            if isinstance(error, Interrupted):
                raise _interrupted(run, followed)
            if cell.options.traceback:
                print(redact(clean(traceback)), file=sys.stderr)
            raise error
        case Died(exit_code=exit_code):
            if followed.interrupts:
                raise _interrupted(run, followed)
            raise died(run, exit_code, followed.state, folder, attempt)


def _interrupted(run: Run, followed: Followed) -> Interrupted:
    """One line: where it stopped, what there is, what to do next."""
    state = followed.state
    if isinstance(followed.outcome, Finished) and followed.outcome.event.get("reason") != "stopped":
        return Interrupted(f"{run.name} had just finished, so nothing was cut short; run the cells below when ready.")
    if not state.marks and not state.resumed and newest_entry(run) is not None:
        return Interrupted(f"{run.name} was stopped while it prepared; {what_next(run)}.")
    if not state.marks and not state.resumed:
        return Interrupted(f"{run.name} was stopped before its first step; run the cell again to start it.")
    step = state.step if state.marks else state.resumed_step  # what an earlier attempt did after that is gone
    where = f"step {step:,}" + (f" of {state.total_steps:,}" if state.total_steps else "")
    how = "stopped after" if isinstance(followed.outcome, Finished) else "was ended at once at"
    return Interrupted(f"{run.name} {how} {where}; {what_next(run)}.")


def _say_left(cell: Cell, run: Run) -> None:
    if cell.options.background:
        cell.say(f"{run.name} trains in the background. %panel {run.name} shows it again.")
        if on_colab():
            cell.say("Colab ends a machine whose kernel is idle, and the training with it: keep a cell running.")
    else:
        cell.say(f"Detached: {run.name} trains on. %finetune attach {run.name} shows it again.")


def check_background(options: Options) -> None:
    """Raise where a run in the background would be cut off with the last cell."""
    if options.background and is_batch():
        raise ColabMagicsError(
            "--background cannot be used in a Kaggle batch run.",
            "The container ends with the last cell, and would end the training too.",
            "Leave --background out: the cell then waits for the run's end.",
        )


def check_free(name: str) -> None:
    """Raise unless a run may be called `name`."""
    if name in RESERVED:
        raise ColabMagicsError(
            f"A run cannot be called {name!r}: that is a subcommand of %finetune.",
            "A name must not be mistaken for one.",
            f"Try %%finetune {name}-run, or %finetune {name} on a line of its own.",
        )
    check_name(name)
