"""A few layers, and what all of them take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from scenes import case

from colab_magics.training.layers import layer_count
from colab_magics.training.tracing.extrapolate import Moments, peak_of, whole
from colab_magics.training.tracing.scene import Case, trace

pytestmark = pytest.mark.colab

HYBRID = {
    "num_hidden_layers": 6, "sliding_window": 16, "head_dim": 16,
    "layer_types": [*["sliding_attention"] * 3, "full_attention", "sliding_attention", "full_attention"],
}  # fmt: skip


def _both(one: Case) -> tuple[Moments, Moments, list[list[int]]]:
    """(from a few layers, from all of them, which layers were traced)."""
    asked: list[list[int]] = []

    def few(layers: Sequence[int]) -> Moments:
        asked.append(list(layers))
        return trace(one, layers)

    return whole(one.config, few), trace(one, range(layer_count(one.config.get_text_config()))), asked


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(case("llama", {"num_hidden_layers": 4}, gradient_checkpointing=True, packed=True), id="packed"),
        pytest.param(case("qwen3", {"num_hidden_layers": 4}, method="qlora"), id="qlora"),
        pytest.param(case("gpt2", {"n_layer": 4}, kind="cpu", method="full", precision="fp32"), id="full, on a CPU"),
        pytest.param(case("gemma3_text", HYBRID), id="two kinds of layers"),
    ],
)
def test_a_few_layers_tell_what_all_take_in_every_part_of_every_moment(one: Case):
    grown, traced, asked = _both(one)
    assert max(map(len, asked)) < layer_count(one.config.get_text_config())
    assert peak_of(grown)[0] == peak_of(traced)[0]
    for moment, parts in traced.items():
        if "middle" in moment:
            continue  # there is none in two layers, and none is higher than both the first and the last
        assert {key: value for key, value in grown[moment].items() if value} == {
            key: value for key, value in parts.items() if value
        }, moment


class _Config:
    """A config of that many layers, whose kinds it lists, computes, or does not have."""

    def __init__(self, count: int, listed: list[str] | None = None, computed: list[str] | None = None) -> None:
        self.num_hidden_layers = count
        if listed is not None:
            self.layer_types = listed
        self._computed = lambda: computed

    def get_text_config(self) -> Any:
        return self

    @property
    def layers_block_type(self) -> list[str] | None:
        return self._computed()


def _counted(config: _Config, kinds: list[str], once: dict[str, int]) -> tuple[Moments, list[list[int]]]:
    """Each layer takes what its kind takes; 5 bytes are there without any."""
    asked: list[list[int]] = []

    def counting(layers: Sequence[int]) -> Moments:
        asked.append(list(layers))
        return {"backward": {"activations": sum(once[kinds[index]] for index in layers), "weights": 5}}

    return whole(config, counting), asked


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 36])
def test_layers_of_one_kind(count):
    found, asked = _counted(_Config(count), ["a"] * count, {"a": 7})
    assert found == {"backward": {"activations": 7 * count, "weights": 5}}
    assert max(map(len, asked)) == min(count, 3)


@pytest.mark.parametrize(
    "kinds", ["a", "ab", "ba", "aab", "abab", "aaabaaab", "aaabaaa", "abc", "abcabcabc", "cbbbbbbbbbba", "aaaaaaaab"]
)
def test_layers_of_listed_kinds_are_traced_kind_by_kind(kinds):
    listed = list(kinds)
    once = {"a": 7, "b": 100, "c": 3000}
    found, asked = _counted(_Config(len(listed), listed), listed, once)
    assert found["backward"]["activations"] == sum(once[kind] for kind in listed)
    assert max(map(len, asked)) <= 2 * len(set(listed)) + 2


@pytest.mark.parametrize("kinds", ["aabbbbbbbb", "abbbb", "bbbbbb", "aaab", "ab"])
def test_of_kinds_that_a_config_computes_the_first_layers_are_kept_as_they_are(kinds):
    listed = list(kinds)
    once = {"a": 7, "b": 100}
    found, asked = _counted(_Config(len(listed), computed=listed), listed, once)
    assert found["backward"]["activations"] == sum(once[kind] for kind in listed)
    assert all(layers == list(range(len(layers))) for layers in asked), "a computed kind goes by the layer's index"


def test_the_peak_may_move_from_one_moment_to_another():
    """The head is high in a model of few layers, the layers in one of many."""

    def tracing(layers: Sequence[int]) -> Moments:
        return {"head": {"head": 100, "activations": len(layers)}, "backward": {"activations": 10 * len(layers)}}

    assert peak_of(whole(_Config(4), tracing))[0] == "head"
    assert peak_of(whole(_Config(40), tracing)) == ("backward", {"activations": 400})
