"""The result: others can load it as it stands."""

from __future__ import annotations

import json

import pytest
import torch

from colab_magics.training.result import save_result
from colab_magics.training.source import load_tokenizer

PROMPT = torch.arange(3, 20)[None]


def _saved(run, folder):
    tokenizer = load_tokenizer(run.source, run.recipe)
    facts = {"Final loss": f"{run.losses[-1]:.4f}", "Data fingerprint": "abc123"}
    return save_result(folder, run.model, tokenizer, source=run.source, recipe=run.recipe, facts=facts)


def test_adapter_loads_by_plain_peft_and_gives_the_same_logits(tiny_run, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    run = tiny_run().run()
    target = _saved(run, tmp_path)
    assert target == tmp_path / "adapter"
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] == str(run.source.folder)
    loaded = AutoPeftModelForCausalLM.from_pretrained(target)
    run.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(PROMPT).logits, run.model(PROMPT).logits, atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert "<s>user" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_full_model_loads_by_transformers(tiny_run, tmp_path):
    from transformers import AutoModelForCausalLM

    run = tiny_run(method="full", learning_rate=1e-3).run()
    target = _saved(run, tmp_path)
    assert target == tmp_path / "model"
    loaded = AutoModelForCausalLM.from_pretrained(target)
    assert loaded.config._attn_implementation != "colab_magics"
    run.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(PROMPT).logits, run.model(PROMPT).logits, atol=1e-5, rtol=0)


def test_card_tells_recipe_data_and_losses(tiny_run, tmp_path):
    run = tiny_run(max_steps=2).run()
    card = (_saved(run, tmp_path) / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    assert f"| Final loss | {run.losses[-1]:.4f} |" in card
    assert "abc123" in card
    assert "max_steps: 2" in card


def test_result_replaces_an_older_one_as_a_whole(tiny_run, tmp_path):
    run = tiny_run(max_steps=1).run()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "stale").touch()
    _saved(run, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]
    assert not (tmp_path / "adapter" / "stale").exists()


@pytest.mark.parametrize("secret", ["hf_abcdefghijklmnopqrstuvwxyz"])
def test_card_holds_no_token(tiny_run, tmp_path, secret):
    run = tiny_run(max_steps=1, system=f"my token is {secret}").run()
    target = _saved(run, tmp_path)
    for file in target.iterdir():
        assert secret.encode() not in file.read_bytes()
