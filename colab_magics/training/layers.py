"""A model's config with fewer layers: what is the same in every layer need not be tried, or counted, in each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KINDS = ("layer_types", "layers_block_type")
_WITHOUT_EXPERTS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_EXPERTS_EVERY = ("decoder_sparse_step", "moe_layer_freq", "moe_layer_interval", "interleave_moe_layer_step")


def layer_count(text: Any) -> int:
    """How many layers a (text) config has."""
    return next(value for name in _COUNTS if isinstance(value := getattr(text, name, None), int))


def layer_kinds(text: Any) -> list[str] | None:
    """Of each layer what its config says of it alone; None where no list says anything."""
    count = layer_count(text)
    listed = [value for value in vars(text).values() if isinstance(value, list | tuple) and len(value) == count]
    return [repr(kind) for kind in zip(*listed, strict=True)] if listed else None


def computed_kinds(text: Any) -> list[str] | None:
    """Kinds that the config computes from a layer's index; such layers can only be had with those before them."""
    count = layer_count(text)
    for name in _KINDS:
        computed = getattr(text, name, None)
        if isinstance(computed, list | tuple) and len(computed) == count:
            return list(computed)
    return None


def layers_before_experts(text: Any) -> int:
    """How many layers to count off before all have experts, where the config tells it by a number and by no list."""
    if any(isinstance(step := getattr(text, name, None), int) and step > 1 for name in _EXPERTS_EVERY):
        return layer_count(text)  # experts come and go to the end
    numbers = [number for name in _WITHOUT_EXPERTS if isinstance(number := getattr(text, name, None), int)]
    numbers += [index + 1 for index in getattr(text, "mlp_only_layers", None) or ()]
    return min(layer_count(text), max(numbers, default=0))


def with_layers(config: Any, keep: Sequence[int]) -> Any:
    """A copy that has only the layers of those indices."""
    config = copy.deepcopy(config)
    keep_layers(config.get_text_config(), keep)
    return config


def keep_layers(text: Any, keep: Sequence[int]) -> None:
    """Leave only the layers of those indices in a (text) config."""
    count = layer_count(text)
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == count:
            setattr(text, name, [value[index] for index in keep])
    for name in _COUNTS:
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, len(keep))
