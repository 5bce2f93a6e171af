"""The durable copy of a run, kept by a process of its own: a store that hangs can hang nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from colab_magics import worker

LOG = "replica.jsonl"
LOCK = "replica.lock"
OUTPUT = "replica.log"


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
