"""Jobs of the use cases, as their plan events would tell them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from shapes import GPT2, QWEN3_4B

from colab_magics.memory.estimate import peak
from colab_magics.plan import DataFacts, Device, ModelShape, Verdict, choose_max_length, make_plan
from colab_magics.recipe import Recipe
from colab_magics.session.offers import Job, job_of

FREE = Verdict("colab_magics", "equal", True, "stay apart", True, "plain")
DEVICE = Device("cuda", "Tesla T4", 15 * 2**30, 15 * 2**30, 12 * 2**30, (7, 5))


def plan_event(
    recipe: Recipe, shape: ModelShape, lengths: list[int], eval_lengths: list[int] | None = None
) -> dict[str, Any]:
    """What the worker tells of its plan, as it comes out of the log."""
    array = np.array(lengths, np.int32)
    held_out = eval_lengths or []
    data = DataFacts(array, len(held_out), choose_max_length(recipe, array, shape.positions))
    plan = make_plan(recipe, shape, DEVICE, data, FREE, peak)
    event = {
        "kind": "plan",
        "attempt": 1,
        "choices": plan.to_dict(),
        "device": DEVICE.shown,
        "shape": asdict(shape),
        "verdict": asdict(FREE),
        "duration": {"low": 1800, "mid": 3600, "high": 7200, "timed": False},
        "lengths": np.percentile(array, range(101)).round().astype(int).tolist(),
        "documents": len(lengths),
        "eval_documents": len(held_out),
        "tokens_per_epoch": sum(lengths),
        "eval_tokens": sum(held_out),
    }
    told: dict[str, Any] = json.loads(json.dumps(event))
    return told


def job(
    recipe: Recipe, shape: ModelShape, lengths: list[int], eval_lengths: list[int] | None = None, done: int = 0
) -> Job:
    made = job_of(recipe, plan_event(recipe, shape, lengths, eval_lengths), done=done)
    assert made is not None
    return made


def qwen_on_colab_free(**changes: Any) -> Job:
    """Use case A: 4-bit Qwen3-4B, 1,000 rows, 100 steps of 8."""
    given = {"model": "m", "data": "d", "max_steps": 100, "effective_batch_size": 8, "max_memory": "14GB"}
    shape = replace(QWEN3_4B, quantised=True, weight_bytes=3_400_000_000)
    return job(Recipe(**(given | changes)), shape, [200 + number % 800 for number in range(1000)])


def gpt2_full(**changes: Any) -> Job:
    """Use case C: all of GPT-2, 3 epochs over 325 rows."""
    given = {"model": "m", "data": "d", "method": "full", "num_train_epochs": 3}
    return job(Recipe(**(given | changes)), GPT2, [40 + number % 200 for number in range(325)])
