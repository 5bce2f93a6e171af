"""The same cell again: the design's table, row by row, on runs that lie on disk."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.magics.again import Attach, Begin, Continue, Show, decide
from colab_magics.magics.options import Options
from colab_magics.recipe import Recipe
from colab_magics.run import Run

from .checkpointed import Left

pytestmark = pytest.mark.face

RECIPE = Recipe(model="demo", data="train.jsonl")
INPUTS = {"train": {"kind": "path", "name": "train.jsonl", "identity": "jsonl:1:aa"}}
END = {
    "finished": ("finished", {"reason": "completed", "step": 9}),
    "early": ("finished", {"reason": "early_stopping", "step": 9}),
    "stopped": ("finished", {"reason": "stopped", "step": 4}),
    "failed": ("failed", {"error": ColabMagicsError("Loss is not a number at step 3.").to_dict()}),
    "cut off": ("step", {"step": 4, "loss": 1.0}),
}


def a_run(root: Path, end: str, name: str = "kwanzaa", recipe: Recipe = RECIPE) -> Run:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "inputs.json").write_text(json.dumps(INPUTS))
    log = EventLog(folder / "events.jsonl", 1)
    log.append("started", name=name)
    log.append(END[end][0], **END[end][1])
    log.close()
    return Run(folder)


def decided(root: Path, recipe: Recipe = RECIPE, inputs: dict[str, Any] | None = None, **options: Any) -> Any:
    return decide("kwanzaa", root, recipe, INPUTS if inputs is None else inputs, Options(name="kwanzaa", **options))


CHANGED = replace(RECIPE, r=32, num_train_epochs=1.0)
OTHER_ROWS = {"train": {**INPUTS["train"], "identity": "jsonl:1:bb"}}


def test_a_name_that_no_run_has_is_started_without_a_word(tmp_path: Path) -> None:
    assert decided(tmp_path) == Begin("kwanzaa")


@pytest.mark.parametrize("end", ["finished", "early"])
def test_finished_with_the_same_recipe_shows_the_result_and_names_again(tmp_path: Path, end: str) -> None:
    run = a_run(tmp_path, end)
    decision = decided(tmp_path)
    assert isinstance(decision, Show)
    assert decision.run == run
    assert "--again" in decision.said


def test_a_dashboard_that_a_finished_run_gets_late_is_said_to_change_nothing(tmp_path: Path) -> None:
    a_run(tmp_path, "finished")
    shown = decided(tmp_path, replace(RECIPE, report_to=["tensorboard"]))
    assert isinstance(shown, Show)
    assert shown.said.endswith(
        " report_to changes nothing in a finished run: tensorboard will be told of one trained --again."
    )


def test_an_unfinished_run_goes_on_with_the_dashboards_and_the_saves_of_the_cell(tmp_path: Path) -> None:
    left = Left(tmp_path, recipe=RECIPE)
    (left.folder / "inputs.json").write_text(json.dumps(INPUTS))
    left.save(4)
    cell = replace(RECIPE, report_to=["tensorboard"], save_every=60)
    assert isinstance(decided(tmp_path, cell), Continue)
    assert left.run.recipe == cell


def test_finished_and_again_trains_under_the_next_name_and_keeps_the_old_run(tmp_path: Path) -> None:
    a_run(tmp_path, "finished")
    a_run(tmp_path, "finished", "kwanzaa-2")
    decision = decided(tmp_path, again=True)
    assert (decision.name, decision.replaced) == ("kwanzaa-3", None)
    assert "kept" in decision.said


@pytest.mark.parametrize(
    ("recipe", "inputs", "key"), [(CHANGED, INPUTS, "num_train_epochs"), (RECIPE, OTHER_ROWS, "data")]
)
def test_finished_and_changed_starts_name_2_and_says_so(
    tmp_path: Path, recipe: Recipe, inputs: dict[str, Any], key: str
) -> None:
    a_run(tmp_path, "finished")
    decision = decided(tmp_path, recipe, inputs)
    assert (decision.name, decision.replaced) == ("kwanzaa-2", None)
    assert key in decision.said
    assert "kept" in decision.said


@pytest.mark.parametrize("end", ["stopped", "cut off"])
def test_unfinished_with_the_same_recipe_starts_over_as_the_next_attempt_and_says_from_where(
    tmp_path: Path, end: str
) -> None:
    run = a_run(tmp_path, end)
    decision = decided(tmp_path)
    assert decision.name == "kwanzaa"
    assert decision.replaced == run
    assert decision.attempt == 2
    assert "step 0" in decision.said


@pytest.mark.parametrize("end", ["stopped", "cut off"])
def test_unfinished_and_changed_is_refused_with_the_difference_and_the_two_ways_on(tmp_path: Path, end: str) -> None:
    a_run(tmp_path, end)
    with pytest.raises(ColabMagicsError) as refused:
        decided(tmp_path, CHANGED)
    lines = refused.value.lines()
    assert lines[1].split() == ["key", "in", "the", "run", "in", "the", "cell"]
    assert ["r", "16", "32"] in [line.split() for line in lines]
    assert "--override" in lines[-1]
    assert "--fork NAME" in lines[-1]
    assert len(lines) <= 8


def test_other_rows_under_the_same_name_are_a_change(tmp_path: Path) -> None:
    a_run(tmp_path, "stopped")
    with pytest.raises(ColabMagicsError, match="other rows"):
        decided(tmp_path, RECIPE, OTHER_ROWS)


def test_rows_for_evaluation_that_were_added_are_a_change(tmp_path: Path) -> None:
    a_run(tmp_path, "stopped")
    with pytest.raises(ColabMagicsError, match="eval_data"):
        decided(tmp_path, RECIPE, {**INPUTS, "eval": {"identity": "jsonl:1:cc"}})


def test_many_changes_are_counted_rather_than_listed(tmp_path: Path) -> None:
    a_run(tmp_path, "stopped")
    many = replace(CHANGED, seed=1, lora_alpha=1, weight_decay=0.1, max_grad_norm=0.5, max_steps=7)
    with pytest.raises(ColabMagicsError, match="and 3 more") as refused:
        decided(tmp_path, many)
    assert len(refused.value.lines()) <= 8
    assert "--fork" in refused.value.lines()[-1]


def test_override_starts_the_unfinished_run_over_with_the_changed_recipe(tmp_path: Path) -> None:
    run = a_run(tmp_path, "stopped")
    decision = decided(tmp_path, CHANGED, override=True)
    assert (decision.name, decision.replaced) == ("kwanzaa", run)
    assert "changed recipe" in decision.said


def test_fork_makes_a_new_run_of_that_name(tmp_path: Path) -> None:
    a_run(tmp_path, "stopped")
    decision = decided(tmp_path, CHANGED, fork="other")
    assert (decision.name, decision.replaced) == ("other", None)
    a_run(tmp_path, "stopped", "other")
    with pytest.raises(ColabMagicsError, match="other already"):
        decided(tmp_path, CHANGED, fork="other")


def test_a_fork_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="no run kwanzaa to fork"):
        decided(tmp_path, fork="other")


@pytest.mark.parametrize("recipe", [RECIPE, CHANGED])
def test_failed_before_its_first_checkpoint_starts_over_with_what_the_cell_says(tmp_path: Path, recipe: Recipe) -> None:
    run = a_run(tmp_path, "failed")
    decision = decided(tmp_path, recipe)
    assert decision.replaced == run
    assert "starts over" in decision.said


def test_a_run_whose_files_cannot_be_read_is_not_taken_for_the_same(tmp_path: Path) -> None:
    run = a_run(tmp_path, "stopped")
    (run.folder / "inputs.json").write_text("{")
    with pytest.raises(ColabMagicsError, match="not readable"):
        decided(tmp_path)


@pytest.mark.parametrize("end", ["stopped", "cut off", "failed"])
def test_the_changed_cell_run_again_means_the_run_that_it_made(tmp_path: Path, end: str) -> None:
    a_run(tmp_path, "finished")
    second = a_run(tmp_path, end, "kwanzaa-2", CHANGED)
    decision = decided(tmp_path, CHANGED)
    assert (decision.name, decision.replaced) == ("kwanzaa-2", second)


def test_the_changed_cell_shows_what_it_trained_and_the_old_one_what_that_trained(tmp_path: Path) -> None:
    first = a_run(tmp_path, "finished")
    second = a_run(tmp_path, "finished", "kwanzaa-2", CHANGED)
    assert decided(tmp_path, CHANGED).run == second
    assert decided(tmp_path).run == first
    assert decided(tmp_path, replace(RECIPE, r=64)).name == "kwanzaa-3"


@pytest.mark.parametrize("folder", ["kwanzaa-2", ".starting-kwanzaa-2-00000000"])
def test_the_changed_cell_attaches_to_the_run_that_it_made_and_that_is_alive(tmp_path: Path, folder: str) -> None:
    a_run(tmp_path, "finished")
    lock = worker.hold_lock(a_run(tmp_path, "cut off", folder, CHANGED).folder)
    assert lock is not None
    starting = tmp_path / folder if folder.startswith(".") else None
    assert decided(tmp_path, CHANGED) == Attach(tmp_path / "kwanzaa-2", starting)
    os.close(lock)


def test_a_run_that_came_alive_while_the_data_was_read_is_attached_to(tmp_path: Path) -> None:
    lock = worker.hold_lock(a_run(tmp_path, "cut off").folder)
    assert lock is not None
    assert decided(tmp_path, CHANGED) == Attach(tmp_path / "kwanzaa")
    os.close(lock)
