"""Which checkpoint a run goes on from, under which plan, and what it says about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Trained, documents
from continued import RUN, newest, saver_of, stopped_after, train_with
from hypothesis import given
from hypothesis import strategies as st

from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.verify import entries, verify
from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Choice, Device, Plan
from colab_magics.recipe import Recipe
from colab_magics.training.batches import Order
from colab_magics.training.resume import (
    changed_keys,
    data_changed,
    device_facts,
    find_origin,
    lost_steps,
    plan_for,
    plan_to_the_end,
    put_aside,
    same_device,
    take_over,
)
from colab_magics.training.state import Saved, put_back

DOCS = documents(20, longest=32)
T4 = Device("cuda", "Tesla T4", 2**34, 2**33, 2**33, (7, 5))
CPU = Device("cpu", "a CPU", 2**34, 2**33, 2**33)


@pytest.fixture
def a_run(tiny_run):
    def make(**changes: Any) -> Trained:
        return tiny_run(docs=DOCS, **({"effective_batch_size": 8, "max_steps": 6} | changes))

    return make


@pytest.fixture
def three(a_run, tmp_path) -> Path:
    """The folder of a run with the checkpoints of steps 2, 4 and 6."""
    run = a_run()
    train_with(run, saver_of(run, tmp_path / "run", every=Every(steps=2)))
    return tmp_path / "run"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- finding ---------------------------------------------------------------------------------------------------------


def test_the_newest_is_taken(three):
    origin = find_origin(three / "checkpoints")
    assert (origin.step, origin.skipped) == (6, ())
    assert origin.saved.state["progress"]["step"] == 6


def test_a_torn_one_and_an_altered_one_are_skipped_named_and_put_aside(three):
    _flip(three / "checkpoints" / "00000006-a1" / "optimizer.safetensors")
    (three / "checkpoints" / "00000004-a1" / "state.json").unlink()
    origin = find_origin(three / "checkpoints")
    assert origin.step == 2
    assert [(entry.name, entry.broken) for entry in origin.skipped] == [
        ("00000006-a1", "optimizer.safetensors was altered"),
        ("00000004-a1", "state.json is missing"),
    ]
    assert put_aside(origin) == []
    names = sorted(os.listdir(three / "checkpoints"))
    assert [name.rpartition("-")[0] for name in names] == [".broken-00000004-a1", ".broken-00000006-a1", "00000002"]
    assert find_origin(three / "checkpoints").skipped == ()


def test_what_cannot_be_put_aside_is_only_said(three):
    _flip(three / "checkpoints" / "00000006-a1" / "optimizer.safetensors")
    origin = find_origin(three / "checkpoints")
    shutil.rmtree(three / "checkpoints" / "00000006-a1")
    assert put_aside(origin) == ["00000006-a1 is broken and could not be renamed: No such file or directory"]


def test_one_that_is_asked_for_by_name_is_taken_or_refused_but_never_replaced(three):
    chosen = three / "checkpoints" / "00000004-a1"
    assert find_origin(chosen).step == 4
    _flip(chosen / "adapter_model.safetensors")
    with pytest.raises(ColabMagicsError, match="Checkpoint 00000004-a1 cannot be used") as refused:
        find_origin(chosen)
    assert "adapter_model.safetensors was altered" in refused.value.why
    (chosen / "MANIFEST.json").unlink()
    with pytest.raises(ColabMagicsError, match="Checkpoint 00000004-a1 cannot be used"):
        find_origin(chosen)


def test_where_none_is_whole_each_is_named_with_its_reason(three):
    for entry in entries(three / "checkpoints"):
        _flip(entry.folder / "state.json")
    with pytest.raises(ColabMagicsError, match="No checkpoint of run is whole") as refused:
        find_origin(three / "checkpoints")
    assert "00000006-a1: state.json was altered" in str(refused.value.details)


def test_a_run_without_one_says_so(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ColabMagicsError, match="run has none yet"):
        find_origin(tmp_path / "run" / "checkpoints")


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_fork_has_its_own_copy_whole_and_named_after_its_parent(three, tmp_path):
    origin = find_origin(three / "checkpoints" / "00000004-a1")
    (tmp_path / "fork").mkdir()
    taken = take_over(origin, tmp_path / "fork", "fedcba9876543210")
    shutil.rmtree(three)
    manifest = verify(taken.entry.folder, run="fedcba9876543210")
    assert taken.entry.name == "00000004-a0"
    assert manifest.facts["parent"] == "run/00000004-a1"
    assert find_origin(tmp_path / "fork" / "checkpoints").saved.state == origin.saved.state


def test_a_checkpoint_of_the_run_itself_stays_where_it_is(three):
    origin = find_origin(three / "checkpoints")
    assert take_over(origin, three, RUN) is origin


def test_a_parent_that_changes_while_it_is_copied_is_found_out_and_nothing_is_kept(three, tmp_path):
    origin = find_origin(three / "checkpoints")
    _flip(origin.entry.folder / "optimizer.safetensors")
    (tmp_path / "fork").mkdir()
    with pytest.raises(ColabMagicsError, match="Checkpoint 00000006-a1 changed while it was copied"):
        take_over(origin, tmp_path / "fork", "fedcba9876543210")
    assert entries(tmp_path / "fork" / "checkpoints") == []


# --- what has changed ------------------------------------------------------------------------------------------------


def _saved(**state: Any) -> Saved:
    return Saved(Path("checkpoints/00000004-a1"), state)


def test_every_changed_key_is_a_row_and_what_says_only_where_and_how_often_is_none():
    was = Recipe(model="demo", data="rows", learning_rate=1e-3)
    now = Recipe(model="demo", data="rows", learning_rate=2e-3, weight_decay=0.1, save_every=99, save_total_limit=9)
    assert changed_keys(_saved(recipe=was.values()), was) == []
    assert changed_keys(_saved(recipe=was.values()), now) == [
        ["learning_rate", "0.001", "0.002", "0.002"],
        ["weight_decay", "0.0", "0.1", "0.1"],
    ]


def test_the_recipe_that_was_written_as_json_is_the_recipe(a_run, tmp_path):
    """A list that came back as another kind of list would be a change that nobody made."""
    recipe = Recipe(model="demo", data="rows", target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])
    run = a_run()
    saver = saver_of(run, tmp_path / "run", state={"recipe": recipe.values()})
    train_with(run, saver, lambda: "stop")
    assert changed_keys(newest(tmp_path / "run"), recipe) == []


def test_other_data_is_told_by_its_fingerprint():
    saved = _saved(data={"train": "abc", "eval": "def"})
    assert not data_changed(saved, {"train": "abc", "eval": "other"})
    assert data_changed(saved, {"train": "abd", "eval": "def"})


def test_a_device_is_the_same_by_kind_name_and_capability():
    saved = _saved(device=device_facts(T4))
    assert same_device(saved, Device("cuda", "Tesla T4", 2**35, 0, 0, (7, 5)))
    assert not same_device(saved, Device("cuda", "NVIDIA L4", 2**34, 2**33, 2**33, (8, 9)))
    assert not same_device(saved, CPU)


def test_lost_steps_are_those_of_the_attempt_before():
    def steps(attempt: int, *numbers: int) -> list[dict[str, Any]]:
        return [{"kind": "step", "attempt": attempt, "step": number} for number in numbers]

    assert lost_steps([], 1, 0) == 0
    assert lost_steps(steps(1, 1, 2, 3, 4, 5), 2, 3) == 2
    # the second attempt went on from 3 and died at 4: the 5 of the first had been counted before
    assert lost_steps([*steps(1, 1, 2, 3, 4, 5), *steps(2, 4)], 3, 4) == 0


# --- plans -----------------------------------------------------------------------------------------------------------


def _plan(**values: Any) -> Plan:
    return Plan({key: Choice(value, "a test") for key, value in values.items()})


WAS = _plan(micro_batch=2, precision="fp16", packing=True, effective_batch=8, total_steps=9, learning_rate=1e-3)
FRESH = _plan(micro_batch=8, precision="bf16", packing="auto", effective_batch=16, total_steps=5, learning_rate=2e-3)


def test_with_nothing_changed_the_plan_is_the_checkpoints_own():
    saved = _saved(plan=WAS.to_dict(), device=device_facts(T4))
    plan = plan_for(saved, FRESH, changed=False, device=T4)
    assert plan.to_dict() == WAS.to_dict()


def test_on_another_device_the_samples_stay_and_the_rest_is_chosen_anew():
    plan = plan_for(_saved(plan=WAS.to_dict(), device=device_facts(T4)), FRESH, changed=False, device=CPU)
    assert {key: plan[key] for key in WAS.choices} == {
        "micro_batch": 8,
        "precision": "bf16",
        "packing": "auto",
        "effective_batch": 8,
        "total_steps": 9,
        "learning_rate": 1e-3,
    }


def test_a_changed_recipe_gets_the_plan_that_it_would_get():
    assert plan_for(_saved(plan=WAS.to_dict(), device=device_facts(T4)), FRESH, changed=True, device=T4) is FRESH


@given(
    count=st.integers(1, 60),
    before=st.integers(1, 16),
    after=st.integers(1, 16),
    done=st.integers(1, 30),
    epochs=st.integers(1, 6),
)
def test_another_effective_batch_ends_where_the_epochs_end(count, before, after, done, epochs):
    saved = _saved(progress={"step": done, "samples": Order(count, before, 0).position(done)})
    order = Order(count, after, 0)
    recipe = Recipe(model="demo", data="rows", num_train_epochs=epochs, effective_batch_size=after)
    plan = _plan(total_steps=epochs * order.steps_per_epoch)
    left = epochs * count - saved.state["progress"]["samples"]
    if left <= 0:
        with pytest.raises(ColabMagicsError, match="There is nothing left to train"):
            plan_to_the_end(plan, recipe, saved, order)
        return
    total = plan_to_the_end(plan, recipe, saved, order)["total_steps"]
    taken = [ids for _, ids in order.steps(done, total, saved.state["progress"]["samples"])]
    assert sum(map(len, taken)) == left


def test_max_steps_that_are_done_already_are_nothing_left():
    saved = _saved(progress={"step": 9, "samples": 72})
    recipe = Recipe(model="demo", data="rows", max_steps=9)
    with pytest.raises(ColabMagicsError, match="There is nothing left to train: the checkpoint is of step 9"):
        plan_to_the_end(_plan(total_steps=9), recipe, saved, Order(20, 8, 0))
    assert plan_to_the_end(_plan(total_steps=10), recipe, saved, Order(20, 8, 0))["total_steps"] == 10


class Ledger(list):
    """Documents that note who was read."""

    def __init__(self, docs: Any) -> None:
        super().__init__(docs)
        self.taken: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.taken.append(index)
        return super().__getitem__(index)


def test_a_run_with_another_effective_batch_trains_on_every_document_once_an_epoch(a_run, tmp_path):
    first = a_run(effective_batch_size=8)
    ledgers = [Ledger(DOCS), Ledger(DOCS)]
    object.__setattr__(first.task, "documents", ledgers[0])
    stopped_after(first, 2, tmp_path / "run")
    second = a_run(effective_batch_size=3, max_steps=11)  # 4 are left of the first epoch: 3 + 1, then 7 steps of 20
    object.__setattr__(second.task, "documents", ledgers[1])
    put_back(second.task, second.progress, newest(tmp_path / "run"))
    second.run()
    taken = ledgers[0].taken + ledgers[1].taken
    assert len(taken) == 40
    assert sorted(taken[:20]) == sorted(taken[20:]) == list(range(20))
    assert taken[:20] == first.task.order.permutation(0).tolist()
    assert [event["samples"] for event in second.told("step")] == [19, 20, 23, 26, 29, 32, 35, 38, 40]
    assert np.isfinite(second.losses).all()
