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
    assert "pairs.jsonl, 8 pairs" in shown
    assert "documents" not in shown
    events = home.events("liked")
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2]
    assert (home.runs / "liked" / "adapter" / "adapter_model.safetensors").is_file()
    data = next(event for event in events if event["kind"] == "data")
    assert (data["pairs"], data["rows"]) == (8, 8)


def test_what_comes_of_it_is_asked_compared_exported_and_reported_as_any_run(home: Home, kernel: Kernel) -> None:
    pairs(home)
    recipe = RECIPE.replace("max_steps: 2", "max_steps: 12") + "\neval_data: pairs.jsonl"
    assert kernel.run(f"%%finetune told --quiet\n{recipe}", timeout=300).status == "ok"
    assert kernel.run("%generate --run told --max-new-tokens 4 --out said Say 1").status == "ok"
    assert kernel.run("%compare --run told --rows 3 --max-new-tokens 4 --out c").status == "ok"
    assert eval(kernel.value("c.references")) == ("Arr, 0!", "Arr, 1!", "Arr, 2!"), "rejected answers are none"
    assert eval(kernel.value("c.after.loss < c.before.loss"))
    plain = '{"prompt": "Say 3", "completion": "Arr, 3!"}\n'
    (home.folder / "plain.jsonl").write_text(plain)
    assert kernel.run("%compare --run told --data plain.jsonl --max-new-tokens 4 --out c").status == "ok"
    assert eval(kernel.value("c.references")) == ("Arr, 3!",)
    assert kernel.run("%export told --to told.zip").status == "ok"
    assert kernel.run("%export told --merge --to whole").status == "ok"
    assert (home.folder / "whole" / "model.safetensors").is_file()
    assert kernel.run("%report told --to told.md").status == "ok"
    assert "Arr, 3!" in (home.folder / "told.md").read_text()


def test_learning_rates_of_a_comparison_are_tried(home: Home, kernel: Kernel) -> None:
    pairs(home)
    recipe = RECIPE.replace("max_steps: 2", "max_steps: 12").replace("1e-3", "[1e-4, 1e-2]")
    recipe += "\nwarmup_steps: 0\ntrial_steps: 6"
    reply = kernel.run(f"%%finetune tried --quiet --out tried\n{recipe}", timeout=300)
    assert reply.status == "ok", reply.traceback
    assert eval(kernel.value("tried.best_values")) == {"learning_rate": 0.01}
    assert kernel.run("%generate --run tried-trial-2 --max-new-tokens 4 Say 1").status == "ok"


def test_data_without_pairs_is_refused_before_anything_is_kept(home: Home, kernel: Kernel) -> None:
    reply = kernel.run(f"%%finetune unliked\n{RECIPE.replace('pairs.jsonl', 'demo')}", timeout=300)
    assert reply.status == "error"
    assert "has no pairs of answers, which dpo compares" in "".join(reply.traceback)
    assert not (home.runs / "unliked").exists()


def test_judgements_that_are_all_good_are_refused_before_anything_is_kept(home: Home, kernel: Kernel) -> None:
    rows = [{"prompt": f"Say {n}", "completion": f"Arr, {n}!", "label": True} for n in range(16)]
    (home.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reply = kernel.run(f"%%finetune praised\n{RECIPE.replace('dpo', 'kto')}", timeout=300)
    assert reply.status == "error"
    assert "All 16 answers of pairs.jsonl are judged good." in "".join(reply.traceback)
    assert not (home.runs / "praised").exists()


@pytest.mark.parametrize(
    ("method", "row", "said"),
    [
        ("dpo", {"prompt": "Say it", "chosen": "Arr!", "rejected": "It is."}, "pairs        8"),
        ("kto", {"prompt": "Say it", "chosen": "Arr!", "rejected": "It is."}, "examples     16"),
        ("sft", {"prompt": "Say it", "completion": "Arr!"}, "documents    8"),
    ],
)
def test_what_is_counted_is_what_a_step_counts(
    home: Home, kernel: Kernel, method: str, row: dict[str, str], said: str
) -> None:
    (home.folder / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 8)
    recipe = RECIPE.replace("dpo", "auto\nobjective: sft" if method == "sft" else method)
    reply = kernel.run(f"%%finetune data\n{recipe}", timeout=300)
    assert reply.status == "ok", reply.traceback
    shown = reply.text + "".join(frame.get("text/plain", "") for frames in reply.displays.values() for frame in frames)
    assert " ".join(said.split()) in " ".join(shown.split())
