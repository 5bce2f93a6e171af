"""Each preset, which is a real project's numbers, trains a tiny model of that project's architecture on real rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from colab_magics import worker
from colab_magics.data import identity, resolve
from colab_magics.recipe import parse
from colab_magics.run import Run

if TYPE_CHECKING:
    from conftest import Warm

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4}

# A test does not take 100 steps of 8,192 tokens; everything else stays as the preset has it.
SHORT = {"max_steps": "2", "max_length": "256", "max_train_samples": "24"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Callable[[str, str], Path]:
    """Make a model of that type, with random weights and a real tokenizer."""

    def make(model_type: str, tokenizer: str) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        folder = tmp_path_factory.mktemp(model_type)
        words = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / tokenizer)
        sizes: dict[str, Any] = {"vocab_size": len(words), **(GPT2 if model_type == "gpt2" else SMALL)}
        AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes)).save_pretrained(folder)
        words.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("preset", "model_type", "tokenizer", "method"),
    [
        ("qwen3-4b-colab", "qwen3", "phi3", "qlora"),
        ("kwanzaa", "llama", "phi3", "qlora"),
        ("gpt2-small", "gpt2", "gpt2", "full"),
        ("kaggle-100k", "llama", "phi3", "qlora"),
    ],
)
def test_a_preset_trains_a_tiny_model_of_its_architecture(
    preset: str,
    model_type: str,
    tokenizer: str,
    method: str,
    tiny: Callable[[str, str], Path],
    shared_data: Path,
    warm: Warm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = shared_data / "alpaca_en_1k.json"
    given = {"model": str(tiny(model_type, tokenizer)), "data": str(rows), **SHORT}
    recipe = parse("", given, preset=preset).recipe
    folder = tmp_path / preset
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    source = resolve(recipe.data, {}, cwd=tmp_path)
    (folder / "inputs.json").write_text(json.dumps({"train": {**source.to_dict(), "identity": identity(source)}}))

    monkeypatch.setattr(sys, "executable", str(warm.python))
    code = worker.spawn(folder, 1, env={**warm.environment, "COLAB_MAGICS_CACHE": str(tmp_path / "cache")}).wait()

    run = Run(folder)
    assert code == 0, run.error
    assert len(run.losses) == 2
    (plan, *_) = [event["choices"] for event in run.events() if event["kind"] == "plan"]
    assert plan["method"]["value"] == method
    assert plan["effective_batch"]["value"] == (16 if preset == "gpt2-small" else 8)
    assert run.adapter_path is not None
    if method == "qlora":
        adapter = json.loads((run.adapter_path / "adapter_config.json").read_text())
        assert adapter["r"] == recipe.r
        assert set(adapter["target_modules"]) == set(recipe.target_modules)
