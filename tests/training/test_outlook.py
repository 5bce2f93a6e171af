"""The plan event holds all from which the job can be planned elsewhere, and stays small."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import CPU, PLAIN, documents

from colab_magics.memory.estimate import peak
from colab_magics.plan import Device, ModelShape, Plan, Verdict, setup_of
from colab_magics.session.duration import MEASURED, MODELLED
from colab_magics.training.measure import settle_packing
from colab_magics.training.model import describe
from colab_magics.training.outlook import plan_fields

T4 = Device("cuda", "Tesla T4", 15 * 2**30, 15 * 2**30, 12 * 2**30, (7, 5))


class Lengths:
    """Stands for documents, of which only the lengths are asked."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = self.samples = np.array(lengths, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)


@pytest.fixture
def told(tiny_run, tmp_path):
    """Makes the event's fields of a tiny run, as they come out of the log."""

    def tell(run: Any, device: Device = CPU, plan: Plan | None = None, count: int = 40) -> dict[str, Any]:
        docs = Lengths(sorted(10 + number % 37 for number in range(count)))
        shape = describe(run.source, run.recipe)
        verdict = replace(PLAIN, packing_reason="packed documents stay apart within 1e-4 " * 2)
        fields = plan_fields(
            plan or run.plan, run.recipe, shape, verdict, device, docs, Lengths([20, 30]), cache=tmp_path
        )
        return json.loads(json.dumps(fields))

    return tell


def test_the_job_can_be_rebuilt_from_it_and_the_estimate_is_the_plan_s(tiny_run, told):
    run = tiny_run(packing="auto")
    fields = told(run)
    shape, plan = ModelShape(**fields["shape"]), Plan.from_dict(fields["choices"])
    assert shape == describe(run.source, run.recipe)
    assert plan == run.plan
    assert Verdict(**fields["verdict"]).attention == PLAIN.attention
    assert len(fields["lengths"]) == 101
    assert fields["lengths"] == sorted(fields["lengths"])
    assert (fields["lengths"][0], fields["lengths"][-1]) == (10, 46)
    assert (fields["documents"], fields["eval_documents"], fields["eval_tokens"]) == (40, 2, 50)
    assert fields["tokens_per_epoch"] == sum(10 + number % 37 for number in range(40))
    lengths = np.array(fields["lengths"], np.int32)
    assert fields["estimate"]["peak"] == peak(shape, setup_of(plan, run.recipe, shape, lengths, CPU))
    parts = fields["estimate"]
    assert parts["peak"] == sum(value for key, value in parts.items() if key != "peak")


def test_it_stays_below_6_kb(tiny_run, told):
    run = tiny_run(packing="auto")
    assert len(json.dumps(told(run, count=100_000))) < 6000


def test_a_device_of_the_table_has_a_duration_and_another_has_none(tiny_run, told):
    run = tiny_run()
    halved = run.plan.choosing(precision=replace(run.plan.choices["precision"], value="fp16"))
    made = told(run, T4, halved)["duration"]
    assert made["timed"] is False
    assert made["low"] <= made["mid"] <= made["high"]
    assert told(run, replace(T4, name="Some Other Card"), halved)["duration"] is None


def test_what_was_timed_here_counts_from_then_on(tiny_run, told, tmp_path):
    run = tiny_run(packing="auto", docs=documents(40))
    before = told(run)["duration"]
    assert before is None or before["timed"] is False
    settled = settle_packing(run.task, run.progress, run.plan, describe(run.source, run.recipe), CPU, cache=tmp_path)
    for plan in (run.plan, settled):  # also that of an attempt to come
        after = told(run, plan=plan)["duration"]
        assert after["timed"] is True
        assert after["high"] >= after["mid"] > 0
    assert MEASURED < MODELLED
