"""A plain PyTorch loop that is killed with -9 and run again ends as if it had not been: `benchmarks/track_kills.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from colab_magics import worker

pytestmark = pytest.mark.colab

DRIVER = Path(__file__).resolve().parents[2] / "benchmarks" / "track_kills.py"


def test_a_killed_loop_ends_bit_by_bit_as_an_undisturbed_one() -> None:
    environment = {**os.environ, **worker.importable(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(DRIVER), "--kills", "12", "--in-a-row", "4"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills, resumed = re.search(r"^(\d+) kills.*; (\d+) loops went on", done.stdout).groups()  # type: ignore[union-attr]
    assert int(kills) >= 12
    assert int(resumed) >= 1, "no kill came after a checkpoint: nothing was tried"
