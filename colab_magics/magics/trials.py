"""A cell whose keys hold lists: each combination is trained for a short while, one after another.

Every trial is a run like any other (`NAME-trial-1`, …), so that all that is true of a run is true of it: it outlives
the kernel, it can be shown, stopped and resumed, it recovers from an out-of-memory. It is known again by its recipe and
its data: the same cell again, or one with a longer list, trains only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.events import Event
from colab_magics.magics import durable
from colab_magics.magics.again import differences, lies_in
from colab_magics.magics.cell import Cell, check_free, train_recipe
from colab_magics.magics.display import state_of
from colab_magics.magics.options import Options
from colab_magics.magics.reports import preflight
from colab_magics.magics.starting import living_run, preparing_runs, sweep, write_inputs
from colab_magics.magics.trials_kept import Kept, KeptTrial, Length, kept_names, read_kept
from colab_magics.magics.trials_shown import Board, Told, Trials
from colab_magics.panel import words
from colab_magics.panel.trials import Standing, Trial, shown
from colab_magics.recipe import Recipe
from colab_magics.recipe.search import Search
from colab_magics.run import Run, automatic_name
from colab_magics.session.budget import STOP_BEFORE
from colab_magics.session.here import this_session

_FEWEST, _PART, _MOST = 20, 10, 200  # steps of a trial, where nobody says how many: a tenth of the full training's
_STANDINGS: Mapping[str, Standing] = {
    "finished": "finished", "failed": "failed", "running": "training", "unfinished": "stopped",
}  # fmt: skip


@dataclass(frozen=True)
class _Wanted:
    """A trial that is wanted: its run's name, the recipe that its run has, and that of the full training."""

    run: str
    recipe: Recipe
    full: Recipe
    values: Mapping[str, Any]


def try_out(cell: Cell, search: Search) -> Trials:
    """Train the trials that are missing, one after another, and show all of them.

    Raises
    ------
    ColabMagicsError
        Bad input; or the session ends before the trials would; or none of them came to its end.
    Interrupted
        One was stopped before its end; the table so far is shown and bound.
    """
    _check_options(cell.options)
    first = search.recipes[0]
    name = cell.options.name or automatic_name(first.model, first.data, cell.root, kept_names(cell.root))
    check_free(f"{name}-trial-{len(search.recipes)}")
    cell = replace(cell, said=_once(cell.said))
    try:
        return _try_out(replace(cell, options=replace(cell.options, name=name)), name, search)
    except KeyboardInterrupt:
        # while nothing was being trained: the follower takes those that come meanwhile
        raise Interrupted(
            f"{name}: stopped between two trials; %%finetune {name} with the same lists goes on."
        ) from None


def _try_out(cell: Cell, name: str, search: Search) -> Trials:
    began = time.monotonic()
    sweep(cell.root)
    _bring(cell, name, search.recipes[0])
    kept, inputs, seconds = _prepared(cell, name, search)
    wanted = _named(cell, name, search, kept.length, inputs)
    kept = replace(kept, trials=tuple(KeptTrial(one.run, one.values, one.full.to_yaml()) for one in wanted))
    told = Told(
        name, search.best_by, _length_said(len(wanted), kept.length, search.recipes[0].samples), kept.length.full
    )
    board = Board(cell.screen, told, [_as_it_is(cell.root, one) for one in wanted])
    _check_time(cell, board.trials, seconds)
    kept.write(cell.root)
    board.left = _left_to_do(board.trials, seconds)
    board.show()

    def trials() -> Trials:
        made = Trials(name, search.best_by, cell.root, tuple(board.trials))
        if cell.options.out is not None:
            cell.namespace[cell.options.out] = made
        return made

    unsaid: ColabMagicsError | None = None  # why the trial before failed before its first step
    try:
        for place, one in enumerate(wanted):
            if board.trials[place].standing in ("finished", "failed"):
                continue
            if not _fits(cell, board.trials, seconds, began):
                cell.say(f"The session ends before {one.run} would: the same cell goes on with it in a new one.")
                break
            board.left = _left_to_do(board.trials, seconds)
            board.begin(place, one.run)
            options = replace(cell.options, name=one.run, out=None, again=False, deadline=_deadline(cell, began))
            error = None
            try:
                train_recipe(replace(cell, options=options, screen=board, clock=kept.clock), one.recipe)
            except Interrupted as stopped:
                board.end(place, _as_it_is(cell.root, one))
                raise _interrupted(name, one, stopped) from None
            except ColabMagicsError as failed:
                error = failed
            trial = _as_it_is(cell.root, one)
            if error is not None:
                trial = replace(trial, standing="failed", reason=error.what)
                fine = any(other.standing == "finished" for other in board.trials)
                if not fine and unsaid is not None and unsaid.what == error.what:  # of the input, not of the values
                    raise error
            unsaid = error if error is not None and not _stepped(trial) else None
            board.end(place, trial)
            if trial.standing not in ("finished", "failed"):
                break  # the session ends, or it was detached
    finally:
        board.close()
        made = trials()
    if all(trial.standing == "failed" for trial in board.trials):
        raise ColabMagicsError(
            f"None of the {len(wanted)} trials came to its end.",
            f"{board.trials[0].run}: {board.trials[0].reason}",
            f"%finetune status {board.trials[0].run} shows how it ended." if _stepped(board.trials[0]) else "",
            "Try other values, or one recipe alone to see the whole error.",
        )
    return made


def _check_options(options: Options) -> None:
    for option in ("fork", "background", "override"):
        if getattr(options, option):
            raise ColabMagicsError(
                f"--{option} is for one run, and the cell holds lists.",
                "Trials begin at step 0, one after another, while the cell waits.",
                f"Leave --{option} out, or the lists.",
            )


def _once(said: Callable[[str], None]) -> Callable[[str], None]:
    """Says a line the first time alone: every trial would tell the same of the replica, the data, the kernel."""
    before: set[str] = set()

    def say(line: str) -> None:
        if line not in before:
            before.add(line)
            said(line)

    return say


def _bring(cell: Cell, name: str, recipe: Recipe) -> None:
    """Fetch the trials that only the replica has: the machine on which they were trained is gone."""
    where = durable.replica_of(recipe.replica, cell.replica)
    durable.protect(where, cell.root, cell.say)
    for found in durable.held(where, cell.say):
        if _number(name, found.remote.name) and not (cell.root / found.remote.name).exists():
            durable.bring(found, cell.root, cell.say, need_whole=False)


def _number(name: str, run: str) -> int:
    """Which trial of `name` a run is; 0 where it is none."""
    found = re.fullmatch(re.escape(name) + r"-trial-([1-9][0-9]*)", run)
    return int(found[1]) if found else 0


def _prepared(cell: Cell, name: str, search: Search) -> tuple[Kept, dict[str, Any], float | None]:
    """What is kept of the trials, the identity of their data, and the seconds that one takes, as far as is known.

    A worker looks at the first of them as far as its plan, unless it has been looked at before: how long they are, and
    how long they take, follows from that; and bad input is found once, and before any trial.
    """
    first = search.recipes[0]
    before = read_kept(name, cell.root)
    with tempfile.TemporaryDirectory(prefix="colab_magics-") as home:
        inputs = write_inputs(Path(home), first, cell.namespace, say=cell.say)
    said = {split: told.get("identity") for split, told in inputs.items()}
    this = hashlib.sha256(
        json.dumps([search.steps, search.samples, said, _comparable(first)], sort_keys=True, default=str).encode()
    ).hexdigest()
    if before is not None and before.cell == this and not cell.options.again:
        return replace(before, best_by=search.best_by), inputs, None
    clock = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    begin = time.monotonic()
    _, events = preflight(replace(cell, clock=clock), first, "plan")
    started = time.monotonic() - begin
    plan = next(event for event in events if event["kind"] == "plan")
    length = _length(search, plan)
    return Kept(name, this, clock, search.best_by, length), inputs, _guessed(plan, length, first, started)


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """What makes trials as long as they are: another learning rate changes nothing of it."""
    keys = ("model", "hub_revision", "max_length", "num_train_epochs", "max_steps", "effective_batch_size", "eval_data")
    return {key: getattr(recipe, key) for key in keys}


def _length(search: Search, plan: Event) -> Length:
    """How long a trial is: what the cell says, else a tenth of the full training, within bounds."""
    full = int(plan["choices"]["total_steps"]["value"])
    batch = int(plan["choices"]["effective_batch"]["value"])
    if search.steps is not None:
        return Length(min(search.steps, full), None, batch, full, "trial_steps says so")
    if search.samples is not None:
        return Length(None, min(search.samples, full * batch), batch, full, "trial_samples says so")
    tenth = -(-full // _PART)
    steps = min(-(-full // 2), max(_FEWEST, min(_MOST, tenth)))
    if steps < _FEWEST:
        why = f"half of the full training's {full:,}"
    elif steps == tenth:
        why = f"a tenth of the full training's {full:,}"
    elif steps == _FEWEST:
        why = f"fewer say little; the full training has {full:,}"
    else:
        why = f"more say little more; the full training has {full:,}"
    return Length(None, steps * batch, batch, full, why)


def _length_said(trials: int, length: Length, kind: str) -> str:
    if length.samples is None:
        return f"{trials} trials of {length.steps:,} steps ({length.why})."
    steps = -(-length.samples // length.batch)
    return f"{trials} trials of {length.samples:,} {kind}: {steps:,} steps of {length.batch} ({length.why})."


def _guessed(plan: Event, length: Length, recipe: Recipe, started: float) -> float | None:
    """Seconds of one trial, from the plan's estimate of the full training; None on a device of which none is known."""
    duration = plan.get("duration")
    if not isinstance(duration, Mapping) or not length.full:
        return None
    return started + float(duration["mid"]) * length.of(recipe) / length.full


def _named(cell: Cell, name: str, search: Search, length: Length, inputs: Mapping[str, Any]) -> list[_Wanted]:
    """The trials with the names of their runs: of those that are there already, or the next that are free."""
    there = [run for run in _trial_runs(cell.root, name) if not cell.options.again]
    taken = max((_number(name, run) for run in _trial_runs(cell.root, name)), default=0)
    wanted = []
    for full in search.recipes:
        recipe = replace(full, max_steps=length.of(full), eval_every=None, early_stopping=None, save_total_limit=1)
        run = next((run for run in there if not differences(_lying(cell.root, run), recipe, inputs)), None)
        if run is None:
            taken += 1
            run = f"{name}-trial-{taken}"
        wanted.append(_Wanted(run, recipe, full, search.values(full)))
    return wanted


def _trial_runs(root: Path, name: str) -> list[str]:
    try:
        there = {path.name for path in root.iterdir() if (path / "events.jsonl").is_file()}
    except OSError:
        there = set()
    return sorted(
        (run for run in there | set(preparing_runs(root)) if _number(name, run)), key=lambda run: _number(name, run)
    )


def _lying(root: Path, run: str) -> Run:
    return Run(lies_in(root / run, living_run(run, root)))


def _as_it_is(root: Path, one: _Wanted) -> Trial:
    """The trial as its run's folder tells it."""
    run = Run(root / one.run)
    if not (run.folder / "events.jsonl").is_file():
        return Trial(one.run, one.values)
    state = state_of(run.folder, run.name)
    trial = Trial(one.run, one.values, state, _STANDINGS[run.state])
    if trial.standing == "failed":
        if not _stepped(trial):  # nothing was learnt of the values
            return replace(trial, state=None, standing="waiting")
        error = run.error
        return replace(trial, reason=error.what if error is not None else "")
    return trial


def _stepped(trial: Trial) -> bool:
    """Whether it was trained at all, so that how it ended says something of its values; a step may have been its last
    that ran out of memory."""
    state = trial.state
    return state is not None and (bool(state.marks) or any(notice.kind == "oom" for notice in state.notices))


def _left_to_do(trials: Sequence[Trial], guess: float | None) -> float | None:
    """Seconds that the trials take which are not done."""
    each = _each(trials, guess)
    return None if each is None else each * sum(one.standing not in ("finished", "failed") for one in trials)


def _each(trials: Sequence[Trial], guess: float | None) -> float | None:
    """Seconds of one trial: as those that are done took, else as was guessed."""
    took = [one.seconds for one in trials if one.standing == "finished" and one.seconds is not None]
    return sum(took) / len(took) if took else guess


def _deadline(cell: Cell, began: float) -> float | None:
    given = cell.options.deadline
    return None if given is None else max(0.0, given - (time.monotonic() - began))


def _session_left(cell: Cell, began: float) -> float | None:
    """Seconds until trainings are stopped in good order; None where nobody knows."""
    given = _deadline(cell, began)
    left = given if given is not None else this_session().left
    return None if left is None else left - STOP_BEFORE


def _fits(cell: Cell, trials: Sequence[Trial], guess: float | None, began: float) -> bool:
    each, left = _each(trials, guess), _session_left(cell, began)
    return each is None or left is None or each <= left


def _check_time(cell: Cell, trials: Sequence[Trial], guess: float | None) -> None:
    """Say how long the trials will take, and refuse those that the session would not see the end of."""
    need, each = _left_to_do(trials, guess), _each(trials, guess)
    missing = sum(one.standing not in ("finished", "failed") for one in trials)
    if not need or not each:
        return
    left = _session_left(cell, time.monotonic())
    if left is not None and need > left:
        fit = max(0, int(left // each))
        raise ColabMagicsError(
            f"The session ends before {missing} trials would: they take about {words.span(need)}.",
            f"{words.span(left)} are left before a training is stopped, which is enough for {fit}."
            if left > 0
            else "It is about to end.",
            f"trials: {fit} tries so many of them." if fit > 1 else "",
            "Shorten them with trial_steps.",
            "If this session lives longer: %session set limit 24h, or --deadline 10h.",
        )
    one, all_of_them = words.spans(each, missing)
    cell.say(
        f"{missing} trials take about {all_of_them}, of about {one} each."
        if missing > 1
        else f"One trial takes about {one}."
    )


def _interrupted(name: str, one: _Wanted, stopped: Interrupted) -> Interrupted:
    said = ", ".join(f"{key} {shown(key, value)}" for key, value in one.values.items())
    where = stopped.what.partition(";")[0].removeprefix(one.run).strip()
    return Interrupted(f"{one.run} ({said}) {where}; %%finetune {name} with the same lists goes on.")
