"""The closed formula against figures that were traced from real model code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shapes import LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.memory.estimate import NF4, estimate, peak
from colab_magics.plan import Setup

GIB = 2**30


def _setup(**changes) -> Setup:
    given = {
        "method": "qlora",
        "precision": "fp16",
        "optim": "adamw_torch_fused",
        "documents": 1,
        "length": 2048,
        "gradient_checkpointing": True,
        "loss_chunk": 64,
    }
    return Setup(**(given | changes))


# traced peak allocated GiB: NF4 with double quantisation, fp32 LoRA r=16 on all linear layers, AdamW, fused attention,
# checkpointing, a head that never builds the logits
@pytest.mark.parametrize(
    ("shape", "documents", "length", "traced"),
    [
        (LLAMA_1B, 1, 512, 1.23),
        (LLAMA_1B, 1, 2048, 1.60),
        (LLAMA_1B, 1, 8192, 3.28),
        (LLAMA_1B, 2, 2048, 2.11),
        (QWEN3_4B, 1, 512, 3.11),
        (QWEN3_4B, 1, 2048, 3.73),
        (QWEN3_4B, 1, 8192, 6.54),
        (QWEN3_4B, 2, 2048, 4.62),
        (QWEN3_14B, 1, 2048, 11.67),
        (QWEN3_14B, 2, 2048, 13.36),
    ],
)
def test_qlora_peaks_are_within_12_percent_of_traces(shape, documents, length, traced):
    assert peak(shape, _setup(documents=documents, length=length)) / GIB == pytest.approx(traced, rel=0.12)


def test_base_weights_of_a_quantised_model():
    assert estimate(QWEN3_4B, _setup()).weights / GIB == pytest.approx(2.471, rel=0.005)
    assert estimate(QWEN3_14B, _setup()).weights / GIB == pytest.approx(9.25, rel=0.01)
    assert pytest.approx(4.1273 / 8, rel=1e-4) == NF4


def test_a_prequantised_checkpoint_counts_its_own_files():
    dynamic = replace(QWEN3_14B, quantised=True, weight_bytes=12 * GIB)
    assert estimate(dynamic, _setup()).weights == 12 * GIB


def test_full_fine_tuning_of_1b_in_16_bit_needs_20_gib_of_states_and_8_bit_states_much_less():
    fused = estimate(LLAMA_1B, _setup(method="full", length=1))
    states = fused.weights * 4 / 6 + fused.gradients + fused.optimizer  # without autocast's 16-bit copies
    assert states / GIB == pytest.approx(19.8 * 1e9 / GIB, rel=0.01)
    paged = estimate(LLAMA_1B, _setup(method="full", length=1, optim="paged_adamw_8bit"))
    assert fused.optimizer > 3.9 * paged.optimizer


@pytest.mark.parametrize("change", [{"documents": 2}, {"length": 4096}, {"gradient_checkpointing": False}])
def test_more_in_memory_at_once_is_more(change):
    assert peak(QWEN3_4B, _setup(**change)) > peak(QWEN3_4B, _setup())


def test_the_mask_of_packed_documents_counts_and_one_alone_has_none():
    packed, padded = (estimate(QWEN3_4B, _setup(documents=4, packed=way)).attention for way in (True, False))
    assert packed - padded == (4 * 2048) ** 2 * 3
    assert peak(QWEN3_4B, _setup(packed=True)) == peak(QWEN3_4B, _setup())


def test_without_checkpointing_activations_are_those_of_the_traces():
    # 19.4 GiB traced with full logits, of which 12 bytes a logit; ours builds none
    logits = 12 * 2048 * QWEN3_4B.vocabulary
    assert peak(QWEN3_4B, _setup(gradient_checkpointing=False)) == pytest.approx(19.4 * GIB - logits, rel=0.12)
