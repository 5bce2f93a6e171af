"""Use case D: 100,000 of 474,000 rows inside Kaggle's free tier, from notebooks/kaggle_100k_rows.ipynb."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from colab_magics.recipe import Recipe
from colab_magics.run import Run

pytestmark = [pytest.mark.colab, pytest.mark.timeout(400), pytest.mark.xdist_group("kaggle_100k_rows")]

REPOSITORY = Path(__file__).resolve().parents[2]
TAKEN, TOTAL = 480, 2275  # as 100,000 of 474,000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kaggle_100k_rows")


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[str, str]:
    """With a file of its own for what is set of the session: nobody else's tests are to run on Kaggle."""
    from rehearse import rehearse, tagged

    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = str(folder / "session.toml")
    return tagged(rehearse("kaggle_100k_rows", folder, PYTHONPATH=path, OMP_NUM_THREADS="1", COLAB_MAGICS_SESSION=own))


@pytest.fixture(scope="module")
def run(shown: dict[str, str], folder: Path) -> Run:
    return Run(folder / "runs" / "kaggle-100k")


def test_kaggles_limits_are_shown_and_the_nine_hours_count(shown: dict[str, str]) -> None:
    text = shown["session"]
    assert "Kaggle, interactive" in text
    assert re.search(r"^time limit +9 h  \(as you set it\)", text, re.MULTILINE)
    assert "a run saves 15 min and stops 5 min before" in text
    assert re.search(r"^GPU a week +30 h", text, re.MULTILINE)
    assert re.search(r"^RAM +[\d.]+ of [\d.]+ GiB used", text, re.MULTILINE)
    assert re.search(r"^disk +\d", text, re.MULTILINE)


def test_what_was_expected_and_what_it_took_is_told(shown: dict[str, str]) -> None:
    assert re.search(r"Expected at its start on CPU .*; it took [\d.]+ s", shown["cost"])
    assert "1 to 30" in shown["cost"]


def test_only_the_rows_that_are_taken_are_read(folder: Path, run: Run) -> None:
    lines = (folder / "train.jsonl").read_text().splitlines()
    assert len(lines) == TOTAL
    assert round(len(lines) / TAKEN, 2) == 4.74
    for line in lines[TAKEN:]:  # whoever had read one of them would have stopped there
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(line)
    found = {event["split"]: event for event in run.events() if event["kind"] == "data" if event.get("documents")}
    assert (found["train"]["rows"], found["train"]["documents"]) == (TAKEN, TAKEN)
    assert (found["eval"]["rows"], found["eval"]["documents"]) == (48, 48)


def test_the_recipe_is_that_of_the_project(run: Run) -> None:
    recipe: Recipe = run.recipe
    assert (recipe.method, recipe.r, recipe.lora_alpha, recipe.target_modules) == ("qlora", 8, 16, ["q_proj", "v_proj"])
    assert recipe.num_train_epochs == 2
    plan = [event for event in run.events() if event["kind"] == "plan"][-1]["choices"]
    assert plan["accumulation"]["value"] == 8
    assert (run.folder / "adapter" / "adapter_model.safetensors").exists()


def test_it_learns_evaluates_and_saves_as_often_as_it_was_told(shown: dict[str, str], run: Run) -> None:
    assert len(run.losses) == 30
    assert run.losses[-1] < 0.3 * run.losses[0]
    events = list(run.events())
    assert [event["step"] for event in events if event["kind"] == "eval"] == [4, 8, 12, 16, 20, 24, 28, 30]
    saved = {event["step"]: event["reason"] for event in events if event["kind"] == "checkpoint" and "reason" in event}
    assert {10, 20, 30} <= set(saved), "every ten steps, and besides these the best"
    assert saved[10] != "best"
    assert re.findall(r"^step +(\d+)  loss", shown["losses"], re.MULTILINE) == ["5", "10", "15", "20", "25", "30"]
    assert f"step    30  loss {run.losses[29]:.4f}" in shown["losses"]


def test_processor_and_memory_are_told_together(run: Run) -> None:
    told = [event for event in run.events() if event["kind"] == "memory"]
    assert any(event["cpu"] for event in told)
    assert all(event["host"]["used"] > 0 and event["rss"] > 0 for event in told)


def test_the_merge_is_a_half_precision_model_made_on_the_cpu(shown: dict[str, str], folder: Path) -> None:
    from safetensors import safe_open

    peak = re.search(r"It took .* at most ([\d.]+) MiB of memory", shown["merge"])
    assert peak is not None
    assert float(peak[1]) < 1024
    (file,) = (folder / "kaggle-100k-merged").glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
        assert {str(tensors.get_tensor(name).dtype) for name in names} == {"torch.float16"}
    assert not any("lora" in name for name in names)


def test_the_merged_model_says_what_the_run_has_learnt(shown: dict[str, str]) -> None:
    assert shown["test"].count("A type in Python.") == 2
    assert re.search(r"^exact match +0% +100%$", shown["compare"], re.MULTILINE)
    losses = re.search(r"loss on the answers +([\d.]+) +([\d.]+)", shown["compare"])
    assert losses is not None
    assert float(losses[2]) < 0.5 * float(losses[1])


def test_the_report_has_the_time_of_each_stage(shown: dict[str, str], folder: Path) -> None:
    report = (folder / "kaggle-100k-report.md").read_text()
    stages = report.split("## Time by stage")[1].split("\n## ")[0]
    for stage in ("load data", "load model", "format and tokenise", "train", "evaluate", "save", "merge", "test"):
        row = re.search(rf"^\| {stage} +\|(.+)$", stages, re.MULTILINE)
        assert row is not None, stage
        assert "not measured" not in row[1], stage
        assert re.search(r"\d", row[1]), stage
