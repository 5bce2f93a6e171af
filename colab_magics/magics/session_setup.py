"""`%session setup`: the folders of a project, on whatever platform the notebook runs.

May be called again: what is there stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from colab_magics.checkpoints.mounts import is_local, mount_of, mounts
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.durable import mount_drive
from colab_magics.session.detect import on_colab
from colab_magics.session.folders import DRIVE, Paths, layout, searched
from colab_magics.session.here import Session, this_session

_PATIENCE = 60.0  # seconds for a Drive that was mounted a moment ago to make four folders
_MAKE = "import os, sys\nfor folder in sys.argv[1:]: os.makedirs(folder, exist_ok=True)"


@dataclass(frozen=True)
class Done:
    """What was set up.

    Attributes
    ----------
    replica : str
        Where runs are copied to from now on; empty where a copy would lie on the runs' own disk.
    text : str
        What a person is told.
    """

    paths: Paths
    replica: str
    text: str


def setup(root: Path, configured: str, *, mount: Callable[[str, str], None] = mount_drive) -> Done:
    """Make the folders, and find where copies go and where data is looked for.

    Parameters
    ----------
    root : Path
        Where runs are kept.
    configured : str
        Where they are copied to as it is; a word of the user's stays.
    mount : callable
        Mounts the Drive.

    Raises
    ------
    ColabMagicsError
        The Drive was not mounted, the persistent storage is not there, or a folder cannot be made.
    """
    here = this_session()
    cwd = Path.cwd()
    paths = layout(here.platform, cwd)
    _be_there(here, paths, mount)
    _make(here, paths, cwd)
    replica = configured or ("" if _same_disk(paths.checkpoints, root) else str(paths.checkpoints))
    return Done(paths, replica, _told(here, paths, replica, root, cwd))


def _be_there(here: Session, paths: Paths, mount: Callable[[str, str], None]) -> None:
    """Have the storage that stays be there, or raise: no folder is made where a mount should be."""
    home = here.platform.persistent
    if home is None:
        return
    if not Path(home).is_relative_to(DRIVE):
        if is_local(home, mounts()) and not Path(home).is_dir():
            raise ColabMagicsError(
                f"There is no {home} on this machine.",
                f"On {here.platform.title} it is what stays; this was taken for it by: {here.evidence}.",
                f"If it is elsewhere: %session set {here.platform.key}.persistent FOLDER.",
                "If this is another platform: %session set platform plain.",
            )
        return
    if any(one.is_drive for one in mounts()):
        return
    if not on_colab():
        raise ColabMagicsError(
            "Drive is not mounted.", "Only a notebook's own kernel can mount it.", "Run %session setup in a cell."
        )
    mount(
        f"Drive was not mounted, and {paths.root} is on it.",
        "Run the cell again and allow it, or train without: the runs then die with the machine.",
    )
    if not any(one.is_drive for one in mounts()):  # or the folders would be made on the machine's own disk
        raise ColabMagicsError(
            f"Drive was not mounted, and {paths.root} is on it.",
            "Colab says that it is, but there is no such mount.",
            "Run the cell again; if that changes nothing, restart the session (Runtime, Disconnect).",
        )


def _make(here: Session, paths: Paths, cwd: Path) -> None:
    folders = list(paths.folders.values())
    todo = (
        "Start the notebook in a folder that you may write to."
        if paths.root == cwd
        else f"Make room there, have it mounted for writing, or name another folder: "
        f"%session set {here.platform.key}.persistent FOLDER."
    )
    if not is_local(paths.root, mounts()):
        _make_by_a_child(folders, paths.root, todo)
        return
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ColabMagicsError(
            f"The folders in {paths.root} were not made.",
            f"{error.filename}: {error.strerror or error}.",
            todo,
        ) from None


def _make_by_a_child(folders: list[Path], root: Path, todo: str) -> None:
    """As a call on a mount may hang for ever, it is not the kernel that makes it."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _MAKE, *map(str, folders)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stderr is not None
    try:
        _, said = child.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.stderr.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(1)
        raise ColabMagicsError(
            f"{root} does not answer.",
            f"No folder could be made there in {_PATIENCE:.0f} seconds.",
            "A mount that has dropped must be mounted again (on Colab: Runtime, Disconnect, or drive.mount).",
        ) from None
    if child.returncode != 0:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise ColabMagicsError(f"The folders in {root} were not made.", last, todo)


def _same_disk(one: Path, other: Path) -> bool:
    """Whether both are on one mount, so that a copy would die with what it is a copy of."""
    among = mounts()
    return mount_of(one, among) == mount_of(other, among)


def _told(here: Session, paths: Paths, replica: str, root: Path, cwd: Path) -> str:
    told = [(name, str(path)) for name, path in paths.folders.items()]
    told.append(("runs", str(root)))
    told.append(("copied to", replica or _no_copy(here, root)))
    among = [str(cwd), *(str(place.folder) for place in searched(here.platform, cwd))]
    told.append(("data: is looked for in", ", ".join(among)))
    width = max(len(label) for label, _ in told)
    return "\n".join([here.platform.title, *(f"{label.ljust(width)}  {value}" for label, value in told)])


def _no_copy(here: Session, root: Path) -> str:
    home = here.platform.persistent
    if home is not None and root.is_relative_to(home):
        stays = f"only if {here.platform.stays_if}" if here.platform.stays_if else "by itself"
        return f"nowhere: {home} stays {stays}; replica: in a recipe names a place elsewhere"
    return "nowhere; replica: in a recipe names a place"
