"""The machine is gone, with its runs, its data and its kernel: what the replica holds is enough."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.run import Run

from .conftest import ROWS, Home, Kernel, wait_for

pytestmark = pytest.mark.xdist_group("new-machine")

# nothing that `auto` measures: two machines, or one that is busy, may find otherwise, and other sums round otherwise
BODY = """\
model: demo
data: rows.jsonl
lora_dropout: 0.1
effective_batch_size: 2
per_device_train_batch_size: 2
packing: false
gradient_checkpointing: false
max_steps: {}
save_every: 20 steps"""

STEPS = 800  # some ten seconds of them


def a_machine(home: Home, replica: Path, name: str) -> Home:
    """A new one: another folder, another cache; only the replica is the same."""
    folder = home.folder / name
    folder.mkdir()
    environment = home.environment | {
        "COLAB_MAGICS_ROOT": str(folder / "runs"),
        "COLAB_MAGICS_CACHE": str(folder / "cache"),
        "COLAB_MAGICS_REPLICA": str(replica),
    }
    return Home(folder, environment)


def dies(machine: Home) -> None:
    """The machine with all its processes and disks."""
    folder = machine.runs / "mine"
    replica = json.loads((folder / "replica.lock").read_text())["pid"]
    worker.kill(folder)
    os.kill(replica, 9)
    shutil.rmtree(machine.folder)


def test_a_run_goes_on_three_times_on_a_machine_that_has_only_the_replica_to_the_same_weights(
    home: Home, tmp_path: Path
) -> None:
    """One long test: each worker costs ten seconds."""
    first = a_machine(home, tmp_path / "replica", "first")
    shutil.copyfile(ROWS, first.folder / "rows.jsonl")
    kernel = Kernel(first.folder, first.environment)
    kernel.run(f"%%finetune mine --background\n{BODY.format(STEPS)}")
    copies = tmp_path / "replica" / "mine" / "checkpoints"
    wait_for(lambda: any(path.name >= "00000060" for path in copies.glob("0*")))
    kernel.close()
    dies(first)

    # no data file, no cell: the word is enough
    second = a_machine(home, tmp_path / "replica", "second")
    kernel = Kernel(second.folder, second.environment)
    cell = kernel.send("%checkpoint resume")
    wait_for(lambda: second.steps("mine", attempt=2) > 2)
    # a third machine looks while the second one trains: it is refused, and may fork
    third = a_machine(home, tmp_path / "replica", "third")
    refused = third.terminal("checkpoint", "resume")
    assert "mine is being trained elsewhere" in refused.stderr
    assert "--fork mine-2" in refused.stderr
    assert not third.runs.exists() or not (third.runs / "mine").exists()

    reply = kernel.reply(cell)
    assert reply.status == "ok", reply.traceback
    assert "Fetching mine from" in reply.text
    (resumed,) = [event for event in second.events("mine") if event["kind"] == "resumed"]
    assert resumed["exact"] is True
    assert resumed["step"] >= 60
    kernel.close()

    # the finished run, from a fresh machine again: shown, not trained
    shutil.rmtree(second.folder)
    last = a_machine(home, tmp_path / "replica", "last")
    shutil.copyfile(ROWS, last.folder / "rows.jsonl")
    kernel = Kernel(last.folder, last.environment)
    shown = kernel.run(f"%%finetune mine --out run\n{BODY.format(STEPS)}")
    assert "has been trained with this recipe and data" in shown.text
    nothing_left = kernel.run("%checkpoint resume mine")
    assert "mine is finished" in "\n".join(nothing_left.traceback)
    straight = kernel.run(f"%%finetune straight --replica none\n{BODY.format(STEPS)}")
    assert straight.status == "ok", straight.traceback
    kernel.close()
    weights = [last.runs / name / "adapter" / "adapter_model.safetensors" for name in ("mine", "straight")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert Run(last.runs / "mine").losses == Run(last.runs / "straight").losses
