"""Of a training that does not fit: the change that makes it fit, and changes the least."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapes import GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.estimate import peak
from colab_magics.plan import (
    GIB,
    Change,
    DataFacts,
    Device,
    ModelShape,
    Verdict,
    choose_max_length,
    fit,
    length_that_fits,
    make_plan,
    nearest_change,
    setup_of,
)
from colab_magics.plan.nearest import resized
from colab_magics.recipe import Recipe

pytestmark = pytest.mark.face

FREE = Verdict("colab_magics", "equal", True, "stay apart", True, "plain")


def _card(gib: float, capability: tuple[int, int] = (7, 5)) -> Device:
    return Device("cuda", "a card", int(gib * GIB), int(gib * GIB), 12 * GIB, capability)


def _facts(recipe: Recipe, shape: ModelShape, lengths: Any) -> DataFacts:
    cut = choose_max_length(recipe, lengths, shape.positions)
    return DataFacts(np.minimum(lengths, cut.value).astype(np.int32), 0, cut)


def _colour(recipe: Recipe, shape: ModelShape, device: Device, lengths: Any) -> str:
    facts = _facts(recipe, shape, lengths)
    plan = make_plan(recipe, shape, device, facts, FREE, peak)
    setup = setup_of(plan, recipe, shape, facts.lengths, device)
    return fit(peak(shape, setup), device, cap=recipe.max_memory_bytes).colour


def _nearest(shape: ModelShape, gib: float, lengths: Any = (2048,) * 64, **recipe: Any) -> tuple[str, Change | None]:
    """(the colour as it stands, the change)."""
    asked = Recipe(**({"model": "m", "data": "d"} | recipe))
    lengths = np.array(lengths, np.int32)
    device = _card(gib)
    change = nearest_change(asked, shape, device, _facts(asked, shape, lengths), FREE, peak)
    if change is not None:
        changed = replace(asked, **change.keys)
        assert _colour(changed, resized(shape, asked, changed), device, lengths) != "red", "it would not fit"
    return _colour(asked, shape, device, lengths), change


# --- single changes ---------------------------------------------------------------------------------------------------


def test_fewer_documents_at_once_come_first_for_they_change_no_result():
    colour, change = _nearest(QWEN3_4B, 14.5, (256,) * 64, method="qlora", per_device_train_batch_size=16)
    assert colour == "green"
    recipe = {"method": "lora", "per_device_train_batch_size": 16, "gradient_checkpointing": False}
    colour, change = _nearest(QWEN3_4B, 14.5, (256,) * 64, **recipe)
    assert colour == "red"
    assert list(change.keys) == ["per_device_train_batch_size"]
    assert change.cut == 0


def test_no_more_is_taken_off_a_micro_batch_than_must_be():
    _, change = _nearest(QWEN3_4B, 14.5, method="qlora", per_device_train_batch_size=16)
    micro = change.keys["per_device_train_batch_size"]
    assert list(change.keys) == ["per_device_train_batch_size"]
    assert 16 % micro == 0
    asked = Recipe(model="m", data="d", method="qlora", per_device_train_batch_size=2 * micro)
    assert 2 * micro == 16 or _colour(asked, QWEN3_4B, _card(14.5), np.full(64, 2048)) == "red"


def test_checkpointing_where_it_was_switched_off():
    _, change = _nearest(
        QWEN3_4B, 6, method="qlora", per_device_train_batch_size=1, gradient_checkpointing=False, max_length=2048
    )
    assert change.lines == ("gradient_checkpointing: true",)


def test_a_full_training_gets_8_bit_states_before_it_becomes_one_of_adapters():
    _, change = _nearest(LLAMA_1B, 17, (256,) * 64, method="full", optim="adamw_torch")
    assert change.lines == ("optim: paged_adamw_8bit",)
    _, change = _nearest(LLAMA_1B, 8, (256,) * 64, method="full", optim="adamw_torch")
    assert change.lines == ("method: lora",)


def test_lora_becomes_qlora():
    _, change = _nearest(QWEN3_14B, 16, (512,) * 64, method="lora")
    assert change.lines == ("method: qlora",)


def test_a_large_rank_becomes_the_usual_one_and_its_scale_stays():
    shape = replace(QWEN3_4B, rank=256, lora_parameters=16 * QWEN3_4B.lora_parameters)
    recipe = {"method": "qlora", "r": 256, "lora_alpha": 512, "per_device_train_batch_size": 1, "max_length": 512}
    _, change = _nearest(shape, 6, (512,) * 64, **recipe)
    assert change.lines == ("r: 16", "lora_alpha: 32")


def test_modules_that_are_trained_whole_get_8_bit_states_or_are_let_go():
    shape = replace(QWEN3_4B, saved_parameters=2 * QWEN3_4B.vocabulary * QWEN3_4B.hidden, saves_head=True)
    recipe = {"method": "qlora", "modules_to_save": ["lm_head", "embed_tokens"], "per_device_train_batch_size": 1}
    _, change = _nearest(shape, 13, (256,) * 64, **recipe)
    assert change.lines == ("optim: paged_adamw_8bit",)
    _, change = _nearest(shape, 5, (256,) * 64, **recipe, optim="adamw_8bit")
    assert change.lines == ("modules_to_save: null",)


# --- length -----------------------------------------------------------------------------------------------------------


def test_length_is_the_longest_that_fits_and_says_how_many_documents_it_cuts():
    lengths = [*[500] * 100, *[30_000] * 20]
    colour, change = _nearest(QWEN3_14B, 14.5, lengths, method="qlora", max_length=32_000)
    assert colour == "red"
    longest = change.keys["max_length"]
    assert longest % 64 == 0
    assert change.cut == 20
    assert str(change) == f"max_length: {longest} (it cuts 20 documents)"
    longer = Recipe(model="m", data="d", method="qlora", max_length=longest + 64)
    assert _colour(longer, QWEN3_14B, _card(14.5), np.array(lengths)) == "red"


@pytest.mark.parametrize(("max_length", "gib"), [("auto", 4.4), (2048, 4.4), ("auto", 24), ("auto", 2)])
def test_a_length_that_nobody_has_given_is_the_longest_that_is_green(max_length: int | str, gib: float):
    lengths = np.array([*[8000] * 60, *[100] * 4], np.int32)
    asked = Recipe(model="m", data="d", method="qlora", per_device_train_batch_size=1, max_length=max_length)
    facts = _facts(asked, QWEN3_4B, lengths)
    chosen = length_that_fits(asked, QWEN3_4B, _card(gib), facts, FREE, peak)
    if (max_length, gib) != ("auto", 4.4):  # it is given, or fits as it is, or nothing fits
        assert chosen == facts.max_length
        return
    at, longer = (
        _colour(replace(asked, max_length=chosen.value + more), QWEN3_4B, _card(gib), lengths) for more in (0, 64)
    )
    assert (at, longer) == ("green", "amber")
    assert chosen.value < facts.max_length.value
    assert "60 of 64 documents lose their end" in chosen.reason


def test_without_modules_that_are_trained_whole_no_head_is_kept_beside_the_models():
    shape = replace(QWEN3_4B, saved_parameters=1000, saves_head=True)
    whole = Recipe(model="m", data="d", modules_to_save=["lm_head"])
    assert resized(shape, whole, replace(whole, modules_to_save=None)) == QWEN3_4B
    assert resized(shape, whole, whole) == shape


def test_cutting_one_document_of_a_hundred_is_nearer_than_several_changes():
    lengths = [*[100] * 199, 10_000]
    recipe = {"method": "lora", "gradient_checkpointing": False, "per_device_train_batch_size": 1, "max_length": 40_000}
    _, change = _nearest(QWEN3_4B, 10.5, lengths, **recipe)
    assert (list(change.keys), change.cut) == (["max_length"], 1)
    _, change = _nearest(QWEN3_4B, 10.5, [*lengths, 10_000, 10_000], **recipe)
    assert set(change.keys) == {"gradient_checkpointing", "method"}, "three of 202 are more than one of a hundred"
    _, change = _nearest(QWEN3_4B, 12, [*lengths, 10_000, 10_000], **{**recipe, "per_device_train_batch_size": 2})
    assert set(change.keys) == {"gradient_checkpointing", "method"}, "two at once fit beside these"


# --- several changes --------------------------------------------------------------------------------------------------


def test_several_only_where_none_alone_is_enough_and_no_more_than_are_needed():
    recipe = {"method": "lora", "per_device_train_batch_size": 8, "gradient_checkpointing": False}
    _, change = _nearest(QWEN3_4B, 5, (1024,) * 64, **recipe)
    assert len(change.keys) > 1
    asked, lengths = Recipe(model="m", data="d", **recipe), np.full(64, 1024)
    for key in change.keys:
        fewer = {other: value for other, value in change.keys.items() if other != key}
        assert _colour(replace(asked, **fewer), QWEN3_4B, _card(5), lengths) == "red", f"{key} was not needed"


def test_beside_other_changes_too_no_more_is_taken_off_a_micro_batch_than_must_be():
    recipe = {"method": "qlora", "per_device_train_batch_size": 16, "gradient_checkpointing": False}
    _, change = _nearest(QWEN3_4B, 8, (1024,) * 64, **recipe)
    assert set(change.keys) == {"per_device_train_batch_size", "gradient_checkpointing"}
    micro = change.keys["per_device_train_batch_size"]
    assert micro > 1
    more = Recipe(model="m", data="d", **{**recipe, **change.keys, "per_device_train_batch_size": 2 * micro})
    assert _colour(more, QWEN3_4B, _card(8), np.full(64, 1024)) == "red"


# --- what nothing helps, and what may not change ----------------------------------------------------------------------


def test_nothing_is_proposed_where_nothing_helps():
    assert _nearest(QWEN3_14B, 2, (128,) * 64, method="full") == ("red", None)


def test_a_quantised_checkpoint_is_not_told_to_change_its_method():
    quantised = replace(QWEN3_14B, quantised=True, weight_bytes=10 * GIB)
    colour, change = _nearest(quantised, 14, per_device_train_batch_size=8)
    assert colour == "red"
    assert "method" not in change.keys
    assert _nearest(quantised, 10, (128,) * 8) == ("red", None)


def test_max_memory_counts():
    _, change = _nearest(QWEN3_4B, 40, (512,) * 64, method="lora", max_memory="5GB")
    assert change.lines == ("method: qlora",)


def test_a_batch_size_with_many_digits_is_no_long_wait():
    _, change = _nearest(GPT2, 14.5, (64,) * 8, per_device_train_batch_size=10**11 + 3, effective_batch_size=10**11 + 3)
    assert change is None or change.keys


def test_no_data_at_all_is_no_error():
    _nearest(QWEN3_14B, 5, [])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from([GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B]),
    gib=st.floats(1, 40),
    lengths=st.lists(st.integers(2, 1024), min_size=1, max_size=20),
    method=st.sampled_from(["auto", "qlora", "lora", "full"]),
    micro=st.sampled_from(["auto", 1, 4, 12]),
    checkpointing=st.sampled_from(["auto", True, False]),
    optim=st.sampled_from(["auto", "adamw_torch", "sgd"]),
)
def test_what_is_proposed_fits_and_a_proposal_is_made_wherever_a_single_step_would_do(
    shape, gib, lengths, method, micro, checkpointing, optim
):
    recipe = {"method": method, "per_device_train_batch_size": micro, "gradient_checkpointing": checkpointing}
    recipe |= {"optim": optim, "effective_batch_size": 12}
    try:
        colour, change = _nearest(shape, gib, lengths, **recipe)  # which checks that it fits
    except ColabMagicsError:
        assume(False)
    assume(colour == "red")
    asked = Recipe(model="m", data="d", **recipe)
    if change is None:
        for keys in ({"per_device_train_batch_size": 1}, {"gradient_checkpointing": True}, {"method": "qlora"}):
            given_away = any(recipe[key] == "auto" for key in keys)
            assert given_away or _colour(replace(asked, **keys), shape, _card(gib), np.array(lengths)) == "red", keys
    else:
        assert all(getattr(asked, key) != value for key, value in change.keys.items()), "it changes nothing"
        assert (change.cut > 0) == ("max_length" in change.keys)


def test_lines_are_as_a_recipe_has_them():
    change = Change({"gradient_checkpointing": True, "max_length": 640}, cut=1200)
    assert change.lines == ("gradient_checkpointing: true", "max_length: 640")
    assert str(change) == "gradient_checkpointing: true, max_length: 640 (it cuts 1,200 documents)"
