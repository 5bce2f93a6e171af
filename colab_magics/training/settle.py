"""Giving a run's folder its name, once the preflight has passed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.run import Run, is_starting


def settle(folder: Path, name: str | None) -> Path:
    """Give the run's folder its name, now that the preflight has passed.

    Where an earlier attempt has left a folder of that name, ours moves into it, piece by piece: what is there already
    (checkpoints, prepared data, a result) never lies in a temporary folder, which whoever finds it may delete. A
    death on the way leaves the run with its checkpoints, and with the old recipe or the new one.

    Raises
    ------
    ColabMagicsError
        Another worker has the name by now: two cells were run at about the same time. Its folder is left alone.
    """
    if name is None or not is_starting(folder):
        return folder
    target = folder.parent / name
    try:
        folder.rename(target)  # the system refuses where somebody has put a folder there that holds anything
        return target
    except OSError:
        if not target.is_dir():
            raise
    lock = _lock_of_the_dead(target)
    try:
        # our log began with that of the attempts before ours; one more there is somebody else's
        if lock is None or Run(target).attempts >= Run(folder).attempts:
            raise ColabMagicsError(
                f"{name} is being trained already." if lock is None else f"{name} has been trained meanwhile.",
                "Another cell started it while this one was preparing, and its folder is left as it is.",
                "Run the cell again to attach to it." if lock is None else "Run the cell again to see it.",
            )
        worker.Control(target).clear()  # what was ordered of the attempt before
        for ours in sorted(folder.iterdir(), key=_order):
            there = target / ours.name
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)  # rows and orders of the attempt before; a rename puts no folder onto a full one
            ours.rename(there)
        folder.rmdir()
    finally:
        if lock is not None:
            os.close(lock)
    return target


def _order(path: Path) -> tuple[bool, str]:
    """What says which attempt this is comes last: until then the folder is that of the attempt before."""
    return path.name in ("events.jsonl", worker.INFO, worker.LOCK), path.name


def _lock_of_the_dead(folder: Path) -> int | None:
    """The lock of a folder on which nobody works, so that nobody begins to; None where somebody does."""
    try:
        lock = worker.hold_lock(folder)
        if lock is None:
            return None
        # whoever waited for it may hold the lock of a folder that is gone, and another has its name
        there = os.path.samestat(os.fstat(lock), (folder / worker.LOCK).stat())
    except FileNotFoundError:
        return None
    if there and worker.alive_pid(folder) is None:
        return lock
    os.close(lock)
    return None
