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

    What an earlier attempt has left there (its result so far) moves along; its log is in the new folder already, and
    the orders it was given are none of ours.

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
        for kept in target.iterdir():
            if kept.name != "control" and not (folder / kept.name).exists():
                kept.rename(folder / kept.name)
        aside = folder.with_name(folder.name + ".replaced")
        target.rename(aside)
        folder.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)
    return target


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
