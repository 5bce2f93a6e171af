"""`%%finetune` with `method: dpo`, in a real kernel: the margin is shown, and data without pairs refused."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from .conftest import Home, Kernel

pytestmark = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed (an extra: colab-magics[trl])")

RECIPE = "model: demo\ndata: pairs.jsonl\nmethod: dpo\nmax_steps: 2\neffective_batch_size: 4\nlearning_rate: 1e-3"


def pairs(home: Home) -> None:
    rows = [{"prompt": f"Say {n}", "chosen": f"Arr, {n}!", "rejected": f"It is {n}."} for n in range(8)]
    (home.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_one_cell_compares_answers_and_shows_by_how_much(home: Home, kernel: Kernel) -> None:
    pairs(home)
    reply = kernel.run(f"%%finetune liked\n{RECIPE}", timeout=300)
    assert reply.status == "ok", reply.error or reply.text
    shown = "".join(frame.get("text/plain", "") for frames in reply.displays.values() for frame in frames)
    assert "reward margin" in shown
    assert "method: dpo → objective: dpo" in reply.text + shown
    events = home.events("liked")
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2]
    assert (home.runs / "liked" / "adapter" / "adapter_model.safetensors").is_file()
    data = next(event for event in events if event["kind"] == "data")
    assert (data["pairs"], data["rows"]) == (8, 8)


def test_data_without_pairs_is_refused_before_anything_is_kept(home: Home, kernel: Kernel) -> None:
    reply = kernel.run(f"%%finetune unliked\n{RECIPE.replace('pairs.jsonl', 'demo')}", timeout=300)
    assert reply.status == "error"
    assert "has no pairs of answers, which dpo compares" in "".join(reply.traceback)
    assert not (home.runs / "unliked").exists()
