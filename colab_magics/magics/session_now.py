"""What is known of this session at this moment, for `%session` to show."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from colab_magics import worker
from colab_magics.checkpoints.drive import mounted_drive
from colab_magics.magics.activity import ACTIVITY
from colab_magics.magics.session_facts import DRIVE, facts, own_thresholds
from colab_magics.magics.session_show import Known
from colab_magics.run import list_runs
from colab_magics.session.clock import BootClock
from colab_magics.session.flags import Usage, flags
from colab_magics.session.here import this_session
from colab_magics.session.settings import of_this_life, user_file
from colab_magics.session.table import load_table

_FOR_DRIVE = 3.0  # seconds for its first answer


def _longest(root: Path) -> tuple[str, float] | None:
    """The living run whose worker has been at it for longest, and for how many seconds."""
    living = [run for run in list_runs(root) if worker.alive_pid(run.folder) is not None]
    begun = [(float((worker.read_info(run.folder) or {}).get("start_time") or time.time()), run.name) for run in living]
    return (min(begun)[1], time.time() - min(begun)[0]) if begun else None


def known_now(root: Path) -> Known:
    """All of it.

    Parameters
    ----------
    root : where runs are kept

    Raises
    ------
    ColabMagicsError
        The user's own table holds a mistake; the error names its line.
    """
    from colab_magics.memory.nvml import Cards

    here, table = this_session(), load_table(user_file())
    read = Cards().read()
    memory = [
        Usage(one.name or f"GPU {one.index}", one.used, one.total) for one in read if one.used is not None and one.total
    ]
    found = facts(here, memory=memory, run=_longest(root), idle=ACTIVITY.idle(), wait=_FOR_DRIVE)
    mounted = mounted_drive() is not None
    return Known(
        session=here,
        table=table,
        facts=found,
        flags=flags(found, table.thresholds, own_thresholds(table)),
        start_is_set="start" in of_this_life(table, BootClock()),
        since_last=ACTIVITY.since_last(),
        devices=tuple(one.name or f"GPU {one.index}" for one in read),
        drive=DRIVE.state if mounted else "not mounted",
        cwd=Path.cwd(),
        now=datetime.now().astimezone(),
    )
