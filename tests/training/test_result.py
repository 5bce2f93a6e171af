"""The result: others can load it as it stands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from colab_magics.training.result import _quantised, save_result
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


@pytest.mark.parametrize(("method", "in_4_bits"), [("qlora", True), ("lora", False)])
def test_on_a_gpu_what_qlora_trained_stands_on_a_4_bit_base_again(tiny_run, tmp_path, monkeypatch, method, in_4_bits):
    from bitsandbytes.nn import Linear4bit
    from peft import AutoPeftModelForCausalLM

    from colab_magics.events import EventLog
    from colab_magics.run import Run

    run = tiny_run(method=method, max_steps=2).run()
    _saved(run, tmp_path)
    (tmp_path / "recipe.yaml").write_text(replace(run.recipe, trust_remote_code=True).to_yaml())
    EventLog(tmp_path / "events.jsonl", 1).append("model", method=method)
    load = AutoPeftModelForCausalLM.from_pretrained
    seen = []

    def on_the_cpu(folder, **options):
        seen.append(options)
        assert options.pop("device_map") == {"": 0}
        monkeypatch.undo()
        return load(folder, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(AutoPeftModelForCausalLM, "from_pretrained", on_the_cpu)
    model, _ = Run(tmp_path).load()
    assert seen[0]["trust_remote_code"] is True
    assert any(isinstance(module, Linear4bit) for module in model.modules()) is in_4_bits
    if in_4_bits:
        run.model.eval()
        with torch.no_grad():
            off = (model(PROMPT).logits.float() - run.model(PROMPT).logits).abs().max()
        assert off < 0.1


def test_a_base_that_comes_quantised_is_not_quantised_again(tmp_path):
    (tmp_path / "base").mkdir()
    config = {"model_type": "qwen3", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    assert _quantised(tmp_path, trust_remote_code=False)


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


@pytest.mark.parametrize("secret", ["hf_notarealtoken"])
def test_card_holds_no_token(tiny_run, tmp_path, secret):
    run = tiny_run(max_steps=1, system=f"my token is {secret}").run()
    target = _saved(run, tmp_path)
    for file in target.iterdir():
        assert secret.encode() not in file.read_bytes()
