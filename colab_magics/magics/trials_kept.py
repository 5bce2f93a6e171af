"""What the root keeps of trials: `<name>-trials.json` says which runs they are, and of what.

The runs hold all that came of them. This file is what another kernel needs besides: the recipes of the full training
that each trial stands for, how long a trial is, and under which clock the rows were rendered.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics.starting import written_in
from colab_magics.recipe import Recipe

_ENDING = "-trials.json"


@dataclass(frozen=True)
class Length:
    """How long each trial is: so many steps, or as many as take so many documents.

    Attributes
    ----------
    batch : int
        Documents a step, where a recipe leaves it to the plan.
    full : int
        Steps of the first trial's full training.
    why : str
        Why so long.
    """

    steps: int | None
    samples: int | None
    batch: int
    full: int
    why: str

    def of(self, recipe: Recipe) -> int:
        """Steps of the trial that stands for `recipe`."""
        if self.samples is None:
            return self.steps or 1
        batch = recipe.effective_batch_size
        return max(1, math.ceil(self.samples / (batch if isinstance(batch, int) else self.batch)))


@dataclass(frozen=True)
class KeptTrial:
    """One trial: its run's name, what it has of its own, and the full training's recipe as YAML."""

    run: str
    values: Mapping[str, Any]
    recipe: str


@dataclass(frozen=True)
class Kept:
    """Trials as the root keeps them.

    Attributes
    ----------
    cell : str
        What tells the cell and its data from others.
    clock : str
        ISO 8601: when they were first begun.
    """

    name: str
    cell: str
    clock: str
    best_by: str
    length: Length
    trials: tuple[KeptTrial, ...] = ()

    def write(self, root: Path) -> None:
        """Write the file, whole or not at all."""
        with written_in(root):
            root.mkdir(parents=True, exist_ok=True)
            partial = root / f".{self.name}{_ENDING}.partial"
            partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(root / f"{self.name}{_ENDING}")


def read_kept(name: str, root: Path) -> Kept | None:
    """The trials called `name`; None where there are none, or their file is damaged."""
    try:
        told = json.loads((root / f"{name}{_ENDING}").read_text(encoding="utf-8"))
        trials = tuple(KeptTrial(**one) for one in told.pop("trials"))
        return Kept(**{**told, "length": Length(**told["length"]), "trials": trials})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kept_names(root: Path) -> list[str]:
    """The names of all trials of the root, the newest first."""
    try:
        found = [path for path in root.iterdir() if path.name.endswith(_ENDING) and not path.name.startswith(".")]
        return [path.name.removesuffix(_ENDING) for path in sorted(found, key=os.path.getmtime, reverse=True)]
    except OSError:
        return []


def find_kept(name: str | None, root: Path) -> Kept:
    """The trials called `name`; the newest without a name.

    Raises
    ------
    ColabMagicsError
        There are none; the nearest is named.
    """
    names = kept_names(root)
    wanted = name if name is not None else next(iter(names), None)
    kept = read_kept(wanted, root) if wanted is not None else None
    if kept is not None:
        return kept
    close = nearest(name, names) if name is not None else None
    raise ColabMagicsError(
        f"There are no trials called {name!r} in {root}." if name is not None else f"There are no trials in {root}.",
        f"There are {', '.join(names[:3])}." if names else "Nothing has been tried there.",
        f"Did you mean {close}?" if close else "A list in a cell makes some: learning_rate: [1e-4, 2e-4, 5e-4]",
    )
