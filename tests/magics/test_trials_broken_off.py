"""Trials in a real kernel that is interrupted, or dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Home, Kernel, wait_for

pytestmark = pytest.mark.colab

PIRATE = Path(__file__).resolve().parents[2] / "colab_magics" / "demo" / "pirate.jsonl"


@pytest.fixture(scope="module")
def kernel(kernel: Kernel, warm: Any) -> Kernel:
    pytest.importorskip("torch")
    kernel.run(warm.cell)
    return kernel


LONG = (
    f"model: demo\ndata: {PIRATE}\neffective_batch_size: 1\nlearning_rate: [1e-3, 2e-3]\nmax_steps: 4000\ntrial_steps: "
)


def test_interrupted_once_the_table_is_shown_and_a_new_kernel_goes_on_with_what_is_missing(
    kernel: Kernel, home: Home, warm: Any
) -> None:
    cell = kernel.send(f"%%finetune long --out trials\n{LONG}60")
    wait_for(lambda: home.steps("long-trial-2") > 2)
    kernel.interrupt()
    stopped = kernel.reply(cell)
    assert stopped.error == "Interrupted"
    (line,) = stopped.traceback
    assert "long-trial-2 (learning_rate 2e-3) stopped after step" in line
    assert "%%finetune long with the same lists goes on" in line
    assert len(stopped.displays) == 1
    frame = stopped.panel[-1]
    assert "1 of 2 trials" in frame["text/plain"]
    assert "The same cell again goes on with the trials that are missing." in frame["text/html"]
    assert frame["text/html"].count("<svg") == 1
    assert "2 trials take about" in stopped.text
    assert kernel.value("[row['state'] for row in trials.rows]") == "['finished', 'stopped']"

    before = home.steps("long-trial-2")
    kernel.restart()
    kernel.run(warm.cell)
    reply = kernel.run(f"%%finetune long --out trials\n{LONG}60")
    assert reply.status == "ok", reply.traceback
    assert f"long-trial-2 is unfinished: it goes on from its newest checkpoint, step {before}" in reply.text
    assert "2 of 2 trials" in reply.panel[-1]["text/plain"]
    assert home.steps("long-trial-2", attempt=2) == 60 - before
    assert home.steps("long-trial-1", attempt=2) == 0
    assert reply.result.startswith("Trials('long', 2 of 2 finished; best: learning_rate ")


def test_a_killed_kernel_leaves_the_trial_training_and_the_same_cell_attaches_to_it(
    kernel: Kernel, home: Home, warm: Any
) -> None:
    kernel.send(f"%%finetune killed\n{LONG}2000")
    wait_for(lambda: home.steps("killed-trial-1") > 2)
    kernel.restart()
    kernel.run(warm.cell)
    cell = kernel.send(f"%%finetune killed\n{LONG}2000")
    kernel.wait_for_panel(cell)
    seen = home.steps("killed-trial-1")
    wait_for(lambda: home.steps("killed-trial-1") > seen + 50)
    kernel.interrupt()
    reply = kernel.reply(cell)
    assert reply.error == "Interrupted"
    assert "killed-trial-1 is being trained already: this cell shows it." in reply.text
    assert {event["attempt"] for event in home.events("killed-trial-1")} == {1}
