"""What a few layers foretell, against a trace of all of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cases import gib, show_progress, table
from models import config_of

from colab_magics.plan import Setup
from colab_magics.recipe import parse
from colab_magics.training.layers import layer_count
from colab_magics.training.tracing.extrapolate import Moments, peak_of, whole
from colab_magics.training.tracing.scene import Case, trace

BAR = 0.005
_MOE = {
    "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "moe_intermediate_size": 768,
    "num_experts_per_tok": 2, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "glm4_moe, 3 dense, then 9 with experts": {"model_type": "glm4_moe", **_MOE, "first_k_dense_replace": 3},
    "qwen3_moe, 2 dense, then 10 with experts": {
        "model_type": "qwen3_moe", **_MOE, "num_experts": 8, "mlp_only_layers": [0, 1],
    },
    "gpt_oss, sliding and full by turns": {
        "model_type": "gpt_oss", **_MOE, "num_local_experts": 8, "sliding_window": 128,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One whose layers are counted; `attention` as transformers is told."""

    name: str
    method: str
    checkpointing: bool
    attention: str = "colab_magics"

    @property
    def config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.for_model(**(SMALL.get(self.name) or config_of(self.name)))


MODELS = (
    Model("gpt2", "full", checkpointing=False),
    Model("Llama-3.2-1B", "lora", checkpointing=False),
    Model("Qwen3-4B", "qlora", checkpointing=True),
    Model("Qwen3-4B", "qlora", checkpointing=False),
    Model("gemma-3-270m", "full", checkpointing=True),
    Model("gemma-3-270m", "lora", checkpointing=False),
    *(
        Model(name, "lora", checkpointing, "eager" if name.startswith("gpt_oss") else "sdpa")
        for name in SMALL
        for checkpointing in (True, False)
    ),
)


def main(*, quick: bool) -> int:
    from transformers.utils import logging

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    chosen = [model for model in MODELS if not quick or model.name == "gpt2"]
    rows, worst = [], 0.0
    for number, model in enumerate(chosen, 1):
        show_progress(number, len(chosen), str(model))
        few, every, traced = _both(model)
        error = few / every - 1
        worst = max(worst, abs(error))
        how = f"{model.method}, checkpointing {'on' if model.checkpointing else 'off'}"
        layers = layer_count(model.config.get_text_config())
        rows.append((model.name, how, layers, traced, gib(few), gib(every), f"{error:+.4%}"))
    print(table(("model", "trained by", "layers", "traced with", "foretold, GiB", "all, GiB", "error"), rows))
    print(f"\nbar: at most {BAR:.1%}: {'met' if worst <= BAR else 'missed'}, the worst is {worst:.4%}")
    return int(worst > BAR)


def _both(model: Model) -> tuple[int, int, str]:
    """(peak from a few layers, peak of all, which numbers of layers were traced)."""
    config = model.config
    recipe = parse("", {"model": model.name, "data": "none", "method": model.method}).recipe
    setup = Setup(model.method, "fp16", "adamw_torch_fused", 1, 1024, model.checkpointing, 512)
    case = Case(config, recipe, setup, model.attention)
    numbers: list[int] = []

    def traced(layers: Sequence[int]) -> Moments:
        numbers.append(len(layers))
        return trace(case, layers)

    few = sum(peak_of(whole(config, traced))[1].values())
    every = sum(peak_of(trace(case, range(layer_count(config.get_text_config()))))[1].values())
    return few, every, ", ".join(map(str, numbers))
