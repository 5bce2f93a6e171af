"""`%finetune best`: the full training of the trial that was the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.cell import Cell, check_background, check_free, train_recipe
from colab_magics.magics.display import state_of
from colab_magics.magics.trials_kept import Kept, find_kept
from colab_magics.panel.trials import BEST_BY, Trial, best_of
from colab_magics.recipe import Recipe
from colab_magics.run import Run


def train_best(cell: Cell) -> Run:
    """Train the best of the trials that the line names in full, and return its run.

    It begins at step 0, from the model and not from the trial's weights: those are at the end of a short schedule.

    Raises
    ------
    ColabMagicsError
        There are no such trials, or none of them is finished; and whatever ends a training.
    """
    check_background(cell.options)
    kept = find_kept(cell.options.name, cell.root)
    name = cell.options.called or kept.name
    check_free(name)
    trials = [_finished(cell.root, kept, place) for place in range(len(kept.trials))]
    place = best_of(trials, kept.best_by)
    if place is None:
        raise ColabMagicsError(
            f"None of the trials of {kept.name} is finished.",
            "The best of them is not known.",
            f"%%finetune {kept.name} with the same lists goes on with them.",
        )
    best = trials[place]
    missing = sum(trial.standing != "finished" for trial in trials)
    of = f"{len(trials) - missing} of {len(trials)} trials" if missing else f"{len(trials)} trials"
    cell.say(f"{name} trains the best of {of} in full: {best.called()} ({BEST_BY[kept.best_by]}).")
    options = replace(cell.options, command=None, name=name, called=None)
    return train_recipe(replace(cell, options=options, clock=kept.clock), Recipe.from_yaml(kept.trials[place].recipe))


def _finished(root: Path, kept: Kept, place: int) -> Trial:
    """The trial at `place`, which counts if it is finished."""
    one = kept.trials[place]
    run = Run(root / one.run)
    if not run.folder.is_dir() or run.state != "finished":
        return Trial(one.run, one.values)
    return Trial(one.run, one.values, state_of(run.folder, run.name), "finished")
