"""The same cell again: what a cell does about the run of its name that is already there."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.foreign import imported_state
from colab_magics.checkpoints.verify import Entry, Search, entries, newest_verified
from colab_magics.errors import MOST_LINES, ColabMagicsError
from colab_magics.magics.options import Options
from colab_magics.magics.starting import INPUTS, living_run, written_in
from colab_magics.recipe import Recipe
from colab_magics.run import Run, family, following_name

# The shapes of the weights follow from these: a checkpoint of others cannot be put into the model.
_SHAPES = ("model", "method", "r", "target_modules", "modules_to_save", "use_dora")


@dataclass(frozen=True)
class Begin:
    """Start a worker for the run `name`, in a temporary folder.

    Attributes
    ----------
    replaced : Run, optional
        The run of that name, whose further attempt this is.
    resume : Path, optional
        The checkpoints to go on from.
    """

    name: str
    said: str = ""
    replaced: Run | None = None
    resume: Path | None = None

    @property
    def attempt(self) -> int:
        return 1 if self.replaced is None else self.replaced.attempts + 1


@dataclass(frozen=True)
class Continue:
    """Go on with the run, as it is, from its newest verified checkpoint."""

    run: Run
    said: str


@dataclass(frozen=True)
class Show:
    """The run has been trained already, exactly so."""

    run: Run
    said: str


@dataclass(frozen=True)
class Attach:
    """A worker is alive on the run; `starting` is the temporary folder where it still prepares."""

    run_folder: Path
    starting: Path | None = None


def decide(
    name: str,
    root: Path,
    recipe: Recipe,
    inputs: Mapping[str, Any],
    options: Options,
    taken: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Begin | Continue | Show | Attach:
    """What to do for the cell that names `name`.

    A changed cell has made `name-2` of `name`. Run once more, the same cell means that one: of `name`, `name-2`, …
    the newest that trains what the cell says is the run of that name.

    Parameters
    ----------
    recipe, inputs : Recipe, mapping
        What the cell wants to train now, and the identity of its data.
    options : Options
        `again`, `override` and `fork` are asked.
    taken : collection of str
        Names that runs have in the replica; no new run gets one of them.
    say : callable
        Shows a line of what is too long for an error.

    Raises
    ------
    ColabMagicsError
        The run is unfinished and was started with another recipe: shows the difference. Or what `--override` asks
        for cannot be had of its checkpoints.
    """
    if options.fork is not None:
        return _fork(name, options.fork, root, recipe)
    if (living := living_run(name, root)) is not None:
        return Attach(*living)
    run = Run(root / name)
    if not (run.folder / "events.jsonl").exists():
        check_log(run)
        newest = newest_entry(run)
        if newest is None:
            return Begin(name)
        said = f"{name} begins from the checkpoint that was imported, at step {newest.step:,}."
        return Begin(name, said, resume=run.checkpoints)
    for member in family(name, root):
        living = living_run(member, root)
        if not differences(Run(lies_in(root / member, living)), recipe, inputs):
            if living is not None:
                return Attach(*living)
            run = Run(root / member)
            break
    changes = differences(run, recipe, inputs)
    newest = newest_entry(run)
    if run.state == "finished" and not (changes and options.override and newest is not None):
        if changes:
            new = following_name(name, root, taken)
            keys = ", ".join(key for key, _, _ in changes)
            return Begin(new, f"{name} is finished and {keys} changed: this run is {new}, and {name} is kept.")
        if options.again:
            new = following_name(name, root, taken)
            return Begin(new, f"{run.name} is kept; the same is trained again as {new}.")
        said = f"{run.name} has been trained with this recipe and data. --again trains it once more."
        return Show(run, said + _untold(run, recipe))
    if options.again:
        new = following_name(name, root, taken)
        return Begin(new, f"{run.name} is kept as it is; {new} starts at step 0.")
    how = {"failed": "failed", "finished": "is finished"}.get(run.state, "is unfinished")
    search = newest_whole(run)
    newest = search.entry
    if newest is None:
        recipe_said = ", with the changed recipe" if changes else ""
        has = "none of its checkpoints is whole" if search.skipped else "has no checkpoint"
        if run.state == "failed" or not changes or options.override:
            said = f"{run.name} {how} and {has}: it starts over from step 0{recipe_said}."
            return Begin(run.name, said, replaced=run)
        raise _changed(run, changes, newest, say)
    if not changes:
        _keep_untrained(run, recipe)
        return Continue(run, f"{run.name} {how}: it goes on from its newest checkpoint, step {newest.step:,}.")
    if not options.override:
        raise _changed(run, changes, newest, say)
    _check_shapes(run, recipe, "--override")
    keys = ", ".join(key for key, _, _ in changes)
    return Begin(
        run.name,
        f"{run.name} {how}: it goes on from step {newest.step:,}, with what the cell says of {keys}.",
        replaced=run,
        resume=run.checkpoints,
    )


def _untold(run: Run, recipe: Recipe) -> str:
    """What to say of dashboards that the cell names and the finished run has never told anything."""
    names = [name for name in recipe.report_to if name not in run.recipe.report_to] if _reports(recipe) else []
    if not names:
        return ""
    return f" report_to changes nothing in a finished run: {', '.join(names)} will be told of one trained --again."


def _reports(recipe: Recipe) -> bool:
    return not isinstance(recipe.report_to, str)


def _keep_untrained(run: Run, recipe: Recipe) -> None:
    """A run that goes on takes from the cell what changes nothing in what is trained: dashboards, how often it saves.

    All other keys are the same, or the cell would have been refused.
    """
    if run.recipe == recipe:
        return
    partial = run.folder / ".recipe.yaml.partial"
    with written_in(run.folder.parent):
        partial.write_text(recipe.to_yaml(), encoding="utf-8")
        partial.replace(run.folder / "recipe.yaml")


def newest_entry(run: Run) -> Entry | None:
    """The newest checkpoint of the run that is whole by its sizes."""
    found = entries(run.checkpoints, run=run.id or None)
    return next((entry for entry in found if entry.manifest is not None), None)


def newest_whole(run: Run) -> Search:
    """The newest checkpoint of the run of which every byte is right, as the worker will find it."""
    return newest_verified(run.checkpoints, run=run.id or None)


def check_log(run: Run) -> None:
    """Raise where there are checkpoints of a run whose event log is gone: which run that was, nobody can say."""
    if (run.folder / "events.jsonl").exists() or newest_entry(run) is None or is_imported(run):
        return
    raise ColabMagicsError(
        f"{run.name} has checkpoints, and its event log is gone.",
        f"There is no events.jsonl in {run.folder}, so nothing can go on there.",
        f"Rename the folder and run the cell again; the weights are in {newest_folder(run)}.",
    )


def is_imported(run: Run) -> bool:
    """Whether the run is one that was imported and has not begun."""
    newest = newest_entry(run) if not (run.folder / "events.jsonl").exists() else None
    return newest is not None and imported_state(newest.folder) is not None


def newest_folder(run: Run) -> Path:
    """Where the newest checkpoint lies, or would."""
    newest = newest_entry(run)
    return newest.folder if newest is not None else run.checkpoints


def _check_shapes(run: Run, recipe: Recipe, asked: str) -> None:
    fixed = [(key, was, now) for key, was, now in run.recipe.diff(recipe) if key in _SHAPES]
    if fixed:
        key, was, now = fixed[0]
        raise ColabMagicsError(
            f"{asked} cannot change {key} from {was} to {now}.",
            "The checkpoint's weights have the shapes of the old value.",
            f"Set {key}: {was}, or start a new run under another name.",
        )


def lies_in(folder: Path, living: tuple[Path, Path | None] | None) -> Path:
    """Where the recipe of a run lies, which may still be preparing."""
    starting = living[1] if living is not None else None
    return starting if starting is not None and starting.exists() else folder


def differences(run: Run, recipe: Recipe, inputs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value in the run, value now; empty if recipe and data are the same."""
    try:
        was = run.recipe
        before = json.loads((run.folder / INPUTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, ColabMagicsError):
        return [("recipe", "not readable", "as in the cell")]
    rows = []
    if was.fingerprint() != recipe.fingerprint():
        rows = [(key, str(old), str(new)) for key, old, new in was.diff(recipe)]
    for split, key in (("train", "data"), ("eval", "eval_data")):
        old, new = (identity_of(side, split) for side in (before, inputs))
        if old != new and key not in {row[0] for row in rows}:
            rows.append((key, "other rows", "these rows"))
    return rows


def identity_of(inputs: Mapping[str, Any], split: str) -> str | None:
    """The identity of one split's data; None if there is no such split."""
    part = inputs.get(split)
    return str(part.get("identity")) if isinstance(part, Mapping) else None


def table(rows: list[tuple[str, str, str]], *, checkpoint: bool = False) -> list[str]:
    """Columns: key, in the run, in the cell; with a checkpoint also what is used if the change is asked for."""
    cells: list[tuple[str, ...]]
    if checkpoint:
        cells = [("key", "checkpoint", "cell", "used with --override"), *((*row, _used(row)) for row in rows)]
    else:
        cells = [("key", "in the run", "in the cell"), *rows]
    short = [[text if len(text) <= 40 else text[:39] + "…" for text in row] for row in cells]
    widths = [max(len(row[column]) for row in short) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in short]


def _used(row: tuple[str, str, str]) -> str:
    return "cannot change" if row[0] in _SHAPES else row[2]


def _fork(name: str, fork: str, root: Path, recipe: Recipe) -> Begin:
    if not (root / name).exists():
        raise ColabMagicsError(
            f"There is no run {name} to fork.",
            f"A fork begins where a run of {root} stands.",
            "%finetune list shows those that there are.",
        )
    if (root / fork).exists():
        raise ColabMagicsError(
            f"There is a run {fork} already.", "A fork is a new run.", f"Try --fork {following_name(fork, root)}."
        )
    run = Run(root / name)
    newest = newest_entry(run)
    if newest is None:
        return Begin(fork, f"{name} has no checkpoint to fork from: {fork} starts at step 0.")
    if imported_state(newest.folder) is None:  # one that was imported has no recipe; the worker looks at its weights
        _check_shapes(run, recipe, "--fork")
    return Begin(fork, f"{fork} begins where {name} stands, at step {newest.step:,}.", resume=run.checkpoints)


def _changed(
    run: Run, changes: list[tuple[str, str, str]], newest: Entry | None, say: Callable[[str], None]
) -> ColabMagicsError:
    shown = table(changes, checkpoint=newest is not None)
    room = MOST_LINES - 2 if newest is None else MOST_LINES - 3  # beside the sentence and what to do next
    details = shown if len(shown) <= room else [*shown[: room - 1], f"… and {len(shown) - room + 1} more"]
    for line in shown if len(shown) > room else ():
        say(line)
    over = f"goes on from step {newest.step:,}" if newest is not None else "starts over"
    another = f"%%finetune {run.name} --override {over} with what is in the cell; --fork NAME makes it a new run."
    if newest is not None and any(key in _SHAPES for key, _, _ in changes):
        another = f"%%finetune {run.name} --again trains what is in the cell from step 0, and keeps {run.name}."
    return ColabMagicsError(
        f"{run.name} is unfinished, and was started with another recipe or other data.",
        "",
        f"%checkpoint resume {run.name} goes on without the changes." if newest is not None else "",
        another,
        details=details,
    )
