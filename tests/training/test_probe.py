"""What the probe finds out about real architectures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import tiny_config

from colab_magics.errors import ColabMagicsError
from colab_magics.training.attention import NAME
from colab_magics.training.probe import probe, shrink

# Enough layers that every kind an architecture has is there, and sizes that agree with width 64.
SHAPES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 16},
    "gemma3_text": {"num_hidden_layers": 8, "head_dim": 16},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "jamba": {"num_hidden_layers": 10},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "gpt_oss": {"num_hidden_layers": 4, "head_dim": 16},
}


def _probe(model_type: str, **changes: Any):
    return probe(tiny_config(model_type, **(SHAPES.get(model_type, {}) | changes)))


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen3", "gpt2", "mistral", "gemma3_text", "phi3", "gpt_neox", "opt", "olmo2", "qwen3_moe"]
)
def test_documents_that_stay_apart_may_be_packed(model_type):
    verdict = _probe(model_type)
    assert (verdict.attention, verdict.packing, verdict.plain_head) == (NAME, True, True)


@pytest.mark.parametrize("model_type", ["lfm2", "qwen3_5_text", "falcon_h1", "jamba"])
def test_a_convolution_or_a_recurrence_leaks_and_is_not_packed(model_type):
    verdict = _probe(model_type)
    assert not verdict.packing
    assert f"leak into each other in {model_type}" in verdict.packing_reason


@pytest.mark.parametrize("model_type", ["gpt_oss", "bloom", "mamba"])
def test_without_sdpa_a_model_keeps_its_own_attention(model_type):
    verdict = _probe(model_type)
    assert (verdict.attention, verdict.packing) == ("eager", False)
    assert "does not support SDPA" in verdict.attention_reason


def test_a_soft_cap_on_scores_keeps_the_model_s_own_attention():
    # transformers 5.15 lets SDPA drop the cap without a word
    verdict = _probe("gemma2")
    assert (verdict.attention, verdict.packing, verdict.plain_head) == ("eager", False, False)


def test_chunked_attention_which_ours_does_not_honour_is_kept():
    verdict = _probe("llama4_text")
    assert verdict.attention == "sdpa"
    assert not verdict.packing


@pytest.mark.parametrize(
    ("model_type", "changes"), [("gemma2", {}), ("cohere", {}), ("granite", {"logits_scaling": 8.0})]
)
def test_logits_changed_after_the_head_are_noticed(model_type, changes):
    assert not _probe(model_type, **changes).plain_head


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_model_that_looks_to_the_right_is_refused_by_name(model_type):
    with pytest.raises(ColabMagicsError, match=f"{model_type} cannot be trained here"):
        _probe(model_type)


def test_a_verdict_is_kept_for_the_same_config_only(tmp_path):
    verdict = probe(tiny_config("llama"), tmp_path)
    (kept,) = (tmp_path / "probe").iterdir()
    told = json.loads(kept.read_text())
    assert told["packing"] is verdict.packing
    kept.write_text(json.dumps(told | {"packing_reason": "read back"}))
    assert probe(tiny_config("llama"), tmp_path).packing_reason == "read back"
    assert probe(tiny_config("llama", rope_theta=5e5), tmp_path).packing_reason != "read back"


def test_a_torn_verdict_is_found_out_again(tmp_path):
    probe(tiny_config("llama"), tmp_path)
    (kept,) = (tmp_path / "probe").iterdir()
    kept.write_text(kept.read_text()[:20])
    assert probe(tiny_config("llama"), tmp_path).packing
    json.loads(kept.read_text())


def test_shrinking_keeps_one_layer_of_every_kind():
    config = tiny_config("gemma3_text", num_hidden_layers=12, head_dim=16)
    small = shrink(config)
    assert set(small.layer_types) == set(config.layer_types)
    assert small.num_hidden_layers == len(small.layer_types) == 2
    assert config.num_hidden_layers == 12
