"""Models as they are described, loaded and adapted."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import documents

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe
from colab_magics.training.model import describe
from colab_magics.training.source import open_model


def _recipe(folder, **changes):
    return Recipe(**({"model": str(folder), "data": "rows"} | changes))


def test_the_shape_is_read_from_the_config_without_a_weight(make_model):
    from transformers import AutoModelForCausalLM

    folder = make_model("qwen3")
    recipe = _recipe(folder, r=8)
    shape = describe(open_model(recipe), recipe)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.linear_parameters == sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    assert (shape.layers, shape.hidden, shape.query, shape.key_value, shape.vocabulary) == (2, 64, 64, 32, 256)
    assert (shape.positions, shape.qk_norm, shape.quantised) == (256, True, False)


@pytest.mark.parametrize(
    ("model_type", "targets"), [("qwen3", "all-linear"), ("qwen3", ["q_proj", "v_proj"]), ("gpt2", "all-linear")]
)
def test_the_adapter_has_the_size_that_was_described(tiny_run, model_type, targets):
    run = tiny_run(model_type, target_modules=targets, r=4)
    shape = describe(run.source, run.recipe)
    assert shape.lora_parameters == sum(parameter.numel() for parameter in run.task.trainable)


def test_target_modules_that_do_not_exist_are_named_with_those_that_do(make_model):
    recipe = _recipe(make_model("gpt2"), target_modules=["c_attn", "q_proj"])
    with pytest.raises(ColabMagicsError) as error:
        describe(open_model(recipe), recipe)
    assert "no q_proj" in error.value.what
    assert "c_attn, c_fc, c_proj" in error.value.why


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_qlora_trains_on_a_cpu_in_4_bits(tiny_run, model_type):
    run = tiny_run(model_type, method="qlora", max_steps=8).run()
    from bitsandbytes.nn import Linear4bit

    quantised = [module for module in run.lm.modules() if isinstance(module, Linear4bit)]
    assert quantised
    assert all(module.weight.quant_state.nested for module in quantised)  # double quantisation
    assert all(module.weight.quant_type == "nf4" for module in quantised)
    assert {parameter.dtype for parameter in run.task.trainable} == {torch.float32}
    assert run.losses[-1] < run.losses[0] - 0.2


@pytest.fixture(scope="module")
def prequantised(make_model, tmp_path_factory):
    """A repository like unsloth's -bnb-4bit ones: quantised in bf16, with modules left in 16 bit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    source = make_model("qwen3")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "model.layers.1.mlp"],
    )
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.bfloat16)
    folder = tmp_path_factory.mktemp("prequantised")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_prequantised_model_forces_qlora_and_computes_in_the_chosen_dtype(tiny_run, prequantised, precision):
    from bitsandbytes.nn import Linear4bit

    run = tiny_run(model=str(prequantised), method="auto", precision=precision, max_steps=5)
    assert run.plan["method"] == "qlora"
    assert "already quantised" in run.plan.choices["method"].reason
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    quantised = {name: module for name, module in run.lm.named_modules() if isinstance(module, Linear4bit)}
    assert not any("layers.1.mlp" in name for name in quantised)
    assert any("layers.0.mlp" in name for name in quantised)
    for module in quantised.values():
        assert (module.compute_dtype, module.weight.quant_state.dtype) == (dtype, dtype)
    assert {p.dtype for p in run.model.parameters() if p.is_floating_point() and not p.requires_grad} == {dtype}
    run.run()
    assert run.losses[-1] < run.losses[0]


def test_packed_weights_stored_as_floating_point_are_left_as_they_are(tiny_run, make_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    source = make_model("qwen3")
    losses = []
    for storage in (torch.uint8, torch.bfloat16):
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_quant_storage=storage,
        )
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.bfloat16)
        folder = tmp_path / str(storage)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        losses.append(tiny_run(model=str(folder), method="auto", precision="fp16", max_steps=3).run().losses)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


def test_modules_saved_whole_train_in_fp32_on_a_model_in_fp16(tiny_run):
    config = {"tie_word_embeddings": False}
    half = tiny_run(modules_to_save=["lm_head"], precision="fp16", config=config, max_steps=4).run()
    assert {parameter.dtype for parameter in half.task.trainable} == {torch.float32}
    exact = tiny_run(modules_to_save=["lm_head"], config=config, max_steps=4).run()
    assert half.losses == pytest.approx(exact.losses, abs=2e-2)


def test_a_prequantised_model_cannot_be_trained_in_another_way(tiny_run, prequantised):
    with pytest.raises(ColabMagicsError, match="already quantised"):
        tiny_run(model=str(prequantised), method="full")


def test_an_adapter_on_the_head_takes_the_model_s_own_head(tiny_run):
    run = tiny_run(modules_to_save=["lm_head"], config={"tie_word_embeddings": False}, max_steps=4).run()
    assert type(run.task.loss).__name__ == "HeadLoss"
    assert run.losses[-1] < run.losses[0]


def test_every_lora_variant_of_the_recipe_trains(tiny_run):
    run = tiny_run(use_dora=True, use_rslora=True, max_steps=4, docs=documents(16)).run()
    assert run.losses[-1] < run.losses[0]


OLD_TORCHAO = """
import sys
from colab_magics.training.torchao import hide_old_torchao
print("hidden", hide_old_torchao())
from peft import LoraConfig, get_peft_model
from peft.import_utils import is_torchao_available
from transformers import AutoModelForCausalLM
print("seen", is_torchao_available())
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
print("adapted")
"""


def test_a_planted_old_torchao_changes_nothing(make_model, tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("raise RuntimeError('never to be imported')")
    info = tmp_path / "torchao-0.10.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", OLD_TORCHAO, str(make_model("qwen3"))],
        env={
            "PYTHONPATH": f"{tmp_path}:{root}",
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["hidden 0.10.0", "seen False", "adapted"]


def test_a_notebook_that_has_imported_its_old_torchao_keeps_it(monkeypatch):
    from peft.import_utils import is_torchao_available

    from colab_magics.training import torchao

    theirs = types.ModuleType("torchao")
    theirs.__spec__ = importlib.machinery.ModuleSpec("torchao", None)
    monkeypatch.setitem(sys.modules, "torchao", theirs)
    monkeypatch.setattr(metadata, "version", lambda _name: "0.10.0")
    is_torchao_available.cache_clear()
    try:
        assert torchao.hide_old_torchao() == "0.10.0"
        assert sys.modules["torchao"] is theirs
        assert is_torchao_available() is False
    finally:
        is_torchao_available.cache_clear()


@pytest.mark.parametrize(("version", "hides"), [("0.18.0", False), ("0.16.0", False), ("0.15.1+cu128", True)])
def test_only_a_torchao_that_peft_refuses_is_hidden(monkeypatch, version, hides):
    from colab_magics.training import torchao

    monkeypatch.setattr(torchao.metadata, "version", lambda _name: version)
    monkeypatch.setitem(sys.modules, "torchao", None)  # so that it is put back
    monkeypatch.delitem(sys.modules, "torchao")
    assert torchao.hide_old_torchao() == (version if hides else None)
    assert ("torchao" in sys.modules) is hides
    monkeypatch.delitem(sys.modules, "torchao", raising=False)
