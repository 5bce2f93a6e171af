"""Tiny models of real architectures, with real adapters of peft, and what their logits are before and after a merge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colab_magics.training.merging.__main__ import DTYPES
from colab_magics.training.merging.base import Wish, find_base
from colab_magics.training.merging.changes import read_adapter
from colab_magics.training.merging.layout import lay_out
from colab_magics.training.merging.writing import write

EPSILON = {"fp32": 2**-23, "fp16": 2**-10, "bf16": 2**-7}
BOUND = {"fp32": 64, "fp16": 4, "bf16": 4}
"""Merged and unmerged logits differ by less than so many steps of the dtype, at the largest logit."""

VOCABULARY = 96
_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
}  # fmt: skip


def llama(tied: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=tied))


def qwen3(tied: bool) -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_SIZES, tie_word_embeddings=tied))


def gpt2(tied: bool) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=VOCABULARY, n_positions=64, tie_word_embeddings=tied)
    )


@dataclass(frozen=True)
class Trained:
    """A base and an adapter in folders, and the logits of the two together, in fp32."""

    base: Path
    adapter: Path
    logits: torch.Tensor


def tokens() -> torch.Tensor:
    return torch.arange(48).reshape(2, 24) * 7 % VOCABULARY


def trained(
    folder: Path, make: Callable[[bool], nn.Module], *, tied: bool = False, dtype: str = "fp32", **lora: Any
) -> Trained:
    """Save a base in `dtype`, and an adapter whose every number is as large as a training makes it."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    model: Any = make(tied).to(kinds[dtype]).eval()
    model.save_pretrained(folder / "base", max_shard_size="20KB")
    model = model.float()
    adapted = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | lora)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    # as whoever loads them gets them: peft 0.20 saves no biases of `lora_only`
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, folder / "adapter").eval()
    with torch.no_grad():
        logits = loaded(tokens()).logits
    return Trained(folder / "base", folder / "adapter", logits)


def merge(trained: Trained, into: Path, dtype: str | None = None) -> Path:
    """Merge in this process."""
    into.mkdir()
    adapter = read_adapter(trained.adapter)
    base = find_base(adapter, Wish(), print)
    write(lay_out(adapter, base.weights, DTYPES.get(dtype or ""), model=base.id), base, into, lambda *_: None)
    return into


def difference(folder: Path, logits: torch.Tensor) -> float:
    """The largest difference of the folder's logits, computed in fp32; no tensor is missing or left over."""
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"], told
    assert not told["unexpected_keys"], told
    with torch.no_grad():
        return float((model.eval()(tokens()).logits - logits).abs().max())


def bound(logits: torch.Tensor, dtype: str) -> float:
    return BOUND[dtype] * EPSILON[dtype] * float(logits.abs().max())


def change_config(folder: Path, changes: Mapping[str, Any], name: str = "adapter_config.json") -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **changes}))
