"""A model's sizes from its config alone are those of the model itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.architecture import (
    _FAMILIES,
    UnknownArchitecture,
    positions_of,
    role_of,
    shape_of,
    usual_verdict,
)
from colab_magics.recipe import Recipe

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the model itself is built with torch")

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 64,
    "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
SIZES: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
OWN_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "opt": {
        "vocab_size": 256, "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "word_embed_proj_dim": 64,
    },
}  # fmt: skip
CHANGES: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True, "mlp_bias": True},
    {"attention_bias": False, "resid_pdrop": 0.0, "hidden_dropout": 0.0, "dropout": 0.0},
    {"resid_pdrop": 0.1, "hidden_dropout": 0.1, "dropout": 0.1},
]
# of a layer each; what another family calls otherwise is not asked for
SOME = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "gpt_neox": ["query_key_value"],
    "opt": ["q_proj", "fc1"],
    "phi3": ["qkv_proj"],
}


def _config(kind: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **(OWN_SIZES.get(kind, SIZES) | changes))


def _described(config: Any, **recipe: Any) -> dict[str, Any]:
    from colab_magics.training.model import describe
    from colab_magics.training.source import ModelSource

    asked = Recipe(**({"model": "m", "data": "d"} | recipe))
    return asdict(describe(ModelSource("m", Path(), None, config, 0), asked))


def _read(config: Any, **options: Any) -> dict[str, Any]:
    """From the file that transformers writes of it, with the class that it names."""
    return asdict(shape_of(json.loads(config.to_json_string()), **options))


def _same(counted: dict[str, Any], read: dict[str, Any]) -> None:
    named = {"architecture"}  # a new config has no name yet
    assert {key: value for key, value in read.items() if key not in named} == {
        key: value for key, value in counted.items() if key not in named
    }


# --- equal to the model itself ----------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize("kind", sorted(_FAMILIES))
def test_the_sizes_are_those_of_the_model_in_every_field(kind):
    for changes in CHANGES:
        config = _config(kind, **changes)
        _same(_described(config), _read(config))


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize("kind", sorted(_FAMILIES))
def test_adapters_on_some_modules_of_another_rank(kind):
    config = _config(kind)
    wanted = SOME.get(kind, ["q_proj", "down_proj"])
    _same(_described(config, r=5, target_modules=wanted), _read(config, r=5, target_modules=wanted))
    one = wanted[0]
    _same(_described(config, target_modules=one), _read(config, target_modules=one))
    _same(_described(config, method="full", target_modules=one), _read(config, full=True, target_modules=one))


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "saved", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["model.embed_tokens"]], ids=" ".join
)
def test_modules_that_are_trained_whole_and_doras_norms(saved, tied):
    config = _config("qwen3", tie_word_embeddings=tied)
    read = _read(config, modules_to_save=saved, dora=True)
    assert read["saved_parameters"] == len(saved) * 256 * 64
    assert read["dora"]
    _same(_described(config, modules_to_save=saved, use_dora=True), read)
    full = _read(config, modules_to_save=saved, dora=True, full=True)
    assert (full["saved_parameters"], full["dora"]) == (0, False), "all is trained whole, and nothing is an adapter"


def test_another_module_that_is_trained_whole_has_to_be_traced():
    with pytest.raises(UnknownArchitecture, match=r"modules_to_save: input_layernorm"):
        shape_of(LLAMA, modules_to_save=["lm_head", "input_layernorm"])


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"n_inner": 100}),
        ("gpt2", {"activation_function": "gelu", "attn_pdrop": 0.0}),
        ("opt", {"enable_bias": False}),
        ("opt", {"do_layer_norm_before": False}),
        ("gpt_neox", {"hidden_act": "gelu_fast", "use_parallel_residual": False}),
        ("llama", {"head_dim": 32}),  # heads as wide as the MLP: only names tell them apart
        ("qwen3", {"head_dim": 16}),
        ("gemma3_text", {"num_hidden_layers": 7, "sliding_window": 16}),
        ("mistral", {"sliding_window": 16}),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
        ("phi3", {"num_key_value_heads": 4}),
    ],
)
def test_and_of_what_else_a_family_can_be(kind, changes):
    config = _config(kind, **changes)
    read = _read(config, weight_bytes=0)
    _same(_described(config), read)


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize("kind", sorted({*_FAMILIES} - {"gpt2"}))
def test_what_a_file_leaves_out_is_as_the_model_s_class_has_it(kind):
    from transformers import AutoConfig

    left = {"vocab_size": 256, "hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 32, "pad_token_id": 0}
    left |= {"ffn_dim": 384, "word_embed_proj_dim": 512} if kind == "opt" else {"intermediate_size": 384}
    config = type(AutoConfig.for_model(kind)).from_dict({"model_type": kind, **left, "max_position_embeddings": 256})
    _same(_described(config), asdict(shape_of({"model_type": kind, **left, "max_position_embeddings": 256})))


@needs_torch
@pytest.mark.colab
@pytest.mark.parametrize("kind", sorted(_FAMILIES))
def test_a_probe_finds_what_is_usual(kind):
    from colab_magics.training import attention
    from colab_magics.training.probe import probe

    attention.register()
    config = _config(kind)
    usual = usual_verdict(shape_of(json.loads(config.to_json_string())))
    found = probe(config)
    assert (usual.attention, usual.packing, usual.plain_head) == (found.attention, found.packing, found.plain_head)


@needs_torch
@pytest.mark.colab
def test_a_model_that_also_sees_is_not_taken_for_its_language_half():
    config = _config(
        "gemma3",
        text_config={**SIZES, "intermediate_size": 100},
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
    )
    with pytest.raises(UnknownArchitecture):
        _read(config)


# --- real configs, by their published counts --------------------------------------------------------------------------


@pytest.mark.face
@pytest.mark.parametrize(
    ("config", "parameters", "linear"),
    [
        (
            {
                "model_type": "gpt2", "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12,
                "n_positions": 1024,
            },
            124_439_808, 84_934_656,
        ),
        (
            {
                "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
                "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                "tie_word_embeddings": True, "max_position_embeddings": 131_072,
            },
            1_235_814_400, 973_078_528,
        ),
        (
            {
                "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 5120, "intermediate_size": 17_408,
                "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
                "tie_word_embeddings": False, "max_position_embeddings": 40_960,
            },
            14_768_307_200, 13_212_057_600,
        ),
    ],
)  # fmt: skip
def test_published_counts(config, parameters, linear):
    shape = shape_of(config)
    assert (shape.parameters, shape.linear_parameters) == (parameters, linear)


@pytest.mark.face
def test_the_language_part_of_a_nested_config_is_read():
    inner = {**LLAMA, "architectures": ["Inner"]}
    assert replace(shape_of({"text_config": inner, "model_type": "x"}), architecture="LlamaForCausalLM") == shape_of(
        LLAMA
    )
    assert positions_of({"text_config": inner}) == 256
    assert shape_of({**LLAMA, "text_config": "not a config"}) == shape_of(LLAMA)


@pytest.mark.face
def test_only_a_quantised_checkpoint_has_a_size_of_its_own():
    assert shape_of(LLAMA, weight_bytes=7).weight_bytes is None
    quantised = shape_of({**LLAMA, "quantization_config": {"load_in_4bit": True}}, weight_bytes=7)
    assert (quantised.quantised, quantised.weight_bytes) == (True, 7)


@pytest.mark.face
@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "role"),
    [("attn.c_proj", 64, 64, 1), ("mlp.c_proj", 256, 64, 3), ("mlp.c_fc", 64, 256, 2), ("q_proj", 64, 256, 0),
     ("o_proj", 256, 64, 1), ("gate_up_proj", 64, 512, 2), ("self_attention.dense", 64, 64, 1), ("odd", 64, 64, 0)],
)  # fmt: skip
def test_what_a_linear_reads(name, inputs, outputs, role):
    assert role_of(name, inputs, outputs, 64, 256) == role


# --- configs that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.face
@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")),
        {"intermediate_size": None},
        *({"hidden_size": wrong} for wrong in ("64", 64.5, True, [64], {}, -64, 0, 10**30, float("nan"))),
        {"num_hidden_layers": -2},
        {"num_hidden_layers": 10**12},
        {"num_key_value_heads": "2"},
        {"num_attention_heads": 1000},  # 64 wide in all: none is left for a head
        {"max_position_embeddings": -1},
        {"head_dim": -16},
        {"vocab_size": 2**40},
    ],
)
def test_a_config_without_what_is_needed_is_refused_in_a_few_lines(changes):
    with pytest.raises(ColabMagicsError) as raised:
        shape_of({**LLAMA, **changes})
    assert 2 <= len(raised.value.lines()) <= 4
    assert not isinstance(raised.value, UnknownArchitecture) or changes["hidden_size"] != changes["hidden_size"]
    assert max(map(len, raised.value.lines())) < 120


@pytest.mark.face
@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mamba"}, {"model_type": None}, {"model_type": ["llama"]}, {"vision_config": {}},
        {"model_type": "opt", "word_embed_proj_dim": 32}, {"model_type": "gpt2", "add_cross_attention": True},
        {"model_type": "opt", "layer_norm_elementwise_affine": False},
    ],
)  # fmt: skip
def test_layers_that_are_not_known_here_are_left_to_the_trace(changes):
    with pytest.raises(UnknownArchitecture, match="not known by formula"):
        shape_of({**LLAMA, **changes})


@pytest.mark.face
@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", 5, {"a": 1}, ["X"]])
def test_the_name_of_the_class_is_of_no_account(architectures):
    assert replace(shape_of({**LLAMA, "architectures": architectures}), architecture="") == replace(
        shape_of(LLAMA), architecture=""
    )


@pytest.mark.face
@pytest.mark.parametrize("wanted", ["q_prj", ["q_proj", "q_prj"], []])
def test_a_module_that_is_not_there_is_named_with_the_nearest(wanted):
    if wanted == []:
        assert shape_of(LLAMA, target_modules=[]).lora_parameters == 0
        return
    with pytest.raises(ColabMagicsError, match="no q_prj") as raised:
        shape_of(LLAMA, target_modules=wanted)
    assert "Did you mean q_proj?" in str(raised.value)
