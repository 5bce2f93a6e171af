"""What the probe finds out about real architectures."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_config

from colab_magics.errors import ColabMagicsError
from colab_magics.training.attention import NAME
from colab_magics.training.probe import probe


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "mistral", "phi3", "gpt_neox", "olmo2", "qwen3_moe"])
def test_packing_is_allowed_where_documents_stay_apart(model_type):
    changes = {"sliding_window": 16} if model_type == "mistral" else {}
    verdict = probe(tiny_config(model_type, **changes))
    assert (verdict.attention, verdict.packing, verdict.plain_head) == (NAME, True, True)


@pytest.mark.parametrize("model_type", ["gpt_oss", "bloom", "gemma2", "mamba", "opt", "lfm2", "qwen3_5", "falcon_h1"])
def test_packing_is_refused_with_a_reason(model_type):
    verdict = probe(tiny_config(model_type))
    print(verdict)
    assert not verdict.packing


