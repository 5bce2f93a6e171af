"""The loop: what each step takes, what it tells, and how it ends."""

from __future__ import annotations

import pytest


def test_lora_learns_and_tells_every_step(tiny_run):
    run = tiny_run(max_steps=12, effective_batch_size=8).run()
    steps = run.told("step")
    assert [fields["step"] for fields in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[-1]["samples"] == 12 * 8
    assert run.outcome.reason == "completed"
    assert run.outcome.progress.last_loss == steps[-1]["loss"]


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_packing_and_micro_batches_change_nothing_but_the_arrangement(tiny_run, model_type):
    padded = tiny_run(model_type, effective_batch_size=8).run().losses
    packed = tiny_run(model_type, effective_batch_size=8, packing=True).run().losses
    single = tiny_run(model_type, effective_batch_size=8, per_device_train_batch_size=1).run().losses
    assert packed == pytest.approx(padded, abs=1e-4)
    assert single == pytest.approx(padded, abs=1e-4)
