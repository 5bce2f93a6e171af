"""Where a model's files come from: a folder, the demo model in this package, or the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are.

    `id` is what the user knows it by, `revision` its commit on the Hub (None for a folder), `weight_bytes` the size of
    its weight files.
    """

    id: str
    folder: Path
    revision: str | None
    config: Any
    weight_bytes: int


def open_model(recipe: Recipe) -> ModelSource:
    """Find the model and read its config; no weight is read or downloaded."""
    from transformers import AutoConfig

    folder = Path(__file__).parents[1] / "demo" / "model" if recipe.model == "demo" else Path(recipe.model).expanduser()
    if not (folder / "config.json").is_file():
        raise ColabMagicsError(f"There is no model in {recipe.model}.", "It has no config.json.")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.trust_remote_code)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return ModelSource(recipe.model, folder.resolve(), None, config, weights)


def load_tokenizer(source: ModelSource, recipe: Recipe) -> Any:
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=recipe.trust_remote_code)
