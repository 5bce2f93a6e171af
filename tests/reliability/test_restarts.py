"""Real kernels that are restarted while their cell trains: the newest checkpoint is whole each time.

`RESTARTS=20 pytest tests/reliability/test_restarts.py -s` does more of it, and prints the figures.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest
from magics.conftest import ROWS, Home, Kernel, home, kernel, wait_for

from colab_magics import worker
from colab_magics.checkpoints.verify import newest_verified
from colab_magics.run import Run

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("restarts")
__all__ = ["home", "kernel"]

COUNT = int(os.environ.get("RESTARTS", "3"))
BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1\nsave_every: 1 steps"


def _steps(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["kind"] == "step"), default=0)


def test_a_kernel_restarted_while_its_cell_trains_costs_no_step_and_no_checkpoint(
    kernel: Kernel, home: Home, warm: Any
) -> None:
    """Every other time the worker is killed with it, as when the machine's memory runs out."""
    draw, run, whole, went_on = random.Random(0), Run(home.runs / "long"), 0, 0
    for number in range(COUNT):
        kernel.run(warm.cell)
        kernel.send(f"%%finetune long\n{BODY}")
        before = _steps(run)
        wait_for(lambda before=before: worker.is_alive(run.folder) and _steps(run) > before + 3)
        time.sleep(draw.random())
        kernel.restart()
        if number % 2:
            worker.kill(run.folder)
        else:
            reached = _steps(run)
            wait_for(lambda reached=reached: _steps(run) > reached)  # the training noticed nothing
            went_on += 1
            worker.kill(run.folder)
        search = newest_verified(run.checkpoints, run=run.id)
        assert search.entry is not None
        assert not search.skipped, [entry.broken for entry in search.skipped]
        whole += 1
    print(f"\n{COUNT} kernel restarts: {whole} times the newest checkpoint was whole; "
          f"{went_on} of {went_on} workers that were left alone trained on")  # fmt: skip
