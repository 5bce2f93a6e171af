"""A training on tensors without numbers takes what the real one takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU
from scenes import case
from torch import nn
from torch.profiler import ProfilerActivity, profile

from colab_magics.memory.estimate import NF4, estimate
from colab_magics.plan import Choice, DataFacts, make_plan
from colab_magics.training import attention
from colab_magics.training.batches import Sample
from colab_magics.training.loop import micro_batch_gradients
from colab_magics.training.model import describe, load_model, set_gradient_checkpointing
from colab_magics.training.probe import probe
from colab_magics.training.source import ModelSource
from colab_magics.training.task import make_task
from colab_magics.training.tracing import scene
from colab_magics.training.tracing.extrapolate import peak_of
from colab_magics.training.tracing.four_bit import FourBit
from colab_magics.training.tracing.ledger import STEP
from colab_magics.training.tracing.scene import Case, trace

pytestmark = pytest.mark.colab

WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 1024}
WIDE_GPT2 = {"n_embd": 128, "vocab_size": 1024}


def _peak(one: Case, layers: int = 2) -> int:
    return sum(peak_of(trace(one, range(layers)))[1].values())


def _stepped(size: int) -> int:
    """In whole steps, up or down."""
    whole = -(-abs(size) // STEP) * STEP
    return whole if size >= 0 else -whole


# --- against the allocator of this machine ----------------------------------------------------------------------------


def _measured(one: Case, folder: Path) -> int:
    """The highest point of torch's CPU allocator in that training, really done, by the profiler's memory events."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(one.config).save_pretrained(folder)
    source = ModelSource("m", folder, None, one.config, 0)
    lengths = np.full(8, one.setup.length, np.int32)
    facts = DataFacts(lengths, 0, Choice(one.setup.length, "a test's"))
    planned = make_plan(one.recipe, describe(source, one.recipe), CPU, facts, probe(one.config), lambda *_: 0)
    plan = planned.choosing(
        packing=Choice(one.setup.packed, "a test's"),
        optim=Choice(one.setup.optim, "a test's"),
        loss_chunk=Choice(one.setup.loss_chunk, "a test's"),
    )
    model = load_model(source, one.recipe, plan, torch.device("cpu"))
    size = one.setup.length
    ids, where, targets = np.zeros(size, np.int32), np.arange(size, dtype=np.int64), np.zeros(size, np.int64)
    samples = [Sample(number, ids, where, targets, size) for number in range(one.setup.documents)]
    documents: Any = [(ids, np.ones(size, bool))] * 8
    task, _ = make_task(model, one.recipe, plan, documents, None, device=torch.device("cpu"))
    task.model.train()
    set_gradient_checkpointing(task.model, one.setup.gradient_checkpointing)
    storages = {
        tensor.untyped_storage().data_ptr(): _stepped(tensor.untyped_storage().nbytes())
        for tensor in [*model.parameters(), *model.buffers()]
    }
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        micro_batch_gradients(task, samples, one.setup.packed, size * len(samples))
        nn.utils.clip_grad_norm_(task.trainable, 1.0)
        task.optimizer.step()
        micro_batch_gradients(task, samples, one.setup.packed, size * len(samples))
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = highest = sum(storages.values())
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += _stepped(event.nbytes())
        highest = max(highest, live)
    return highest


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(
            case("llama", WIDE, kind="cpu", precision="fp32", length=128, gradient_checkpointing=True, packed=True),
            id="llama, lora, packed, checkpointing",
        ),
        pytest.param(case("gpt2", WIDE_GPT2, kind="cpu", precision="fp32", method="full", length=128), id="gpt2, full"),
    ],
)
def test_the_peak_is_within_1_percent_of_the_real_allocator_s(one, tmp_path):
    assert _peak(one) == pytest.approx(_measured(one, tmp_path), rel=0.01)


# --- what each part is ------------------------------------------------------------------------------------------------


def _parts(one: Case) -> dict[str, int]:
    return trace(one, [0, 1])["between"]


def _parameters(one: Case) -> tuple[int, int]:
    """(of the model, of its adapters)."""
    shape = describe(ModelSource("m", Path(), None, one.config, 0), one.recipe)
    return shape.parameters, shape.lora_parameters


def test_of_lora_weights_are_in_16_bit_and_what_is_trained_in_fp32_with_two_states():
    one = case(config=WIDE)
    model, adapters = _parameters(one)
    parts = _parts(one)
    assert parts["weights"] == pytest.approx(2 * model, rel=0.02)
    assert parts["adapters"] == parts["gradients"] == pytest.approx(4 * adapters, rel=0.02)
    tensors = 2 * 2 * 7  # each has a count of its steps as well
    assert parts["optimizer"] == pytest.approx(8 * adapters + tensors * STEP, rel=0.02)


def test_of_a_full_training_all_is_in_fp32():
    one = case(config=WIDE, method="full", precision="bf16", capability=(8, 0))
    model, _ = _parameters(one)
    parts = _parts(one)
    assert parts["weights"] == pytest.approx(4 * model, rel=0.02)
    assert parts["gradients"] == pytest.approx(4 * model, rel=0.02)
    assert parts["optimizer"] == pytest.approx(8 * model, rel=0.02)
    assert "adapters" not in parts


def test_of_qlora_the_linears_are_in_4_bits():
    one = case(config=WIDE, method="qlora")
    shape = describe(ModelSource("m", Path(), None, one.config, 0), one.recipe)
    four = NF4 * shape.linear_parameters + 14 * 2048  # tables of each layer: they are small beside a real one
    assert _parts(one)["weights"] == pytest.approx(four + 2 * (shape.parameters - shape.linear_parameters), rel=0.05)


def test_layers_that_a_quantised_checkpoint_left_in_16_bit_are_counted_so():
    fields = {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["lm_head", "mlp"]}
    plain, dynamic = (case(config={**WIDE, "quantization_config": given}, method="qlora") for given in (None, fields))
    in_mlp = 2 * 3 * 128 * 256
    assert _parts(dynamic)["weights"] - _parts(plain)["weights"] == pytest.approx(in_mlp * (2 - NF4), rel=0.1)
    assert dynamic.config.quantization_config is not None, "the config is as it was"


@pytest.mark.parametrize(
    ("optim", "bytes_each"),
    [("adamw_torch", 8), ("adamw_torch_fused", 8), ("adamw_8bit", 2.03), ("adafactor", 0.0), ("sgd", 0)],
)
def test_optimizers_keep_what_they_keep(optim, bytes_each):
    config = {**WIDE, "tie_word_embeddings": True}
    one = case(config=config, method="full", precision="bf16", optim=optim)
    model, _ = _parameters(one)
    assert _parts(one).get("optimizer", 0) == pytest.approx(bytes_each * model, rel=0.05, abs=0.1 * model)


def test_large_states_of_a_paged_optimizer_are_the_driver_s_to_place():
    config = {**WIDE, "tie_word_embeddings": True}
    paged, plain = (
        _parts(case(config=config, method="full", optim=name)) for name in ("paged_adamw_8bit", "adamw_8bit")
    )
    embedding = 1024 * 128  # the one tensor of at least 100,000 numbers
    assert plain["optimizer"] - paged["optimizer"] == pytest.approx(2.03 * embedding, rel=0.02)


def test_adapters_of_peers_are_in_16_bit():
    ours, theirs = (_parts(case(config=WIDE, method="qlora", adapter_bytes=width)) for width in (4, 2))
    assert ours["adapters"] == 2 * theirs["adapters"]


# --- what takes more --------------------------------------------------------------------------------------------------


def test_changes_move_the_peak_the_way_they_must():
    plain = case(config=WIDE)
    peak = _peak(plain, 1)

    def changed(**changes: Any) -> int:
        return _peak(replace(plain, setup=replace(plain.setup, **changes)), 1)

    assert changed(attention="math") > peak
    assert changed(loss="logits") > peak
    assert changed(packed=True) > peak, "the mask of packed documents"
    assert _peak(replace(plain, recipe=replace(plain.recipe, lora_dropout=0.1)), 1) > peak


def test_autocast_keeps_a_16_bit_copy_of_each_adapter():
    in_fp32, in_16_bit = (
        case(config=WIDE, precision="bf16", capability=(8, 0), adapter_bytes=width, gradient_checkpointing=True)
        for width in (4, 2)
    )
    _, adapters = _parameters(in_fp32)
    wide, narrow = (trace(one, [0, 1])["head"]["activations"] for one in (in_fp32, in_16_bit))
    assert wide - narrow == pytest.approx(2 * adapters, rel=0.05)


def test_16_bit_copies_of_a_full_models_weights_are_a_part_of_their_own_whatever_the_length():
    def copies(length: int) -> tuple[int, float]:
        one = case(config=WIDE, method="full", length=length, gradient_checkpointing=True)
        shape = describe(ModelSource("m", Path(), None, one.config, 0), one.recipe)
        return trace(one, [0, 1])["head"]["copies"], estimate(shape, one.setup).copies

    traced, by_formula = copies(64)
    assert traced > 0
    assert copies(32)[0] == traced
    assert by_formula == pytest.approx(traced, rel=0.02)
    assert "copies" not in peak_of(trace(case(), [0]))[1]


def test_scores_of_the_model_s_own_attention_are_counted_as_attention():
    eager = trace(case("gemma2", {"head_dim": 16}, attention="eager", loss="head"), [0, 1])
    fused = trace(case(), [0])
    assert peak_of(eager)[1]["attention"] >= 2 * 2 * 4 * 64 * 64 * 4
    assert "attention" not in peak_of(fused)[1]


# --- what the formula makes of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "within"),
    [
        ({}, 0.02),
        ({"modules_to_save": ["lm_head"]}, 0.02),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, 0.02),
        ({"modules_to_save": ["embed_tokens"]}, 0.08),
        ({"use_dora": True}, 0.05),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_the_formula_counts_what_is_trained_beside_the_adapters(recipe, within):
    wide = {
        "hidden_size": 512, "intermediate_size": 1536, "head_dim": 64, "vocab_size": 16_384,
        "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True,
    }  # fmt: skip
    one = case(config=wide, documents=1, length=1024, gradient_checkpointing=True, loss_chunk=256, recipe=recipe)
    shape = describe(ModelSource("m", Path(), None, one.config, 0), one.recipe)
    assert estimate(shape, one.setup).peak == pytest.approx(_peak(one), rel=within)


# --- nothing stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "model_type", "config", "scores"),
    [
        ((7, 5), "qwen3", {}, True),  # grouped heads and no mask: below 8.0 torch's own composition alone takes them
        ((8, 0), "qwen3", {}, False),  # flash
        (
            (7, 5),
            "mistral",
            {"sliding_window": 16},
            False,
        ),  # a window that cuts is a mask, for which heads are repeated
        ((7, 5), "mistral", {"sliding_window": 4096}, True),
    ],
)
def test_transformers_attention_takes_the_kernel_that_its_mask_leaves(capability, model_type, config, scores):
    one = case(model_type, config, attention="sdpa", capability=capability, loss="logits", length=96)
    moments = trace(one, range(2))
    of_scores = one.setup.documents * 4 * 96 * 96 * 2  # heads, in 16 bit
    assert (max(parts.get("attention", 0) for parts in moments.values()) >= 2 * of_scores) == scores


def test_after_code_that_cannot_be_traced_everything_is_as_before(monkeypatch):
    def cannot(*_: Any) -> None:
        raise RuntimeError("needs numbers")

    monkeypatch.setattr(scene, "HiddenLoss", cannot)
    before = torch.is_autocast_enabled, attention._takes_mask
    with pytest.raises(RuntimeError, match="needs numbers"):
        trace(case(method="qlora", packed=True), [0, 1])
    assert FourBit.ledger is None
    assert attention._InFlight.packing is None
    assert (torch.is_autocast_enabled, attention._takes_mask) == before
    assert torch.ones(2).sum().item() == 2.0, "tensors have numbers again"


def test_the_config_that_is_traced_is_not_changed():
    one = case(config={"num_hidden_layers": 4})
    before = one.config.to_dict()
    trace(one, [0, 1])
    assert one.config.to_dict() == before
