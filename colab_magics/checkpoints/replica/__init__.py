"""The durable copy of a run, kept by a process of its own: a store that hangs can hang nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colab_magics import worker

LOG = "replica.jsonl"
LOCK = "replica.lock"
OUTPUT = "replica.log"
BEFORE_THE_END = 60.0
"""Seconds before the session's end at which the copy is given up: a notebook that has timed out keeps nothing."""


def time_to_copy(end: Mapping[str, Any]) -> float | None:
    """Seconds that the session leaves for the copy, by the worker's last event; None where its end is not known."""
    left = end.get("session_left")
    return max(0.0, left - BEFORE_THE_END) if isinstance(left, int | float) else None


def start(folder: Path, where: str, limit: int) -> subprocess.Popen[bytes]:
    """Start the process that copies the run in `folder` to `where`; it outlives the caller.

    One that copies there already goes on, and the new one ends at once; one that copies elsewhere is ended.

    Parameters
    ----------
    limit : int
        How many checkpoints are kept there, besides the best, the newest confirmed and the pinned.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder), "--to", where, "--limit", str(limit)]
    with (folder / OUTPUT).open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **worker.importable()},
            start_new_session=True,
        )
