"""Which folders outlive the session, by platform, and where data may lie that is not beside the notebook.

Paths alone: nothing here looks at a disk, so nothing here can hang on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath

from colab_magics.session.table import Platform

FOLDER = "colab_magics"
DRIVE = PurePath("/content/drive")


@dataclass(frozen=True)
class Paths:
    """The folders of a project, the same ones on every platform.

    Attributes
    ----------
    root : Path
        Holds the others.
    checkpoints : Path
        The copies of runs, a folder each.
    logs, outputs : Path
        For what the notebook itself writes.
    datasets : Path
        Where a `data:` is looked for that is not beside the notebook.
    """

    root: Path
    checkpoints: Path
    logs: Path
    outputs: Path
    datasets: Path

    @property
    def folders(self) -> dict[str, Path]:
        """By name, the root first."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Searched:
    """A folder in which data is looked for.

    Attributes
    ----------
    label : str
        What it is, in words: "Kaggle's input".
    deep : int
        How many folders below it are looked into.
    may_hang : bool
        It may be on a network: nobody looks there whose time is dear.
    """

    folder: Path
    label: str
    deep: int = 0
    may_hang: bool = False


def layout(platform: Platform, cwd: Path) -> Paths:
    """Where the project's folders are.

    Where the notebook already stands on storage that stays (Kaggle, Lightning, a machine of one's own), they are beside
    it. Else (a mounted Drive, Paperspace's /storage) they are in a folder of ours there.
    """
    home = Path(platform.persistent) if platform.persistent else None
    beside = home is None or (cwd.is_relative_to(home) and not home.is_relative_to(DRIVE))
    root = cwd if home is None or beside else home / FOLDER
    return Paths(root, root / "checkpoints", root / "logs", root / "outputs", root / "datasets")


def outlives(path: Path, platform: Platform) -> bool:
    """Whether a file at `path` is still there in the next session."""
    if platform.persistent is None:
        return platform.key in ("plain", "colab-local")  # the machine is the user's
    return path.is_relative_to(platform.persistent)


# By what a platform's key begins with. Where each has said so: docs/session.md.
_SHARED: dict[str, tuple[Searched, ...]] = {
    "colab": (Searched(Path("/content"), "Colab's /content"),),
    "kaggle": (Searched(Path("/kaggle/input"), "Kaggle's input", deep=4),),
    "lightning": (
        Searched(Path("/teamspace/uploads"), "the teamspace's uploads", deep=1),
        Searched(Path("/teamspace/studios/this_studio"), "the studio"),
        Searched(Path("/teamspace/s3_folders"), "the teamspace's S3 folders", deep=1, may_hang=True),
        Searched(Path("/teamspace/gcs_folders"), "the teamspace's GCS folders", deep=1, may_hang=True),
    ),
    "paperspace": (
        Searched(Path("/storage"), "Paperspace's /storage"),
        Searched(Path("/notebooks"), "Paperspace's /notebooks"),
        Searched(Path("/datasets"), "Paperspace's public data sets", deep=2, may_hang=True),
    ),
    "runpod": (Searched(Path("/workspace"), "RunPod's volume"),),
}


def searched(platform: Platform, cwd: Path) -> tuple[Searched, ...]:
    """The folders in which a `data:` is looked for after the working directory, the nearest first; each once."""
    paths = layout(platform, cwd)
    home = Path(platform.persistent) if platform.persistent else None
    found = [Searched(paths.datasets, _label(paths.datasets), may_hang=_is_drive(paths.datasets))]
    if home is not None:
        found.append(Searched(home / "datasets", _label(home), may_hang=_is_drive(home)))
    for prefix, places in _SHARED.items():
        if platform.key.startswith(prefix):
            found += places
    return _each_once(found, cwd)


def _is_drive(folder: Path) -> bool:
    return folder.is_relative_to(DRIVE)


def _label(folder: Path) -> str:
    return "Drive's datasets" if _is_drive(folder) else "the datasets folder"


def _each_once(found: Sequence[Searched], cwd: Path) -> tuple[Searched, ...]:
    kept: dict[Path, Searched] = {}
    for place in found:
        if place.folder != cwd or place.deep:  # beside the notebook it was looked for already
            kept.setdefault(place.folder, place)
    return tuple(kept.values())
