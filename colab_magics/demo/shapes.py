"""The shapes of real models, so that a rehearsal plans the real job: their config.json, without any weights."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.run import cache_folder

# As their config.json on the Hub has them; what is left out is transformers' default.
_CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
}


def shape_of(name: str) -> str:
    """The folder of that model's config and of a tokenizer: enough to plan and to estimate with, not to train.

    The tokenizer is the demo model's, so the lengths of documents are in its tokens.
    """
    if name not in _CONFIGS:
        close = nearest(name, _CONFIGS)
        raise ColabMagicsError(
            f"The shape of {name} is not written down.",
            f"That of {', '.join(_CONFIGS)} is.",
            f"Did you mean {close}?" if close else "With network a model's id does: its config is all that is fetched.",
        )
    folder = cache_folder() / "shapes" / name
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file in model_path().glob("*"):
            if "token" in file.name or file.suffix == ".jinja":
                shutil.copy(file, folder / file.name)
        staged = folder / f"config.json.{os.getpid()}"
        staged.write_text(json.dumps(_CONFIGS[name], indent=2), encoding="utf-8")
        staged.rename(folder / "config.json")
    return str(folder)
