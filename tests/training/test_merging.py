"""A merged model says what base and adapter together said, loads as it stands, and is refused where it could not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from merged import bound, change_config, difference, gpt2, llama, merge, qwen3, trained
from safetensors.torch import load_file, save_file
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.training.merging import arithmetic, layout
from colab_magics.training.merging.base import Base
from colab_magics.training.merging.changes import read_adapter
from colab_magics.training.merging.layout import lay_out
from colab_magics.training.merging.writing import MARGIN, check_disk, merged_config

pytestmark = pytest.mark.colab

Make = Callable[[bool], nn.Module]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and blocks so small that tiny models have several of each."""
    monkeypatch.setattr(layout, "SHARD", 20_000)
    monkeypatch.setattr(arithmetic, "_BLOCK", 1000)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [llama, qwen3, gpt2])
def test_merged_logits_are_the_unmerged_ones_within_the_bound(tmp_path: Path, make: Make, tied: bool) -> None:
    """And fail to be so without the adapter: the bound can tell."""
    for dtype in ("fp32", "fp16", "bf16"):
        one = trained(tmp_path / dtype, make, tied=tied, dtype=dtype)
        assert difference(one.base, one.logits) > 2 * bound(one.logits, dtype)
        into = merge(one, tmp_path / dtype / "merged", dtype)
        assert difference(into, one.logits) < bound(one.logits, dtype)
        assert len(list(into.glob("*.safetensors"))) > 1


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 8}, "alpha_pattern": {"v_proj": 3, "o_proj": 1}},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "norm"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_every_kind_of_lora_is_merged_as_peft_computes_it(tmp_path: Path, lora: dict[str, Any], tied: bool) -> None:
    one = trained(tmp_path, llama, tied=tied, **lora)
    into = merge(one, tmp_path / "merged", "fp32")
    assert difference(into, one.logits) < bound(one.logits, "fp32")


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"bias": "all"}, {"bias": "lora_only"}], ids=str)
def test_weights_that_lie_the_other_way_around_and_biases_are_merged(tmp_path: Path, lora: dict[str, Any]) -> None:
    one = trained(tmp_path, gpt2, tied=True, fan_in_fan_out=True, **lora)
    into = merge(one, tmp_path / "merged", "fp32")
    assert difference(into, one.logits) < bound(one.logits, "fp32")


def test_a_table_that_was_shared_is_untied_only_where_the_adapter_changes_it(tmp_path: Path) -> None:
    plain = merge(trained(tmp_path / "plain", llama, tied=True), tmp_path / "one")
    assert json.loads((plain / "config.json").read_text())["tie_word_embeddings"] is True
    changed = merge(trained(tmp_path / "changed", llama, tied=True, modules_to_save=["lm_head"]), tmp_path / "two")
    assert json.loads((changed / "config.json").read_text())["tie_word_embeddings"] is False


def test_files_whose_names_have_no_prefix_are_merged(tmp_path: Path) -> None:
    """As those of gpt2 on the Hub: they were saved without a head."""
    one = trained(tmp_path, gpt2, tied=True)
    everything = {name: tensor for path in one.base.glob("*.safetensors") for name, tensor in load_file(path).items()}
    for path in one.base.glob("model*"):
        path.unlink()
    plain = {name.removeprefix("transformer."): tensor for name, tensor in everything.items()}
    save_file(plain, one.base / "model.safetensors", {"format": "pt"})
    into = merge(one, tmp_path / "merged", "fp32")
    assert difference(into, one.logits) < bound(one.logits, "fp32")


def test_the_dtype_is_the_bases_and_half_precision_for_one_in_fp32(tmp_path: Path) -> None:
    for dtype, expected in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float16")):
        into = merge(trained(tmp_path / dtype, qwen3, dtype=dtype), tmp_path / dtype / "merged")
        config = json.loads((into / "config.json").read_text())
        assert {config[key] for key in ("dtype", "torch_dtype") if key in config} == {expected}
        kinds = {tensor.dtype for path in into.glob("*.safetensors") for tensor in load_file(path).values()}
        assert kinds == {getattr(torch, expected)}


def test_what_a_16_bit_base_keeps_in_fp32_stays_so(tmp_path: Path) -> None:
    one = trained(tmp_path, llama, dtype="bf16")
    path = next(path for path in one.base.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-4
    save_file(tensors, path, {"format": "pt"})
    into = merge(one, tmp_path / "merged")
    found = {name: tensor for path in into.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert torch.equal(found["model.norm.weight"], tensors["model.norm.weight"])


def test_no_file_is_larger_than_it_may_be_and_the_index_names_them_all(tmp_path: Path) -> None:
    into = merge(trained(tmp_path, llama), tmp_path / "merged", "fp32")
    named = json.loads((into / "model.safetensors.index.json").read_text())["weight_map"]
    files = {path.name: path.stat().st_size for path in into.glob("*.safetensors")}
    assert set(named.values()) == set(files)
    assert all(size < 20_000 + 2000 for size in files.values())


def test_a_number_that_fp16_cannot_hold_is_named(tmp_path: Path) -> None:
    one = trained(tmp_path, llama, dtype="bf16")
    path = next(path for path in one.base.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = 1e5
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ColabMagicsError, match=r"model\.norm\.weight does not fit into fp16") as raised:
        merge(one, tmp_path / "merged", "fp16")
    assert raised.value.next_steps == ("Add --dtype bf16.",)


def test_an_adapter_for_another_base_is_refused_with_both_shapes(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", llama)
    adapter = read_adapter(one.adapter)
    wide = trained(tmp_path / "wide", wider).base
    with pytest.raises(ColabMagicsError) as raised:
        lay_out(adapter, sorted(wide.glob("*.safetensors")), None, model="wide")
    said = str(raised.value)
    assert "The adapter is not for wide." in said
    assert "16 × 32" in said
    assert "24 × 48" in said
    other = trained(tmp_path / "other", gpt2).base
    with pytest.raises(ColabMagicsError, match=r"model\.layers\.0\..*which other does not have"):
        lay_out(adapter, sorted(other.glob("*.safetensors")), None, model="other")


def wider(tied: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=12, vocab_size=96, tie_word_embeddings=tied,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"lora_bias": True}, "lora_bias"),
        ({"of_a_later_peft": {"rank": 3}}, "of_a_later_peft"),
    ],
)
def test_what_would_not_be_exact_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    one = trained(tmp_path, llama)
    change_config(one.adapter, change)
    with pytest.raises(ColabMagicsError, match=why):
        read_adapter(one.adapter)


def test_code_of_a_models_own_is_referred_to_where_it_is(tmp_path: Path) -> None:
    one = trained(tmp_path, llama)
    plan = lay_out(read_adapter(one.adapter), sorted(one.base.glob("*.safetensors")), None, model="own")
    config = {"auto_map": {"AutoConfig": "own.Config"}, "quantization_config": {"bits": 4}, "_name_or_path": "/home/me"}
    made = merged_config(Base("org/own", tmp_path, "abc", config, ()), plan)
    assert made == {"auto_map": {"AutoConfig": "org/own--own.Config"}, "torch_dtype": "float16"}
    with pytest.raises(ColabMagicsError, match="its own code"):
        merged_config(Base("own", tmp_path, None, config, ()), plan)


def test_a_merge_that_becomes_an_archive_needs_room_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = layout.Layout((layout.Shard("model.safetensors", ()),), "F16", untied=False)
    free = int(1.5 * merged.size) + MARGIN
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    check_disk(merged, tmp_path, 1.0)
    with pytest.raises(ColabMagicsError, match=f"It needs {2 * merged.size + MARGIN:,} bytes .* and {free:,} "):
        check_disk(merged, tmp_path, 2.0)
