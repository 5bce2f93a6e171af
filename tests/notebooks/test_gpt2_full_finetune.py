"""Use case C: GPT-2 in full, tried small, chosen by trials, trained once; from notebooks/gpt2_full_finetune.ipynb."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from colab_magics.run import Run

pytestmark = [pytest.mark.colab, pytest.mark.timeout(400), pytest.mark.xdist_group("gpt2_full_finetune")]

TRIALS = tuple(f"functions-trial-{number}" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def shown(rehearsed: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return rehearsed("gpt2_full_finetune")


@pytest.fixture(scope="module")
def folder(shown: dict[str, str]) -> Path:
    return Path(shown["folder"])


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run(folder / "runs" / "functions")


def documents(run: Run) -> dict[str, int]:
    return {event["split"]: event["documents"] for event in run.events() if event["kind"] == "data"}


def evaluated(run: Run) -> float:
    return [float(event["loss"]) for event in run.events() if event["kind"] == "eval"][-1]


def test_there_are_400_examples_of_which_325_are_trained(run: Run, folder: Path) -> None:
    rows = {part: (folder / f"examples_{part}.jsonl").read_text().splitlines() for part in ("train", "eval")}
    assert {part: len(lines) for part, lines in rows.items()} == {"train": 325, "eval": 75}
    assert len({json.loads(line)["function"] for lines in rows.values() for line in lines}) == 400
    assert documents(run) == {"train": 325, "eval": 75}


def test_a_laptop_tries_the_recipe_on_a_subset(folder: Path) -> None:
    tried = Run(folder / "runs" / "laptop")
    assert tried.state == "finished"
    assert documents(tried)["train"] == 32
    assert len(tried.losses) == 2


def test_three_trials_choose_by_what_none_of_them_was_trained_on(shown: dict[str, str], folder: Path) -> None:
    assert "The best is the one of the lowest evaluation loss." in shown["trials"]
    runs = [Run(folder / "runs" / name) for name in TRIALS]
    assert [len(one.losses) for one in runs] == [20, 20, 20]
    assert len({one.losses[0] for one in runs}) == 1, "all begin with the same model and the same rows"
    scores = [evaluated(one) for one in runs]
    best = scores.index(min(scores))
    marked = [
        line.split()[0] for line in shown["trials"].splitlines() if re.match(r"functions-trial-\d .* best$", line)
    ]
    assert marked == [TRIALS[best]]


def test_one_line_trains_the_best_in_full(shown: dict[str, str], folder: Path, run: Run) -> None:
    best = re.search(r"^(functions-trial-\d) .* best$", shown["trials"], re.MULTILINE)
    assert best is not None
    recipe = run.recipe
    assert recipe.learning_rate == Run(folder / "runs" / best[1]).recipe.learning_rate
    assert (recipe.method, recipe.num_train_epochs) == ("full", 3)
    assert len(run.losses) == 3 * 21
    parameters = next(event for event in run.events() if event["kind"] == "model")
    assert parameters["trainable_parameters"] == parameters["parameters"]
    trial = Run(folder / "runs" / best[1])
    assert run.losses[0] == trial.losses[0], "it begins with the model, and not where the trial ended"
    assert evaluated(run) < evaluated(trial)


@pytest.mark.parametrize(
    ("tag", "hours", "runpod"), [("cost-3", 3, (0.60, 1.20, 2.34)), ("cost-6-8", 7, (1.40, 2.80, 5.46))]
)
def test_the_hours_of_a_gpu_have_a_price_on_each_platform(
    shown: dict[str, str], tag: str, hours: int, runpod: tuple[float, ...]
) -> None:
    assert shown[tag].lstrip().startswith(f"{hours} h")
    assert re.search(r"^Colab Free +Tesla T4 16 GB .* free$", shown[tag], re.MULTILINE)
    assert re.search(
        r"^Kaggle, saved version +Tesla T4 16 GB.* % of a week|% of a week +free$", shown[tag], re.MULTILINE
    )
    prices = re.findall(r"^RunPod .*\$([\d.]+)$", shown[tag], re.MULTILINE)
    assert tuple(map(float, prices)) == runpod
    assert re.search(r"^Colab Pay As You Go +Tesla T4 16 GB .* units, \$0\.\d\d$", shown[tag], re.MULTILINE)


def test_samples_are_drawn_from_the_result(shown: dict[str, str]) -> None:
    assert "3 texts of run functions" in shown["samples"]
    for prompt in ("statistics.harmonic_median(data)", "pathlib.copy_tree(source, target)", "json.load_lines(file)"):
        assert re.search(rf"^\d  {re.escape(prompt)} +Return", shown["samples"], re.MULTILINE), "as most of them begin"
    drawn = re.findall(r"^\d  textwrap\.fold\(text, width\) +(.+)$", shown["drawn"], re.MULTILINE)
    assert len(set(drawn)) == 3
    assert "attention_mask" not in shown["drawn"]


def test_the_checkpoints_are_listed_and_the_model_is_one_archive_that_loads(
    shown: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert re.search(r"^ +63 .* newest", shown["checkpoints"], re.MULTILINE)
    with zipfile.ZipFile(folder / "functions-model.zip") as archive:
        archive.extractall(tmp_path)
    (config,) = tmp_path.rglob("config.json")
    model = AutoModelForCausalLM.from_pretrained(config.parent)
    assert model.config.model_type == "gpt2"
    assert AutoTokenizer.from_pretrained(config.parent).encode("def")


def test_what_the_run_has_used_is_told_and_reported(shown: dict[str, str], folder: Path) -> None:
    assert re.search(r"Expected at its start on CPU .*; it took [\d.]+ s", shown["used"])
    report = (folder / "functions-report.md").read_text()
    assert "functions-model.zip" in report
