"""notebooks/qwen3_4b_proof_of_concept.ipynb: use case A, from the folders to the report, on a tiny Qwen3."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "qwen3_4b_proof_of_concept.ipynb"

pytestmark = [pytest.mark.colab, pytest.mark.timeout(400), pytest.mark.xdist_group("qwen3 notebook")]

# What the project wrote down. Steps, rate and how often it saves are those of a rehearsal: see the test of the source.
RECIPE = {
    "method": "qlora", "r": 16, "lora_alpha": 16, "lora_dropout": 0, "per_device_train_batch_size": 2,
    "effective_batch_size": 8, "warmup_steps": 10, "lr_scheduler_type": "linear",
    "weight_decay": 0.01, "optim": "adamw_8bit", "seed": 3407, "max_length": 8192, "gradient_checkpointing": True,
    "max_train_samples": 1000, "save_total_limit": 3,
}  # fmt: skip
PROJECTIONS = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


@pytest.fixture(scope="module")
def shown(rehearsed: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return rehearsed("qwen3_4b_proof_of_concept")


@pytest.fixture(scope="module")
def folder(shown: dict[str, str]) -> Path:
    return Path(shown["folder"])


@pytest.fixture(scope="module")
def drive(folder: Path) -> Path:
    """The project's folder on what stands for the mounted Drive."""
    return folder / "drive/MyDrive/colab_magics"


@pytest.fixture(scope="module")
def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs/qwen3_proof/events.jsonl").read_text().splitlines()]


def test_the_folders_are_made_and_told(shown: dict[str, str], drive: Path) -> None:
    for name in ("checkpoints", "logs", "outputs", "datasets"):
        assert (drive / name).is_dir()
        assert re.search(rf"^{name} +{drive / name}$", shown["session"], re.MULTILINE)


def test_the_session_tells_its_time_and_the_red_flags_of_the_project(shown: dict[str, str]) -> None:
    assert "Colab Free" in shown["session"]
    assert re.search(r"^running for +\d", shown["session"], re.MULTILINE)
    assert re.search(r"^time limit +12 h", shown["session"], re.MULTILINE)
    assert re.search(r"^idle limit +\d", shown["session"], re.MULTILINE)
    flags = re.search(r"^Red flags: .*$", shown["session"], re.MULTILINE)
    assert flags
    for flag in ("Drive 10 GB", "memory 15 GB", "a run over 8 h"):
        assert flag in flags[0]


def test_the_plan_is_of_the_real_model_on_every_platform_and_by_scenario(shown: dict[str, str]) -> None:
    plan = shown["plan"]
    places = ("Colab Free", "Kaggle, saved version", "Lightning Studio", "RunPod", "Thunder Compute")
    for place in (*places, "SageMaker Studio Lab"):
        assert re.search(rf"^{place}(?: \(here\))? +Tesla T4|^{place} +RTX 3090", plan, re.MULTILINE), place
    assert re.search(r"^RunPod +Tesla T4 16 GB .*\$0\.\d\d$", plan, re.MULTILINE)
    fits = re.search(r"^Colab Free \(here\) +Tesla T4 16 GB +yes: (\d+\.\d) of 13\.\d GiB", plan, re.MULTILINE)
    assert fits
    assert 2.5 < float(fits[1]) < 6  # 4B weights in 4 bits, and two short documents
    assert re.search(r"^Paperspace Gradient, free +Quadro M4000 8 GB +no:", plan, re.MULTILINE)
    for scenario in ("Free only", "Free and a little paid", "Colab Pro and a backup", r"Colab Pro\+"):
        assert re.search(rf"^{scenario} .* (free|\$[\d.]+)$", plan, re.MULTILINE), scenario


def test_at_8192_tokens_it_fits_below_the_cap_of_14_gb(shown: dict[str, str]) -> None:
    fits = re.search(r"It fits \(green\): (\d+\.\d) GiB of the 14\.6 GiB of a Tesla T4", shown["estimate"])
    assert fits
    assert 8 < float(fits[1]) < 13


def test_it_trains_by_the_recipe_of_the_project(folder: Path, events: list[dict[str, Any]]) -> None:
    recipe = yaml.safe_load((folder / "runs/qwen3_proof/recipe.yaml").read_text())
    assert {key: recipe[key] for key in RECIPE} == RECIPE
    assert set(recipe["target_modules"]) == PROJECTIONS
    assert "14" in str(recipe["max_memory"])
    assert recipe["prompt_template"] == "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n{output}"
    adapter = json.loads((folder / "runs/qwen3_proof/adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], set(adapter["target_modules"])) == (16, 16, PROJECTIONS)
    steps = [one for one in events if one["kind"] == "step"]
    assert [one["step"] for one in steps] == list(range(1, 41))
    assert steps[-1]["loss"] < steps[0]["loss"] * 0.7
    assert max(one["learning_rate"] for one in steps) == pytest.approx(5e-4)


def test_outside_of_a_rehearsal_it_is_the_real_model_for_100_steps_saved_every_25() -> None:
    source = NOTEBOOK.read_text(encoding="utf-8")
    assert 'else \\"unsloth/Qwen3-4B-unsloth-bnb-4bit\\"' in source
    assert 'else (100, \\"25 steps\\", 2e-4)' in source


def test_three_checkpoints_are_kept_and_copied(shown: dict[str, str], drive: Path) -> None:
    kept = [int(step) for step in re.findall(r"^ +(\d+) +[\d.]+ (?:s|min) ", shown["cost"], re.MULTILINE)]
    assert kept == [40, 30, 20]
    assert (drive / "checkpoints/qwen3_proof/checkpoints/00000040-a1/MANIFEST.json").exists()
    assert "finished" in shown["cost"]


def test_what_it_used_stands_beside_what_was_expected(shown: dict[str, str]) -> None:
    assert "Expected at its start on CPU" in shown["cost"]
    assert re.search(r"^1 +Colab Free +CPU .* 1 to 40 +free$", shown["cost"], re.MULTILINE)


def test_it_answers_one_prompt_and_many(shown: dict[str, str]) -> None:
    assert re.search(r"\[run qwen3_proof: \d+ tokens in .* tokens/s\]", shown["generate"])
    assert "4 texts of run qwen3_proof" in shown["lines"]


def test_its_speed_is_told_by_batch_with_latencies(shown: dict[str, str]) -> None:
    lines = re.findall(r"^([148]) +128 .* ([\d,.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", shown["bench"], re.MULTILINE)
    assert [line[0] for line in lines] == ["1", "4", "8"]
    assert all(float(p50) <= float(p90) <= float(p99) for _, _, p50, p90, p99 in lines)
    assert float(lines[2][1].replace(",", "")) > float(lines[0][1].replace(",", ""))  # batches are the cure


def test_the_base_and_the_tuned_model_are_compared_and_failures_collected(shown: dict[str, str], drive: Path) -> None:
    perplexity = re.search(r"^perplexity +([\d.]+) +([\d.]+)$", shown["compare"], re.MULTILINE)
    assert perplexity
    assert float(perplexity[2]) < 0.7 * float(perplexity[1])
    assert re.search(r"^ +run qwen3_proof +.*me hearty\. Arr!$", shown["compare"], re.MULTILINE)
    failed = [json.loads(line) for line in (drive / "outputs/failed.jsonl").read_text().splitlines()]
    assert f"{len(failed)} of 10 failed" in shown["compare"]
    assert all(row["prompt"].startswith("<|im_start|>user\n") and "completion" in row for row in failed)


def test_the_report_and_the_adapter_are_among_the_outputs(drive: Path) -> None:
    text = (drive / "outputs/qwen3_proof.md").read_text()
    for part in ("Evaluation", "Before and after", "Data", "Time by stage", "Speed", "Memory", "Cost", "Recipe"):
        assert re.search(rf"^#+ {part}", text, re.MULTILINE), part
    assert "<script" not in (drive / "outputs/qwen3_proof.html").read_text()
    with zipfile.ZipFile(drive / "outputs/qwen3_proof.zip") as archive:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {Path(name).name for name in archive.namelist()}


def test_its_copy_is_whole_on_another_machine(shown: dict[str, str], folder: Path) -> None:
    assert "Fetched qwen3_proof, step 40" in shown["move"]
    assert "every byte is as it was committed" in shown["move"]
    assert (folder / "elsewhere/qwen3_proof/checkpoints/00000040-a1/MANIFEST.json").exists()


def test_the_model_that_answered_is_let_go(shown: dict[str, str]) -> None:
    assert "Let go: %generate's model of run qwen3_proof" in shown["free"]
