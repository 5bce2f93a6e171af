"""Tiny models of real architectures, for a rehearsal without a GPU, a download or a login.

The Qwen3 is the demo model. The others have random weights: they show that a recipe runs and what it does to a loss,
and nothing of what a model can learn.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.run import cache_folder

SWITCH = "COLAB_MAGICS_TINY"
"""The environment variable that turns the notebooks of this repository into rehearsals."""

_WIDTH, _LAYERS, _HEADS = 64, 2, 4
_LONGEST = 8192  # positions: as long as a recipe of the large one may ask for
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": _WIDTH, "n_layer": _LAYERS, "n_head": _HEADS, "n_positions": 1024},
    "llama": {
        "hidden_size": _WIDTH,
        "intermediate_size": 3 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 2,
        "head_dim": _WIDTH // _HEADS,
        "max_position_embeddings": _LONGEST,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,  # a head that stays as it is and is smaller could tell no token from another
    },
    "qwen3": {},  # the demo model is one, and has learnt something
}
_REVISION = 2  # of what is written here: another one is made anew


def rehearsed() -> bool:
    """Whether a rehearsal is asked for, by COLAB_MAGICS_TINY=1."""
    return os.environ.get(SWITCH, "") not in ("", "0")


def tiny_model(model_type: str) -> str:
    """The folder of a tiny model of that architecture, made when it is first asked for.

    Parameters
    ----------
    model_type : as a config.json has it: gpt2, llama, qwen3

    Returns
    -------
    What `model:` takes. Its tokenizer, and but for GPT-2 its chat template, are the demo model's.
    """
    if model_type not in SHAPES:
        close = nearest(model_type, SHAPES)
        raise ColabMagicsError(
            f"There is no tiny {model_type}.",
            f"There is {', '.join(SHAPES)}.",
            f"Did you mean {close}?" if close else "model: demo is a small one that has been trained.",
        )
    folder = cache_folder() / "tiny" / f"{model_type}-{_REVISION}"
    if not (folder / "model.safetensors").exists():
        staged = folder.with_name(f"{folder.name}.{os.getpid()}")
        staged.mkdir(parents=True, exist_ok=True)
        _write(staged, model_type)
        shutil.rmtree(folder, ignore_errors=True)  # of one that was begun elsewhere and never finished
        staged.rename(folder)
    return str(folder)


def _write(folder: Path, model_type: str) -> None:
    base = model_path()
    theirs = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for file in base.glob("*"):
        if "token" in file.name or (file.suffix == ".jinja" and model_type != "gpt2"):
            shutil.copy(file, folder / file.name)
    if model_type == theirs["model_type"]:
        shutil.copy(base / "model.safetensors", folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(theirs | {"max_position_embeddings": _LONGEST}, indent=2))
        return
    import torch
    from safetensors.torch import save_model
    from transformers import AutoConfig, AutoModelForCausalLM

    tokens = {name: theirs[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(model_type, vocab_size=theirs["vocab_size"], **SHAPES[model_type], **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
