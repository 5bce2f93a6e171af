"""Use case B: an adapter from 107 rows and a gated model, from notebooks/llama_1b_small_adapter.ipynb."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from colab_magics.run import Run

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "hf_" + "OnlyOfThisTestAndNowhereToBeFound1"

pytestmark = [pytest.mark.colab, pytest.mark.timeout(400), pytest.mark.xdist_group("llama_1b_small_adapter")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llama_1b_small_adapter")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Any:
    """As it ran for somebody who is signed in: no other rehearsal has a token."""
    from rehearse import rehearse

    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return rehearse("llama_1b_small_adapter", folder, PYTHONPATH=path, OMP_NUM_THREADS="1", HF_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def shown(notebook: Any) -> dict[str, str]:
    from rehearse import tagged

    return tagged(notebook)


@pytest.fixture(scope="module")
def run(notebook: Any, folder: Path) -> Run:
    return Run(folder / "runs" / "kwanzaa-adapter-v1")


def test_the_login_is_found_and_leaks_into_no_output_and_no_file(
    notebook: Any, shown: dict[str, str], folder: Path
) -> None:
    assert "Signed in to the Hub: True" in shown["login"]
    assert TOKEN not in nbformat.writes(notebook)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_there_are_107_rows_and_27_held_out_ones(run: Run, folder: Path) -> None:
    rows = {part: (folder / f"kwanzaa_{part}.jsonl").read_text().splitlines() for part in ("train", "eval")}
    assert {part: len(lines) for part, lines in rows.items()} == {"train": 107, "eval": 27}
    assert not set(rows["train"]) & set(rows["eval"])
    found = {event["split"]: event["documents"] for event in run.events() if event["kind"] == "data"}
    assert found == {"train": 107, "eval": 27}


def test_the_recipe_is_that_of_the_project_and_learns(run: Run, shown: dict[str, str]) -> None:
    recipe = run.recipe
    assert (recipe.method, recipe.r, recipe.lora_alpha, recipe.num_train_epochs) == ("qlora", 16, 32, 3)
    assert (recipe.per_device_train_batch_size, recipe.effective_batch_size) == (1, 8)
    assert len(recipe.target_modules) == 7
    assert len(run.losses) == 3 * 14
    assert run.losses[-1] < 0.4 * run.losses[0]
    told = re.findall(r"^step +(\d+)  loss ([\d.]+)$", shown["losses"], re.MULTILINE)
    assert told == [(str(step), f"{run.losses[step - 1]:.4f}") for step in (10, 20, 30, 40)]


def test_the_adapter_is_a_folder_that_peft_loads_and_one_archive_of_it(notebook: Any, folder: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    adapter = folder / "kwanzaa-adapter-v1"
    names = {path.name for path in adapter.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], len(config["target_modules"])) == (16, 32, 7)
    with zipfile.ZipFile(folder / "kwanzaa-adapter-v1.zip") as archive:
        assert archive.testzip() is None
        packed = {Path(name).name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    assert packed == {path.name: path.read_bytes() for path in adapter.iterdir()}
    model = AutoPeftModelForCausalLM.from_pretrained(str(adapter))
    assert sum(one.numel() for name, one in model.named_parameters() if "lora_" in name) == 38_912


def test_the_sizes_in_the_text_are_those_of_the_large_models_adapter(notebook: Any) -> None:
    hidden, inner, key_value, layers, r = 2048, 8192, 512, 16, 16  # Llama-3.2-1B
    query_and_value = hidden + hidden + hidden + key_value
    rest = hidden + key_value + hidden + hidden + 3 * (hidden + inner)
    numbers = r * layers * (query_and_value + rest)
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").replace("\n", " ")
    assert f"{numbers / 1e6:.1f} million numbers, {4 * numbers / 1e6:.0f} MB" in text
    assert f"it is {4 * r * layers * query_and_value / 1e6:.1f} MB" in text


def test_the_evaluation_counts_by_the_users_own_rules_on_all_held_out_rows(shown: dict[str, str]) -> None:
    assert "27 cases in" in shown["compare"]
    losses = re.search(r"loss on the answers +([\d.]+) +([\d.]+)", shown["compare"])
    assert losses is not None
    assert float(losses[2]) < 0.5 * float(losses[1])
    rules = {
        name: (int(before), int(after))
        for name, before, after in re.findall(r"(\w+) +(\d+)% → +(\d+)%", shown["rules"])
    }
    assert list(rules) == ["citations", "format", "grounding", "refusals"]
    assert rules["format"][1] > rules["format"][0], "the form of the answers is learnt first"
    score = re.search(r"^score +([\d.]+) +([\d.]+)$", shown["compare"], re.MULTILINE)
    assert score is not None
    for side in (0, 1):
        assert float(score[side + 1]) == pytest.approx(sum(pair[side] for pair in rules.values()) / 400, abs=0.01)


def test_what_breaks_a_rule_is_kept_in_a_form_that_can_be_trained_on(shown: dict[str, str], folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "kwanzaa_failed.jsonl").read_text().splitlines()]
    assert f"{len(rows)} of 27 answers break a rule" in shown["rules"]
    assert rows
    for row in rows:
        assert row["prompt"]
        assert row["completion"]
        assert row["score"] < 1


def test_the_report_is_written(notebook: Any, folder: Path) -> None:
    report = (folder / "kwanzaa-adapter-v1-report.md").read_text()
    assert "107" in report
    assert "kwanzaa-adapter-v1.zip" in report
    assert (folder / "kwanzaa-adapter-v1-report.html").stat().st_size > 10_000
