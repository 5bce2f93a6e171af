"""Where runs may lie, and where a run is copied to if nobody says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from colab_magics.checkpoints.drive import mounted_drive
from colab_magics.checkpoints.mounts import Mount, absolute

VARIABLE = "COLAB_MAGICS_REPLICA"
FOLDER = "colab_magics/checkpoints"  # beside the datasets, logs and outputs of `%session setup`
KAGGLE_INPUT = Path("/kaggle/input")
_DEEPEST, _MOST_FOLDERS = 5, 2000
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Place:
    """A folder or URL that may hold runs.

    Attributes
    ----------
    where : str
    label : str
        What it is, in words.
    is_root : bool
        The root itself: runs there are continued as they stand; from all others they are fetched.
    read_only : bool
        Nothing can be copied back to it, so a run found there is forked.
    """

    where: str
    label: str
    is_root: bool = False
    read_only: bool = False


def places(
    root: Path,
    environ: Mapping[str, str],
    *,
    among: Sequence[Mount] | None = None,
    kaggle_input: Path = KAGGLE_INPUT,
) -> list[Place]:
    """Where to look for a run that is not named, the nearest first; each place once.

    Nothing is asked of a mount that may hang: only Kaggle's inputs, a local disk, are looked into.
    """
    found = [Place(str(absolute(root)), "the root", is_root=True)]
    if named := environ.get(VARIABLE, "").strip():
        found.append(Place(_plain(named), VARIABLE))
    drive = mounted_drive(among)
    if drive is not None:
        found.append(Place(str(drive / FOLDER), "Google Drive"))
    found += [
        Place(str(folder), f"Kaggle's input {folder.relative_to(kaggle_input)}", read_only=True)
        for folder in holding_runs(kaggle_input)
    ]
    return list({place.where: place for place in reversed(found)}.values())[::-1]


@dataclass(frozen=True)
class Default:
    """Where a run is copied to, and who says so: `recipe`, `config`, the variable's name, or `drive`."""

    where: str
    source: str


def default_replica(
    environ: Mapping[str, str],
    *,
    recipe: str | None = None,
    configured: str | None = None,
    among: Sequence[Mount] | None = None,
) -> Default | None:
    """The first of: what the recipe says, what `%config` says, the environment, a mounted Drive; None without any."""
    for where, source in ((recipe, "recipe"), (configured, "config"), (environ.get(VARIABLE), VARIABLE)):
        if where and where.strip():
            return Default(_plain(where.strip()), source)
    drive = mounted_drive(among)
    return Default(str(drive / FOLDER), "drive") if drive is not None else None


def holding_runs(top: Path, *, deepest: int = _DEEPEST, most: int = _MOST_FOLDERS) -> list[Path]:
    """The folders below `top` in which runs lie, by what a run's folder holds; no link is followed.

    Parameters
    ----------
    deepest, most : int
        How many folders down, and how many in all, are looked into.
    """
    found: list[Path] = []
    pending, looked = [(top, 0)], 0
    while pending and looked < most:
        folder, depth = pending.pop(0)
        looked += 1
        below = sorted(_folders(folder))
        runs = [one for one in below if _is_run(one)]
        if runs:
            found.append(folder)
        if depth < deepest:
            pending += [(one, depth + 1) for one in below if one not in runs]
    return found


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield Path(item.path)


def _is_run(folder: Path) -> bool:
    """Whether it is what we make of a run, or copy of one."""
    return (
        _RUN_NAME.fullmatch(folder.name) is not None
        and (folder / "events.jsonl").is_file()
        and ((folder / "checkpoints").is_dir() or (folder / "recipe.yaml").is_file())
    )


def _plain(where: str) -> str:
    """A folder from the root on: the process that copies has no notebook's folder to start from."""
    return where if "://" in where else str(absolute(where))
