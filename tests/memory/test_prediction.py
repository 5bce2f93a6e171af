"""A prediction: the plan that would be made, and what it takes; put right by what a worker has measured."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from shapes import GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.correction import corrected
from colab_magics.memory.estimate import estimate
from colab_magics.memory.measured import Measured
from colab_magics.memory.prediction import ERROR, Prediction, fixed_lengths, peers, predict
from colab_magics.plan import GIB, Device, ModelShape, Verdict, fit
from colab_magics.recipe import Recipe

pytestmark = [pytest.mark.face, pytest.mark.colab]

FREE = Verdict("colab_magics", "equal", True, "stay apart", True, "plain")
T4 = Device("cuda", "Tesla T4", int(14.56 * GIB), int(14.56 * GIB), 12 * GIB, (7, 5))
A100 = Device("cuda", "A100", 40 * GIB, 40 * GIB, 80 * GIB, (8, 0))
CPU = Device("cpu", "CPU with 2 cores", 16 * GIB, 12 * GIB, 12 * GIB)


def _predict(shape: ModelShape = QWEN3_4B, device: Device = T4, length: int = 512, **recipe: Any) -> Prediction:
    return predict(shape, FREE, Recipe(**({"model": "m", "data": "d"} | recipe)), device, fixed_lengths(length))


def test_it_is_the_plan_s_own_estimate():
    made = _predict(max_memory="12GB")
    assert made.parts == estimate(QWEN3_4B, made.setup)
    assert made.setup.method == made.plan["method"]
    assert made.setup.documents == made.plan["micro_batch"]
    assert made.fit == fit(made.parts.peak, T4, cap=12 * 10**9)
    assert (made.tier, made.error) == (0, ERROR[0])


@pytest.mark.parametrize("device", [T4, A100, CPU])
@pytest.mark.parametrize("shape", [GPT2, LLAMA_1B, QWEN3_4B])
def test_what_auto_chooses_is_green_where_anything_is(shape, device):
    assert _predict(shape, device).fit.colour == "green"


def test_the_dictionary_is_of_plain_values_that_add_up():
    told = _predict().to_dict()
    parts = told["parts"]
    assert told["peak"] == sum(value for name, value in parts.items() if name not in ("context", "margin"))
    assert told["need"] == told["peak"] + parts["context"] + parts["margin"]
    assert told["verdict"] == "green"
    assert told["room"] == T4.total


def test_documents_are_cut_at_the_length_before_they_are_counted():
    assert _predict(length=4000, max_length=512).parts == _predict(length=512, max_length=512).parts
    with pytest.raises(ColabMagicsError, match="positions"):
        _predict(GPT2, max_length=4096)


def test_what_a_device_cannot_do_is_refused():
    with pytest.raises(ColabMagicsError, match="bf16 does not work"):
        _predict(precision="bf16")


def test_dropout_of_scores_leaves_a_cpu_torch_s_own_composition_and_a_gpu_not():
    drops = replace(GPT2, attention_dropout=True)
    assert [_predict(drops, device).setup.attention for device in (CPU, T4)] == ["math", "fused"]
    assert _predict(drops, CPU).error > _predict(drops, T4).error == 0.08


def test_a_window_that_cuts_is_a_mask_for_peers_and_takes_the_fused_kernel():
    windowed = replace(QWEN3_4B, window=512)
    for length, attention in ((256, "math"), (2048, "fused")):
        made = _predict(windowed, T4, length=length, max_length=length)
        assert {setup.attention for setup in peers(made.setup, windowed, T4).values()} == {attention}


# --- others' way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "device", "attention"),
    [(QWEN3_4B, T4, "math"), (GPT2, T4, "fused"), (QWEN3_4B, A100, "grouped"), (QWEN3_4B, CPU, "fused")],
)
def test_peers_take_the_kernel_that_transformers_takes_there(shape, device, attention):
    made = _predict(shape, device)
    assert {setup.attention for setup in peers(made.setup, shape, device).values()} == {attention}


def test_peers_differ_in_their_loss_their_adapters_and_checkpointing_alone():
    setup = _predict(method="qlora").setup
    trl, trainer = peers(setup, QWEN3_4B, A100).values()
    assert (trl.loss, trl.adapter_bytes, trl.gradient_checkpointing) == ("trl", 2, True)
    assert (trainer.loss, trainer.adapter_bytes, trainer.gradient_checkpointing) == ("logits", 4, False)
    assert {one.documents for one in (trl, trainer)} == {setup.documents}
    assert not any(one.packed for one in (trl, trainer))
    lora = _predict(method="lora").setup
    assert {one.adapter_bytes for one in peers(lora, QWEN3_4B, A100).values()} == {4}


# --- measured ---------------------------------------------------------------------------------------------------------


def _seen(peak: int, in_memory: int) -> Measured:
    return Measured(peak, in_memory, 7, None, None)


def _moving(made: Prediction) -> int:
    parts = made.parts
    return parts.activations + parts.attention + parts.dequantised + parts.head


def test_a_step_that_was_as_predicted_changes_nothing():
    made = _predict(packing=False)
    one = estimate(QWEN3_4B, replace(made.setup, documents=1, length=made.setup.documents * made.setup.length))
    after = corrected(made, QWEN3_4B, _seen(one.peak, made.setup.documents * made.setup.length))
    assert astuple(after.parts) == pytest.approx(astuple(made.parts), abs=1)
    assert after.tier == 2


@pytest.mark.parametrize("off", [0.9, 1.1])
def test_what_moves_is_scaled_and_what_stands_still_is_not(off):
    made = _predict(packing=False)
    tokens = made.setup.documents * made.setup.length
    one = estimate(QWEN3_4B, replace(made.setup, documents=1, length=tokens))
    moving = one.activations + one.attention + one.dequantised + one.head
    after = corrected(made, QWEN3_4B, _seen(one.peak + round((off - 1) * moving), tokens))
    assert _moving(after) == pytest.approx(off * _moving(made), rel=1e-6)
    assert (after.parts.weights, after.parts.optimizer) == (made.parts.weights, made.parts.optimizer)


def test_a_step_with_few_tokens_is_compared_with_few():
    made = _predict(packing=False)
    few = estimate(QWEN3_4B, replace(made.setup, documents=1, length=64))
    assert astuple(corrected(made, QWEN3_4B, _seen(few.peak, 64)).parts) == pytest.approx(astuple(made.parts), abs=1)


def test_a_peak_below_the_weights_alone_makes_no_part_negative():
    after = corrected(_predict(), QWEN3_4B, _seen(1, 64))
    assert min(astuple(after.parts)) >= 0


def test_errors_shrink_with_what_is_known():
    assert ERROR[0] > ERROR[1] > ERROR[2] > 0


def test_without_data_every_document_is_of_one_length():
    assert np.array_equal(fixed_lengths(7, 3), [7, 7, 7])


def test_a_model_that_nothing_helps_is_red():
    assert _predict(QWEN3_14B, T4, method="full").fit.colour == "red"
