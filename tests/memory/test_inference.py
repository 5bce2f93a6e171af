"""Generating: the weights, and keys and values for each token of the context."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shapes import GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.memory.architecture import shape_of
from colab_magics.memory.inference import cache_of, cache_per_token, generating, weights_for
from colab_magics.plan import GIB, Device

pytestmark = pytest.mark.face

T4 = Device("cuda", "Tesla T4", int(14.56 * GIB), int(14.56 * GIB), 12 * GIB, (7, 5))
CPU = Device("cpu", "CPU with 2 cores", 16 * GIB, 12 * GIB, 12 * GIB)


@pytest.mark.parametrize(("shape", "gib"), [(QWEN3_4B, 4.5), (QWEN3_14B, 5.0), (LLAMA_1B, 1.0)])
def test_published_caches_at_32k(shape, gib):
    assert 32_768 * cache_per_token(shape) / GIB == gib


def test_contexts_are_the_usual_ones_up_to_what_the_model_was_made_for():
    rows = generating(QWEN3_4B, 1, T4)
    assert [row.context for row in rows] == [2048, 8192, 32_768, 40_960]
    assert [row.context for row in generating(GPT2, 1, T4)] == [1024]
    assert [row.context for row in generating(replace(GPT2, positions=None), 1, T4)][-1] == 131_072
    assert [row.context for row in generating(GPT2, 1, T4, context=77)] == [77]


def test_the_peak_is_its_parts_and_grows_with_context_and_batch():
    one, two = (generating(QWEN3_4B, 5 * GIB, T4, batch=batch, context=4096)[0] for batch in (1, 2))
    assert one.peak == one.weights + one.cache + one.working
    assert (two.cache, two.working) == (2 * one.cache, 2 * one.working)
    assert two.weights == one.weights
    assert one.fit.colour == "green"
    assert generating(QWEN3_4B, 15 * GIB, T4, context=4096)[0].fit.colour == "red"


def test_weights_are_in_4_bits_where_that_is_how_it_is_trained():
    assert weights_for(QWEN3_4B, "qlora", T4) / GIB == pytest.approx(2.471, rel=0.005)
    assert weights_for(QWEN3_4B, "lora", T4) == 2 * QWEN3_4B.parameters
    assert weights_for(QWEN3_4B, "full", CPU) == 4 * QWEN3_4B.parameters
    quantised = replace(QWEN3_4B, quantised=True, weight_bytes=3 * GIB)
    assert weights_for(quantised, "qlora", T4) == 3 * GIB


def test_a_cpu_keeps_fp32():
    assert generating(GPT2, 1, CPU)[0].cache == 2 * generating(GPT2, 1, T4)[0].cache


GEMMA = {
    "model_type": "gemma3_text", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 32, "head_dim": 16,
    "num_hidden_layers": 7, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 16,
    "max_position_embeddings": 256,
}  # fmt: skip


@pytest.mark.parametrize("given", [{}, {"sliding_window_pattern": 3}, {"layer_types": ["sliding_attention"] * 7}])
def test_sliding_layers_keep_their_window_as_a_filled_cache_does(given):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape = shape_of({**GEMMA, **given})
    config = transformers.Gemma3TextConfig(
        **{key: value for key, value in {**GEMMA, **given}.items() if key != "model_type"}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()

    def held(cache):
        tensors = [tensor.untyped_storage() for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return sum({one.data_ptr(): one.nbytes() for one in tensors}.values())

    with torch.no_grad():
        cache = model(torch.zeros(1, 99, dtype=torch.long), use_cache=True).past_key_values
        assert held(cache) == 99 * cache_per_token(shape, 4)  # at once, and the views keep all of it
        cache = model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True).past_key_values
    assert held(cache) == cache_of(shape, 100, 4)
    row = generating(shape, 0, CPU, context=100)[0]
    assert row.cache == held(cache)
    assert row.cache + row.working > 100 * cache_per_token(shape, 4)


def test_where_no_layer_slides_all_of_it_is_kept():
    assert cache_of(QWEN3_4B, 1000) == 1000 * cache_per_token(QWEN3_4B)
    assert shape_of({**GEMMA, "model_type": "qwen2", "use_sliding_window": False}).sliding_layers == 0
