"""A checkpoint of transformers' Trainer is imported and trained on, with real libraries on both sides."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trained, documents
from continued import NEVER, newest, saver_of, train_with

from colab_magics.checkpoints.foreign import look, take, unpickled
from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_line import read_line
from colab_magics.recipe import Recipe
from colab_magics.training import imported
from colab_magics.training.foreign import check_torch
from colab_magics.training.source import open_model
from colab_magics.training.state import Saved, read_saved, tensor_of

RUN = "0123456789abcdef"
STEPS = 4


@dataclass(frozen=True)
class Theirs:
    """What transformers' Trainer has left, the model's folder, and the moments that it had, by parameter."""

    checkpoint: Path
    base: Path
    moments: dict[str, dict[str, torch.Tensor]]


class _Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.rows = [torch.from_numpy(tokens[:4].astype(np.int64)) for tokens, _ in documents(16)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def trained_by_transformers(base: Path, folder: Path, **lora: Any) -> Theirs:
    """Four steps of the real Trainer; without `lora` full fine-tuning."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if lora:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        save_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        weight_decay=0.1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=_Rows())
    trainer.train()
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # inside of accelerate's
    moments = {name: optimizer.state[one] for name, one in model.named_parameters() if one.requires_grad}
    return Theirs(folder / f"checkpoint-{STEPS}", base, moments)


LORA = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def theirs(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return trained_by_transformers(make_model(), tmp_path_factory.mktemp("outputs"), **LORA)


@pytest.fixture
def copied(theirs: Theirs, tmp_path: Path) -> Path:
    """One that a test may spoil."""
    return Path(shutil.copytree(theirs.checkpoint, tmp_path / theirs.checkpoint.name))


def taken(checkpoint: Path, folder: Path, *, trust_pickle: bool = False) -> Saved:
    """The checkpoint of ours that the import makes."""
    (folder / "checkpoints").mkdir(parents=True)
    foreign = look(checkpoint)
    moments = unpickled(foreign, folder / "scratch") if trust_pickle else None
    take(foreign, folder / "checkpoints", name=folder.name, run=RUN, moments=moments)
    return newest(folder)


def begun(run: Trained, saved: Saved) -> list[str]:
    return imported.begin(run.task, run.progress, saved, run.recipe)


def as_the_recipe(theirs: Theirs) -> dict[str, Any]:
    return {**LORA, "max_steps": 8, "effective_batch_size": 4, "optim": "adamw_torch_fused"}


def test_the_first_loss_is_the_one_that_peft_computes_from_the_same_folder(
    theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM

    run = tiny_run(**as_the_recipe(theirs))
    begun(run, taken(theirs.checkpoint, tmp_path / "run"))
    peft = AutoPeftModelForCausalLM.from_pretrained(theirs.checkpoint, dtype=torch.float32)
    ids = next(ids for _, ids in run.task.order.steps(STEPS, STEPS + 1))
    losses, count = 0.0, 0
    for id_ in ids:
        tokens, trained = run.task.documents[id_]
        row = torch.from_numpy(tokens.astype(np.int64))[None]
        with torch.no_grad():
            scores = peft(input_ids=row).logits[0, :-1].float()
        wanted = torch.from_numpy(trained[1:].copy())
        losses += float(torch.nn.functional.cross_entropy(scores[wanted], row[0, 1:][wanted], reduction="sum"))
        count += int(wanted.sum())
    run.run()
    assert [event["step"] for event in run.told("step")] == [5, 6, 7, 8]
    assert run.losses[0] == pytest.approx(losses / count, rel=1e-5)
    plain = tiny_run(**as_the_recipe(theirs)).run()
    assert run.losses[0] != pytest.approx(plain.losses[0], rel=1e-3)


@pytest.mark.parametrize(
    "more", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["lora", "dora", "head"]
)
def test_with_trust_pickle_the_moments_are_those_that_the_trainer_had(
    make_model: Callable[..., Path], tiny_run: Callable[..., Trained], tmp_path: Path, more: dict[str, Any]
) -> None:
    theirs = trained_by_transformers(make_model(), tmp_path / "outputs", **LORA, **more)
    run = tiny_run(**as_the_recipe(theirs), **more)
    saved = taken(theirs.checkpoint, tmp_path / "run", trust_pickle=True)
    imported.check_recipe(saved, run.source, run.recipe)
    differs = begun(run, saved)
    assert any("has the imported moments" in line for line in differs), differs
    assert_same_moments(run, theirs)
    run.run()
    assert [event["step"] for event in run.told("step")] == [5, 6, 7, 8]


def assert_same_moments(run: Trained, theirs: Theirs) -> None:
    trained = {name: parameter for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert trained.keys() == theirs.moments.keys()
    for name, parameter in trained.items():
        ours = run.task.optimizer.state[parameter]
        assert ours.keys() == theirs.moments[name].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[key], value) for key, value in theirs.moments[name].items()), name


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_bomb_is_refused_and_does_not_go_off(copied: Path, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    torch.save({"state": {}, "param_groups": [], "more": _Bomb(crater)}, copied / "optimizer.pt")
    with pytest.raises(ColabMagicsError) as refused:
        taken(copied, tmp_path / "run", trust_pickle=True)
    assert str(refused.value).splitlines()[:2] == [
        "optimizer.pt was refused.",
        "It holds more than tensors and numbers; none of it was run.",
    ]
    assert not crater.exists()
    torch.load(copied / "optimizer.pt", weights_only=False)
    assert crater.exists(), "the bomb was none"


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"state": {}, "param_groups": "none"}, "It is no optimizer's state_dict."),
        ({"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"params": [0]}]}, "another optimizer"),
        ({"state": {7: {}}, "param_groups": [{"params": [0]}]}, "another optimizer"),
        ([1, 2], "It is no optimizer's state_dict."),
    ],
)
def test_what_is_no_adamw_is_refused_in_words(copied: Path, tmp_path: Path, planted: Any, why: str) -> None:
    torch.save(planted, copied / "optimizer.pt")
    with pytest.raises(ColabMagicsError, match=why):
        taken(copied, tmp_path / "run", trust_pickle=True)


def test_an_archive_that_unpacks_to_more_is_not_unpacked(copied: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(copied / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**27))
    with pytest.raises(ColabMagicsError, match="It unpacks to more"):
        taken(copied, tmp_path / "run", trust_pickle=True)


def test_moments_of_other_parameters_are_left_out_and_that_is_said(
    theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    saved = taken(theirs.checkpoint, tmp_path / "run", trust_pickle=True)
    state = json.loads((saved.folder / "state.json").read_text())
    state["imported"]["groups"] = [6, 2]
    run = tiny_run(**as_the_recipe(theirs))
    differs = begun(run, Saved(saved.folder, state))
    assert any(line.startswith("the optimizer begins without moments: those imported are of 8") for line in differs)
    assert not run.task.optimizer.state


def test_the_schedule_and_the_samples_go_on_from_the_step(
    theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    run, plain = tiny_run(**as_the_recipe(theirs)), tiny_run(**as_the_recipe(theirs)).run()
    begun(run, taken(theirs.checkpoint, tmp_path / "run"))
    run.run()
    assert run.progress.samples == plain.progress.samples
    rates = [[event["learning_rate"] for event in one.told("step")] for one in (run, plain)]
    assert rates[0] == rates[1][STEPS:]


def test_weights_in_16_bit_are_cast_and_that_is_said(
    copied: Path, theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = copied / "adapter_model.safetensors"
    half = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(half, path)
    run = tiny_run(**as_the_recipe(theirs))
    differs = begun(run, taken(copied, tmp_path / "run"))
    assert "its weights are BF16 there, and F32 here" in differs
    live = {n.replace(".default", ""): p for n, p in run.model.named_parameters() if p.requires_grad}
    assert all(
        torch.equal(live[name], tensor.float()) and live[name].dtype == torch.float32 for name, tensor in half.items()
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_alpha": 32}, "Set lora_alpha: 12."),
        ({"r": 8, "use_rslora": True}, "Set r: 4, use_rslora: false."),
        ({"target_modules": "all-linear"}, "Set target_modules: q_proj, v_proj."),
        ({"modules_to_save": ["lm_head"]}, "Set modules_to_save: null."),
        ({"method": "full"}, "Set method: lora, or qlora."),
    ],
)
def test_a_recipe_that_would_make_another_adapter_of_it_is_refused_before_weights_are_loaded(
    theirs: Theirs, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    saved = taken(theirs.checkpoint, tmp_path / "run")
    recipe = Recipe(**({"model": str(theirs.base), "data": "rows", "method": "lora", **LORA} | changes))
    with pytest.raises(ColabMagicsError) as refused:
        imported.check_recipe(saved, open_model(recipe), recipe)
    assert refused.value.next_steps[0] == said


def test_another_base_model_is_refused_before_its_weights_are_loaded(
    theirs: Theirs, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    saved = taken(theirs.checkpoint, tmp_path / "run")
    other = make_model("qwen3", hidden_size=32)
    recipe = Recipe(model=str(other), data="rows", method="lora", **LORA)
    with pytest.raises(ColabMagicsError, match="The imported adapter was made for another model"):
        imported.check_recipe(saved, open_model(recipe), recipe)


def test_a_recipe_that_ends_before_the_step_says_what_to_set(
    theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    saved = taken(theirs.checkpoint, tmp_path / "run")
    with pytest.raises(ColabMagicsError) as refused:
        imported.check_steps(saved, tiny_run(**{**as_the_recipe(theirs), "max_steps": 3}).plan)
    assert refused.value.next_steps == ("Set max_steps: 7 for 3 more, or raise num_train_epochs.",)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [("qwen3", {}), ("qwen3", {"tie_word_embeddings": True}), ("gpt2", {})],
    ids=["qwen3", "tied", "gpt2"],
)
def test_a_full_model_and_its_moments_in_two_groups_are_taken_over(
    make_model: Callable[..., Path],
    tiny_run: Callable[..., Trained],
    tmp_path: Path,
    model_type: str,
    config: dict[str, Any],
) -> None:
    theirs = trained_by_transformers(make_model(model_type, **config), tmp_path / "outputs")
    saved = taken(theirs.checkpoint, tmp_path / "run", trust_pickle=True)
    run = tiny_run(model_type, config=config, method="full", max_steps=8, effective_batch_size=4, optim="adamw_torch")
    imported.check_recipe(saved, run.source, run.recipe)
    differs = begun(run, saved)
    assert any("has the imported moments" in line for line in differs), differs
    assert_same_moments(run, theirs)
    assert all((saved.imported or {})["groups"]), "both groups have something"
    written = read_tensors(theirs.checkpoint / "model.safetensors")
    assert all(torch.equal(run.model.get_parameter(name), tensor_of(one)) for name, one in written.items())


def test_the_line_takes_the_moments_along_and_leaves_nothing_else(theirs: Theirs, tmp_path: Path) -> None:
    said: list[str] = []
    line = read_line(f"import {theirs.checkpoint} old --trust-pickle")
    shown = perform(line, tmp_path / "runs", said=said.append)["text/plain"]
    assert "a pickle, in a process of its own" in said[0]
    assert "with the optimizer's moments." in shown.splitlines()[0]
    assert os.listdir(tmp_path / "runs") == ["old"]
    assert os.listdir(tmp_path / "runs" / "old") == ["checkpoints"]
    (checkpoint,) = (tmp_path / "runs" / "old" / "checkpoints").iterdir()
    assert "optimizer.safetensors" in os.listdir(checkpoint)


def test_what_follows_is_a_checkpoint_like_any_other(
    theirs: Theirs, tiny_run: Callable[..., Trained], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = tiny_run(**as_the_recipe(theirs))
    begun(run, taken(theirs.checkpoint, folder))
    saver = saver_of(run, folder, every=NEVER)
    train_with(run, saver, lambda: "stop" if run.progress.step == STEPS + 2 else None)
    saved = newest(folder)
    assert saved.folder.name == f"{STEPS + 2:08d}-a1"
    assert read_saved(saved.folder).imported is None


@pytest.mark.parametrize(("version", "good"), [("2.9.1", False), ("2.10.0+cpu", True), ("2.13.0+cu130", True)])
def test_an_older_torch_is_not_trusted_with_a_pickle(version: str, good: bool) -> None:
    if good:
        check_torch(version)
        return
    with pytest.raises(ColabMagicsError, match=r"--trust-pickle needs torch 2\.10 or newer; this is 2\.9\.1"):
        check_torch(version)
