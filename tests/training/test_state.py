"""What a checkpoint holds, what reads it as it stands, and to what it is not put back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trained, documents
from continued import assert_same_tensors, newest, saver_of, stopped_after, tensors_of, train_with
from safetensors import safe_open

from colab_magics.checkpoints.interval import Every
from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Verdict
from colab_magics.training.state import HostCopies, configs_of, put_back, read_saved, take, weights_of

pytestmark = pytest.mark.colab  # libraries differ in what they keep of a state

DOCS = documents(20, longest=32)
TEXT = torch.arange(3, 60)[None]


@pytest.fixture
def a_run(tiny_run):
    def make(model_type: str = "qwen3", **changes: Any) -> Trained:
        return tiny_run(model_type, docs=DOCS, **({"effective_batch_size": 8, "max_steps": 4} | changes))

    return make


# --- loadable as it stands -------------------------------------------------------------------------------------------


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(TEXT).logits
    return logits


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_folder_loads_with_peft_and_transformers_and_gives_the_same_logits(
    a_run, tmp_path, monkeypatch, model_type, method
):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    if model_type == "gemma2":  # what the probe finds out about it
        monkeypatch.setattr("conftest.PLAIN", Verdict("eager", "its soft cap", False, "its soft cap", False, "a cap"))
    run = stopped_after(a_run(model_type, method=method), 3, tmp_path / "run")
    folder = newest(tmp_path / "run").folder
    loader = AutoPeftModelForCausalLM if method == "lora" else AutoModelForCausalLM
    attention = run.lm.config._attn_implementation
    loaded = loader.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    assert torch.equal(_logits(loaded), _logits(run.model))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"], "config": {"tie_word_embeddings": False}},
        {"target_modules": ["q_proj", "down_proj"]},
    ],
    ids=["dora", "rslora", "modules_to_save", "target_modules"],
)
def test_so_do_the_other_adapters(a_run, tmp_path, changes):
    from peft import AutoPeftModelForCausalLM

    run = stopped_after(a_run(**changes), 3, tmp_path / "run")
    folder = newest(tmp_path / "run").folder
    loaded = AutoPeftModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=run.lm.config._attn_implementation
    )
    assert torch.equal(_logits(loaded), _logits(run.model))


def test_its_files_are_few_and_none_is_a_pickle(a_run, tmp_path):
    stopped_after(a_run(), 2, tmp_path / "adapter")
    stopped_after(a_run(method="full"), 2, tmp_path / "model")
    names = {run: {path.name for path in newest(tmp_path / run).folder.iterdir()} for run in ("adapter", "model")}
    common = {"optimizer.safetensors", "state.json", "MANIFEST.json"}
    assert names["adapter"] == common | {"adapter_model.safetensors", "adapter_config.json"}
    assert names["model"] == common | {"model.safetensors", "config.json", "generation_config.json"}
    for path in (tmp_path / "adapter").rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.keys()
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())


def test_a_tied_head_is_kept_once_as_save_pretrained_does(a_run, tmp_path):
    from safetensors.torch import load_file

    run = stopped_after(a_run("gpt2", method="full"), 2, tmp_path / "run")
    run.model.save_pretrained(tmp_path / "theirs")
    ours = load_file(newest(tmp_path / "run").folder / "model.safetensors")
    assert_same_tensors(ours, load_file(tmp_path / "theirs" / "model.safetensors"))


def test_the_adapter_is_the_one_that_peft_would_save(a_run, tmp_path):
    from safetensors.torch import load_file

    run = stopped_after(a_run(), 2, tmp_path / "run")
    run.model.save_pretrained(tmp_path / "theirs")
    folder = newest(tmp_path / "run").folder
    ours = load_file(folder / "adapter_model.safetensors")
    assert_same_tensors(ours, load_file(tmp_path / "theirs" / "adapter_model.safetensors"))
    theirs = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert json.loads((folder / "adapter_config.json").read_text()) == theirs
    assert theirs["inference_mode"] is True
    assert run.model.peft_config["default"].inference_mode is False  # it is being trained


# --- what is refused -------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another r": ({"r": 4}, r"is F32 \(\d+, \d+\) there, and F32 \(\d+, \d+\) here"),
    "other target_modules": ({"target_modules": ["q_proj"]}, "is only in the checkpoint"),
    "another method": ({"method": "full"}, "It has no model.safetensors: it was trained with another method"),
    "dora": ({"use_dora": True}, "is only in this model"),
    "modules_to_save": ({"modules_to_save": ["embed_tokens"], "config": {"tie_word_embeddings": False}}, "is only in"),
    "another model": ({"config": {"hidden_size": 32}}, "here"),
    "another depth": ({"config": {"num_hidden_layers": 3}}, "is only in this model"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_model_is_refused_in_words_and_no_weight_is_touched(a_run, tmp_path, other):
    changes, words = OTHERS[other]
    stopped_after(a_run(r=8), 2, tmp_path / "run")
    run = a_run(**({"r": 8} | changes))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with pytest.raises(ColabMagicsError, match=words) as refused:
        put_back(run.task, run.progress, newest(tmp_path / "run"))
    assert refused.value.what == "Checkpoint 00000002-a1 does not fit this recipe's model."
    assert 3 <= len(refused.value.lines()) <= 8
    assert_same_tensors(before, run.model.state_dict())
    assert not run.task.optimizer.state
    assert run.progress.step == 0


def test_one_tensor_of_another_shape_among_many_leaves_all_as_they_were(a_run, tmp_path):
    """The last one by its place in the model: whoever copies while he looks has copied all others by then."""
    stopped_after(a_run(method="full", config={"tie_word_embeddings": False}), 2, tmp_path / "run")
    run = a_run(method="full", config={"tie_word_embeddings": False, "vocab_size": 256, "rms_norm_eps": 1e-6})
    head = run.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach()[:-1].clone())
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with pytest.raises(ColabMagicsError, match=r"lm_head\.weight is F32 \(256, 64\) there, and F32 \(255, 64\) here"):
        put_back(run.task, run.progress, newest(tmp_path / "run"))
    assert_same_tensors(before, run.model.state_dict())


def test_a_state_of_a_later_version_is_refused(a_run, tmp_path):
    stopped_after(a_run(), 2, tmp_path / "run")
    folder = newest(tmp_path / "run").folder
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"version": 2}))
    with pytest.raises(ColabMagicsError, match="written by another version of colab_magics"):
        read_saved(folder)


def test_what_is_trained_and_would_be_in_no_checkpoint_is_refused_before_the_training(a_run):
    run = a_run()
    run.lm.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(ColabMagicsError, match=r"embed_tokens\.weight is trained, and would be in no checkpoint"):
        weights_of(run.model)


# --- what is put back ------------------------------------------------------------------------------------------------


def test_a_changed_rate_and_decay_are_those_of_the_recipe(a_run, tmp_path):
    """Loading an optimizer's own state dict would silently bring back the old ones."""
    stopped_after(a_run(method="full", learning_rate=1e-2), 2, tmp_path / "run")
    run = a_run(method="full", learning_rate=3e-3, weight_decay=0.5, lr_scheduler_type="constant")
    assert put_back(run.task, run.progress, newest(tmp_path / "run")) == []
    assert [group["lr"] for group in run.task.optimizer.param_groups] == [3e-3, 3e-3]
    assert [group["weight_decay"] for group in run.task.optimizer.param_groups] == [0.5, 0.0]
    assert run.task.optimizer.state


def test_another_optimizer_begins_without_moments_and_this_is_said(a_run, tmp_path):
    stopped_after(a_run(optim="adamw_torch"), 2, tmp_path / "run")
    run = a_run(optim="adafactor")
    [said] = put_back(run.task, run.progress, newest(tmp_path / "run"))
    assert said == "the optimizer is Adafactor now, and begins without the moments of AdamW"
    assert not run.task.optimizer.state
    assert run.run().progress.step == 4


def test_another_precision_is_said(a_run, tmp_path):
    stopped_after(a_run(precision="fp16"), 2, tmp_path / "run")
    run = a_run()
    said = put_back(run.task, run.progress, newest(tmp_path / "run"))
    assert said == ["the precision is another one: the next steps differ in rounding"]


def test_optimizer_states_go_by_name_and_not_by_place(a_run, tmp_path):
    stopped = stopped_after(a_run(method="full"), 2, tmp_path / "run")
    run = a_run(method="full")
    for group in run.task.optimizer.param_groups:
        group["params"].reverse()
    put_back(run.task, run.progress, newest(tmp_path / "run"))
    assert_same_tensors(tensors_of(run), tensors_of(stopped))


def test_python_and_numpy_draw_on_where_they_were(a_run, tmp_path):
    run = a_run()
    random.seed(5)
    random.gauss(0, 1)  # it keeps a second one for the next call
    np.random.seed(5)
    np.random.standard_normal()
    train_with(run, saver_of(run, tmp_path / "run"), lambda: "stop" if run.progress.step == 1 else None)
    expected = (torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist())
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    again = a_run()
    put_back(again.task, again.progress, newest(tmp_path / "run"))
    assert (torch.rand(3).tolist(), random.gauss(0, 1), np.random.standard_normal(3).tolist()) == expected


def test_nothing_that_was_read_is_bound_to_its_file(a_run, tmp_path):
    """A mapped file that is deleted and overwritten by a full disk's neighbour would change the moments."""
    stopped = stopped_after(a_run(), 2, tmp_path / "run")
    run = a_run()
    saved = newest(tmp_path / "run")
    put_back(run.task, run.progress, saved)
    for path in saved.folder.glob("*.safetensors"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same_tensors(tensors_of(run), tensors_of(stopped))


def test_the_hosts_copies_are_made_in_the_memory_of_the_time_before():
    copies, live = HostCopies(), {"a": torch.arange(4.0), "b": torch.ones(2, 3)}
    first = copies.of(live)
    places = {name: tensor.data_ptr() for name, tensor in first.items()}
    live["a"] += 1
    second = copies.of(live)
    assert {name: tensor.data_ptr() for name, tensor in second.items()} == places
    assert_same_tensors(second, live)
    grown = copies.of({"a": torch.zeros(5), "b": live["b"]})
    assert grown["a"].shape == (5,)
    assert grown["b"].data_ptr() == places["b"]


def test_a_snapshot_does_not_change_what_it_copies(a_run):
    run = a_run(lora_dropout=0.2).run()
    before = {name: tensor.clone() for name, tensor in tensors_of(run).items()}
    drawn = torch.get_rng_state()
    snapshot = take(run.task, run.progress, HostCopies(), facts={"clock": "noon"})
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_same_tensors(tensors_of(run), before)
    assert snapshot.state["clock"] == "noon"
    assert snapshot.bytes == sum(one.nbytes for one in (*snapshot.weights.values(), *snapshot.others.values()))
    assert configs_of(run.model).keys() == {"adapter_config.json"}


def test_a_parameter_that_no_step_has_reached_yet_is_put_back_without_states(a_run, tmp_path):
    run = a_run()
    train_with(run, saver_of(run, tmp_path / "run", every=Every(steps=1)), lambda: "stop-now")
    assert run.progress.step == 0
    again = a_run()
    assert put_back(again.task, again.progress, newest(tmp_path / "run")) == []
    assert not again.task.optimizer.state


def test_no_folder_outside_of_the_checkpoints_is_written(a_run, tmp_path):
    stopped_after(a_run(), 2, tmp_path / "run")
    files = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.parts[:2] for path in files} == {("checkpoints", "00000002-a1")}
    assert not [path for path in Path(tmp_path).iterdir() if path.name != "run"]
