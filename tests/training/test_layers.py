"""Layers of several kinds: how many come before those that are all alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from colab_magics.training.layers import layers_before_experts
from colab_magics.training.tracing.extrapolate import whole


class _Text(SimpleNamespace):
    def get_text_config(self):
        return self


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ({}, 0),
        ({"first_k_dense_replace": 3}, 3),
        ({"num_dense_layers": 2}, 2),
        ({"mlp_only_layers": [0, 1]}, 2),
        ({"mlp_only_layers": []}, 0),
        ({"mlp_only_layers": [8]}, 9),
        ({"decoder_sparse_step": 1}, 0),
        ({"decoder_sparse_step": 2}, 10),
        ({"first_k_dense_replace": 99}, 10),
    ],
)
def test_dense_layers_before_experts_are_counted_however_the_config_tells_of_them(fields, before):
    assert layers_before_experts(_Text(num_hidden_layers=10, **fields)) == before


@pytest.mark.parametrize("kinds", [None, ["full_attention"] * 10])
def test_dense_layers_are_not_taken_for_the_ones_with_experts(kinds):
    text = _Text(num_hidden_layers=10, first_k_dense_replace=3, **({"layer_types": kinds} if kinds else {}))
    sizes = [1] * 3 + [100] * 7
    moments = whole(text, lambda layers: {"peak": {"weights": sum(sizes[index] for index in layers)}})
    assert moments == {"peak": {"weights": sum(sizes)}}
