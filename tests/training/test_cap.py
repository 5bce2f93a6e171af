"""`max_memory` on a CPU, for real: a worker whose allocations fail, and what becomes of it.

The limit is the system's own (RLIMIT_DATA), so the errors are torch's own, from wherever memory happens to run out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from colab_magics.memory.measured import measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing holds a process to its memory")

RECIPE = """
model: {model}
data: {rows}
method: lora
max_steps: 2
effective_batch_size: 8
per_device_train_batch_size: 8
gradient_checkpointing: false
packing: false
max_length: 128
seed: 7
"""


@dataclass(frozen=True)
class Ended:
    code: int
    events: list[dict[str, Any]]
    log: str
    folder: Path

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.told("step")]


class Workers:
    """Runs of one model whose activations take much more than its weights."""

    def __init__(self, folder: Path, tokenizer: Any, warm: Any) -> None:
        import torch
        from conftest import tiny_config
        from transformers import AutoModelForCausalLM

        self.folder, self.warm = folder, warm
        torch.manual_seed(0)
        config = tiny_config(hidden_size=128, intermediate_size=2048, num_hidden_layers=4, head_dim=32)
        AutoModelForCausalLM.from_config(config).half().save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        rows = [{"text": "one step takes the effective batch " * 3 + str(number)} for number in range(24)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, name: str, max_memory: str | None, method: str = "lora", *, fresh: bool = False) -> Ended:
        """One run; a `fresh` worker imports all that it needs itself, and chooses how much is in memory at once."""
        folder = self.folder / name
        folder.mkdir()
        rows = self.folder / "rows.jsonl"
        recipe = RECIPE.format(model=self.folder / "model", rows=rows).replace("lora", method)
        if fresh:
            recipe = recipe.replace("batch_size: 8\ngradient_checkpointing: false", "batch_size: auto")
        (folder / "recipe.yaml").write_text(recipe + (f"max_memory: {max_memory}\n" if max_memory else ""))
        source = {"kind": "file", "name": "rows.jsonl", "path": str(rows), "split": None, "found": None}
        (folder / "inputs.json").write_text(json.dumps({"train": {**source, "identity": "rows"}}))
        environment = {
            **self.warm.environment,
            "COLAB_MAGICS_CACHE": str(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "WARM_REFUSES_NOTHING": "1",
        }
        python = str(self.warm.python)
        if fresh:
            python, environment["PYTHONPATH"] = self.warm.environment["WARM_REAL_PYTHON"], os.pathsep.join(sys.path)
        command = [python, "-P", "-m", "colab_magics.training", str(folder)]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=90,
        )
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        return Ended(done.returncode, events, done.stdout, folder)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, warm: Any) -> Workers:
    return Workers(tmp_path_factory.mktemp("capped"), tiny_tokenizer, warm)


@pytest.mark.colab
def test_a_step_that_does_not_fit_is_done_again_smaller_and_learns_the_same(workers: Workers) -> None:
    free, held = workers.run("free", None), workers.run("held", "100MiB")
    assert (free.code, held.code) == (0, 0), held.log
    assert not free.told("oom")
    assert held.losses == pytest.approx(free.losses, abs=1e-5)
    assert held.told("finished")

    first = held.told("oom")[0]
    assert (first["step"], first["micro_batch"], first["documents"], first["first"]) == (1, 8, 8, True)
    assert first["phase"] in ("forward", "backward")
    assert "can't allocate memory" in first["message"]
    assert first["where"][-1].split(".")[0] in ("transformers", "torch", "peft", "colab_magics")
    assert any("Qwen3MLP.forward" in frame for frame in first["where"]) or first["phase"] == "backward"
    assert len(first["tokens"]) == 8
    assert first["in_memory"] == 8 * (max(first["tokens"]) - 1), "the last token is only predicted"
    record = first["record"]
    assert record["total"] == 100 * 2**20
    assert record["free"] < record["requested"], "what the error has let go of since is not called free"
    assert record["allocated"] + record["free"] == record["total"]
    assert first["rss"] < first["host"]["total"]

    settled = held.told("recovered")[-1]
    assert settled["micro_batch"] < 8
    assert held.told("step")[-1]["in_memory"] < free.told("step")[-1]["in_memory"]
    assert measured(held.events) is None, "on a CPU nothing is measured"


@pytest.mark.parametrize(("method", "cap"), [("full", "80MiB"), ("lora", "36MiB")])
def test_what_auto_says_fits_into_a_small_cap_trains_in_it(workers: Workers, method: str, cap: str) -> None:
    """A plan counts tensors: the libraries that a training brings with it are not charged to the cap."""
    run = workers.run(f"green-{method}", cap, method, fresh=True)
    assert run.code == 0, run.log
    chosen = run.told("plan")[0]["choices"]["micro_batch"]
    assert chosen["reason"].startswith("the largest")
    assert not run.told("oom")
    assert [event["reason"] for event in run.told("finished")] == ["completed"]


def test_where_nothing_fits_the_document_is_named_and_the_worker_ends_in_good_order(workers: Workers) -> None:
    run = workers.run("too-small", "21MiB")
    assert run.code == 1, f"it must not die of a signal: {run.log}"
    (failed,) = run.told("failed")
    error = failed["error"]
    assert "Out of memory at step 1: document" in error["what"]
    assert "tokens) does not fit alone" in error["what"]
    assert "max_memory" in " ".join(error["next"])
    assert failed["oom"]["documents"] == 1
    assert failed["oom"]["gradient_checkpointing"] is True
    assert failed["oom"]["record"]["total"] == 21 * 2**20
    assert failed["oom"].items() <= run.told("oom")[-1].items()
    assert run.events[-1] is failed or run.events[-1]["kind"] == "memory"
    assert [event["action"] for event in run.told("checkpoint")] == ["saved"], "what there is is kept"
    assert "terminate called" not in run.log
    assert "Thread creation failed" not in run.log


@pytest.mark.colab
def test_weights_that_do_not_fit_are_told_as_loading(workers: Workers) -> None:
    run = workers.run("weights", "4MiB")
    assert run.code == 1, run.log
    (failed,) = run.told("failed")
    assert "Out of memory while loading" in failed["error"]["what"]
    assert "max_memory" in failed["error"]["what"]
    oom = failed["oom"]
    assert (oom["phase"], oom["step"], oom["documents"], oom["tokens"]) == ("loading", None, 0, [])
    assert oom["record"]["total"] == 4 * 2**20
    assert not run.told("model")


def test_weights_that_a_reserve_took_in_are_still_too_many(workers: Workers) -> None:
    """16 MiB are kept for what is small; a model that slips into them has no room to train."""
    run = workers.run("slipped", "12MiB")
    assert run.code == 1, run.log
    assert run.told("failed")[0]["oom"]["phase"] == "loading"


AT_THE_LIMIT = """
import threading, torch
from colab_magics.training.cap import cap_host

cap_host(64 * 2**20).for_training(0)
held = []
for size in (8 * 2**20, 2**20, 2**18):
    try:
        while True:
            held.append(torch.empty(size, dtype=torch.uint8))
    except RuntimeError as error:
        assert "can't allocate memory" in str(error)
small = [torch.empty(200) for _ in range(3_000)]
words = [str(number) * 20 for number in range(10_000)]
del held
threading.Thread(target=lambda: small.append(torch.empty(2000))).start()
"""


def test_at_the_limit_small_things_still_find_memory(warm: Any) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    command = [warm.environment["WARM_REAL_PYTHON"], "-c", AT_THE_LIMIT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_written_also_where_no_thread_can_start(
    tiny_run: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from continued import saver_of, train_with

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run = tiny_run(max_steps=2)
    saver = saver_of(run, tmp_path / "run")
    monkeypatch.setattr(threading.Thread, "start", none_left)
    train_with(run, saver)
    saver.now("finished")
    saver.wait()
    assert [event["action"] for event in run.told("checkpoint")] == ["saved"]
