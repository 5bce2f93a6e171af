"""Packing or sorting: measured once, kept, and nothing of it left in the run."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import CPU, documents

from colab_magics.training import measure
from colab_magics.training.measure import settle_packing
from colab_magics.training.model import describe


def _settle(run, cache):
    return settle_packing(run.task, run.progress, run.plan, describe(run.source, run.recipe), CPU, cache=cache)


def test_the_measured_way_is_taken_and_told_with_its_figures(tiny_run, tmp_path):
    run = tiny_run(packing="auto")
    plan = _settle(run, tmp_path)
    assert plan["packing"] in (True, False)
    assert run.progress.arrangement.packed is plan["packing"]
    reason = plan.choices["packing"].reason
    assert "faster here (measured " in reason
    assert "earlier" not in reason
    assert "s packed" in reason
    assert run.run().losses == pytest.approx(tiny_run().run().losses, abs=1e-4)


@pytest.mark.parametrize(("packed", "way"), [(1.0, True), (3.0, False)])
def test_what_was_found_is_kept_for_the_same_model_and_device(tiny_run, tmp_path, monkeypatch, packed, way):
    monkeypatch.setattr(measure, "_measure", lambda *_: {"packed": packed, "sorted": 2.0})
    assert _settle(tiny_run(packing="auto"), tmp_path)["packing"] is way
    monkeypatch.setattr(measure, "_measure", lambda *_: pytest.fail("measured again"))
    again = _settle(tiny_run(packing="auto"), tmp_path)
    assert again["packing"] is way
    assert "(measured by an earlier run of this shape: " in again.choices["packing"].reason
    (kept,) = (tmp_path / "packing").iterdir()
    assert json.loads(kept.read_text())["packed"] == packed


def test_measuring_leaves_weights_gradients_and_random_state_alone(tiny_run):
    run = tiny_run(packing="auto", lora_dropout=0.3)
    weights = [parameter.clone() for parameter in run.model.parameters()]
    state = torch.get_rng_state()
    _settle(run, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, run.model.parameters(), strict=True))


def test_a_given_choice_is_not_measured(tiny_run, monkeypatch):
    monkeypatch.setattr(measure, "_measure", lambda *_: pytest.fail("measured"))
    run = tiny_run(packing=True)
    assert _settle(run, None) is run.plan
    assert run.progress.arrangement.packed


def test_one_document_at_a_time_has_nothing_to_pack(tiny_run):
    run = tiny_run(packing="auto", per_device_train_batch_size=1)
    assert _settle(run, None)["packing"] is False


def test_out_of_memory_while_measuring_decides_for_sorting(tiny_run, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(measure, "micro_batch_gradients", too_large)
    run = tiny_run(packing="auto", docs=documents(20))
    plan = _settle(run, None)
    assert plan["packing"] is False
    assert "memory ran out while both were tried (CUDA out of memory.)" in plan.to_dict()["packing"]["reason"]
    assert not run.progress.arrangement.packed
