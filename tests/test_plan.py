"""What is chosen for a recipe on a device, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from shapes import GPT2, QWEN3_4B, QWEN3_14B

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.estimate import peak
from colab_magics.plan import Choice, DataFacts, Device, Plan, Verdict, choose_max_length, fit, make_plan, setup_of
from colab_magics.recipe import Recipe

GIB = 2**30
T4 = Device("cuda", "Tesla T4", int(14.74 * GIB), int(14.56 * GIB), 12 * GIB, (7, 5))
A100 = Device("cuda", "A100", 40 * GIB, 39 * GIB, 80 * GIB, (8, 0))
CPU = Device("cpu", "CPU with 2 cores", 16 * GIB, 12 * GIB, 12 * GIB)
FREE = Verdict("colab_magics", "equal", True, "stay apart", True, "plain")
LEAKS = replace(FREE, packing=False, packing_reason="packed documents would leak")


def _plan(shape=QWEN3_4B, device=T4, verdict=FREE, lengths=(300,) * 200, eval_documents=0, **changes: Any) -> Plan:
    recipe = Recipe(**({"model": "m", "data": "d"} | changes))
    lengths = np.array(lengths, np.int32)
    facts = DataFacts(lengths, eval_documents, choose_max_length(recipe, lengths, shape.positions))
    return make_plan(recipe, shape, device, facts, verdict, peak)


def test_every_choice_has_a_reason():
    plan = _plan()
    expected = {
        *("method", "precision", "attention", "loss", "packing", "max_length", "effective_batch", "micro_batch"),
        *("accumulation", "gradient_checkpointing", "optim", "learning_rate", "total_steps", "warmup_steps"),
    }
    assert expected <= set(plan.choices)
    assert all(choice.reason for choice in plan.choices.values())
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    ("device", "precision", "why"),
    [(T4, "fp16", "7.5: bf16 is only emulated"), (A100, "bf16", "capability 8.0"), (CPU, "fp32", "CPU")],
)
def test_precision_goes_by_compute_capability(device, precision, why):
    choice = _plan(GPT2, device).choices["precision"]
    assert choice.value == precision
    assert why in choice.reason


def test_emulated_bf16_is_refused():
    with pytest.raises(ColabMagicsError, match="bf16 does not work on this Tesla T4"):
        _plan(precision="bf16")


@pytest.mark.parametrize(
    ("shape", "device", "method"), [(QWEN3_4B, T4, "lora"), (QWEN3_14B, T4, "qlora"), (QWEN3_14B, A100, "lora")]
)
def test_lora_where_it_fits_else_qlora(shape, device, method):
    choice = _plan(shape, device).choices["method"]
    assert choice.value == method
    assert "GiB" in choice.reason


def test_what_others_hold_on_the_card_and_max_memory_count():
    busy = replace(T4, free=6 * GIB)
    assert _plan(device=busy)["method"] == "qlora"
    assert _plan(max_memory="6GB")["method"] == "qlora"


def test_a_quantised_checkpoint_is_qlora_and_nothing_else():
    quantised = replace(QWEN3_4B, quantised=True, weight_bytes=3 * GIB)
    assert _plan(quantised, A100)["method"] == "qlora"
    with pytest.raises(ColabMagicsError, match="already quantised"):
        _plan(quantised, method="lora")


@pytest.mark.parametrize("shape", [QWEN3_4B, QWEN3_14B, GPT2])
@pytest.mark.parametrize("device", [T4, A100, CPU])
@pytest.mark.parametrize("length", [60, 500, 2000])
def test_the_micro_batch_is_a_split_of_the_effective_batch_that_fits(shape, device, length):
    length = min(length, shape.positions)
    plan = _plan(shape, device, lengths=(length,) * 64)
    micro = plan["micro_batch"]
    assert micro in (16, 8, 4, 2, 1)
    assert plan["accumulation"] * micro >= 16
    if micro > 1:
        recipe = Recipe(model="m", data="d")
        setup = setup_of(plan, recipe, shape, np.full(64, length, np.int32), device)
        assert fit(peak(shape, setup), device).colour == "green"


def test_checkpointing_only_where_the_activations_do_not_fit():
    assert _plan(GPT2, T4)["gradient_checkpointing"] is False
    long = _plan(QWEN3_14B, T4, lengths=(2000,) * 64)
    assert long["gradient_checkpointing"] is True
    assert "do not fit" in long.choices["gradient_checkpointing"].reason
    assert _plan(GPT2, T4, gradient_checkpointing=True)["gradient_checkpointing"] is True
    assert _plan(QWEN3_14B, T4, lengths=(2000,) * 64, gradient_checkpointing=False)["gradient_checkpointing"] is False


@pytest.mark.parametrize(
    ("device", "verdict", "packing", "counted"),
    [(T4, FREE, "auto", True), (T4, FREE, False, False), (T4, LEAKS, "auto", False), (CPU, FREE, True, False)],
)
def test_the_mask_of_packed_documents_is_counted_where_one_may_be_made(device, verdict, packing, counted):
    asked = []
    recipe = Recipe(model="m", data="d", packing=packing)
    lengths = np.full(64, 300, np.int32)
    facts = DataFacts(lengths, 0, choose_max_length(recipe, lengths, GPT2.positions))
    make_plan(recipe, GPT2, device, facts, verdict, lambda shape, setup: (asked.append(setup), peak(shape, setup))[1])
    assert {setup.packed for setup in asked} == {counted}


def test_a_given_micro_batch_is_taken_as_it_is():
    plan = _plan(per_device_train_batch_size=2, effective_batch_size=8)
    assert (plan["micro_batch"], plan["accumulation"], plan["effective_batch"]) == (2, 4, 8)


@pytest.mark.parametrize(
    ("lengths", "positions", "value", "why"),
    [
        ([10] * 200, 4096, 64, "the longest document has 10 tokens"),
        ([100] * 200, 4096, 128, "the longest document has 100 tokens"),
        ([100] * 1000 + [9000], 4096, 128, "99% of the documents have at most 100 tokens"),
        ([5000] * 10, 40_000, 2048, "set max_length to go higher"),
        ([5000] * 10, 1024, 1024, "the model's own positions"),
        ([], None, 64, ""),
    ],
)
def test_max_length_is_p99_of_the_data_under_two_caps(lengths, positions, value, why):
    choice = choose_max_length(Recipe(model="m", data="d"), lengths, positions)
    assert choice.value == value
    assert why in choice.reason


def test_a_max_length_beyond_the_model_s_positions_is_refused():
    with pytest.raises(ColabMagicsError, match="longer than the model's 1024 positions"):
        choose_max_length(Recipe(model="m", data="d", max_length=2048), [5], 1024)
    assert choose_max_length(Recipe(model="m", data="d", max_length=512), [5], 1024) == Choice(
        512, "as the recipe says"
    )


def test_packing_is_measured_where_allowed_and_refused_where_it_leaks():
    assert _plan()["packing"] == "auto"
    assert _plan(packing=False)["packing"] is False
    leaking = _plan(verdict=LEAKS)
    assert leaking.choices["packing"] == Choice(False, "packed documents would leak")
    with pytest.raises(ColabMagicsError, match="packing: true does not work"):
        _plan(verdict=LEAKS, packing=True)


@pytest.mark.parametrize(
    ("shape", "method", "rate"),
    [(QWEN3_4B, "lora", 2e-4), (QWEN3_4B, "qlora", 2e-4), (QWEN3_4B, "full", 2e-5), (GPT2, "full", 5e-5)],
)
def test_learning_rate_by_method_and_size(shape, method, rate):
    assert _plan(shape, A100, method=method)["learning_rate"] == rate
    assert _plan(shape, A100, method=method, learning_rate=1e-3)["learning_rate"] == 1e-3


def test_steps_come_from_epochs_or_max_steps():
    assert _plan(lengths=(50,) * 100, num_train_epochs=1)["total_steps"] == 7  # 100 / 16, the last one smaller
    assert _plan(lengths=(50,) * 100, num_train_epochs=1).choices["total_steps"].reason == "1 epoch of 7 steps"
    assert _plan(lengths=(50,) * 100, num_train_epochs=2.5)["total_steps"] == 18
    assert _plan(lengths=(50,) * 100, max_steps=3)["total_steps"] == 3


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [("auto", 1000, 30), ("auto", 100, 5), ("auto", 20, 2), (0.1, 55, 6), (7, 100, 7)]
)
def test_warmup(warmup, total, steps):
    assert _plan(max_steps=total, warmup_steps=warmup)["warmup_steps"] == steps


def test_evaluation_ten_times_over_the_run_unless_told_otherwise():
    assert _plan(max_steps=95, eval_documents=5)["eval_every"] == 10
    assert _plan(max_steps=95, eval_documents=5, eval_every=20)["eval_every"] == 20
    assert _plan(max_steps=95)["eval_every"] is None


def test_full_fine_tuning_that_does_not_fit_takes_paged_8_bit_states():
    small = replace(GPT2, parameters=1_240_000_000, linear_parameters=970_000_000, layers=16, hidden=2048)
    assert _plan(small, T4, method="full")["optim"] == "paged_adamw_8bit"
    assert _plan(GPT2, T4, method="full")["optim"] == "adamw_torch_fused"


def test_a_paged_optimizer_without_a_gpu_is_refused():
    with pytest.raises(ColabMagicsError, match="needs a GPU"):
        _plan(GPT2, CPU, optim="paged_adamw_8bit")


# --- answers that are compared -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["dpo", "kto", "orpo"])
def test_a_comparison_is_never_packed_and_says_that_its_memory_is_rough(objective):
    plan = _plan(objective=objective)
    assert plan["packing"] is False
    assert plan["loss"] == "logits"
    assert "roughly" in plan.choices["micro_batch"].reason


def test_both_answers_of_a_pair_are_counted_and_one_of_a_judgement():
    ours, judged = (Recipe(model="m", data="d", objective=name) for name in ("dpo", "kto"))
    lengths = np.array([100] * 50, np.int32)
    pairs, single = (
        setup_of(_plan(objective=one.objective, per_device_train_batch_size=4), one, QWEN3_4B, lengths, T4)
        for one in (ours, judged)
    )
    assert (pairs.documents, single.documents) == (8, 4)


def test_on_a_cpu_too_the_whole_micro_batch_is_in_memory_and_it_is_small_from_the_start():
    plan = _plan(GPT2, CPU, objective="dpo", lengths=(300,) * 200)
    recipe = Recipe(model="m", data="d", objective="dpo")
    assert plan["micro_batch"] == 1
    assert setup_of(plan, recipe, GPT2, np.array([300] * 200, np.int32), CPU).documents == 2


def test_the_reference_beside_a_fully_trained_model_is_counted():
    def need(objective):
        recipe = Recipe(model="m", data="d", objective=objective, method="full")
        plan = _plan(GPT2, A100, objective=objective, method="full", per_device_train_batch_size=2)
        return peak(GPT2, setup_of(plan, recipe, GPT2, np.array([300], np.int32), A100))

    assert need("dpo") - need("orpo") == 2 * GPT2.parameters  # in 16 bit; orpo has none


def test_kto_keeps_two_answers_together_wherever_it_can():
    assert _plan(QWEN3_14B, objective="kto", lengths=(2000,) * 200)["micro_batch"] == 2
    assert _plan(QWEN3_14B, objective="kto", loss_type="apo_zero_unpaired", lengths=(2000,) * 200)["micro_batch"] == 1


@pytest.mark.parametrize(
    ("objective", "method", "rate"),
    [
        ("dpo", "lora", 1e-5),
        ("kto", "lora", 1e-5),
        ("orpo", "lora", 8e-5),
        ("dpo", "full", 1e-6),
        ("orpo", "full", 8e-6),
    ],
)
def test_the_usual_rate_of_a_comparison_is_far_below_that_of_imitation(objective, method, rate):
    choice = _plan(GPT2, A100, objective=objective, method=method).choices["learning_rate"]
    assert choice.value == pytest.approx(rate)
    assert choice.reason


def test_fp16_on_a_cpu_is_refused_where_accelerate_lacks_it():
    with pytest.raises(ColabMagicsError, match="precision: fp16 does not work with objective: dpo on a CPU"):
        _plan(GPT2, CPU, objective="dpo", precision="fp16")
    assert _plan(GPT2, CPU, precision="fp16")["precision"] == "fp16"


def test_below_capability_8_a_comparison_is_in_fp16_and_never_in_bf16():
    assert _plan(objective="dpo")["precision"] == "fp16"
