"""`%checkpoint import`: from another trainer's folder to a run that trains on from it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from colab_magics.checkpoints.verify import entries
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.again import Begin, decide
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_line import read_line
from colab_magics.magics.options import Options
from colab_magics.recipe import Recipe, parse
from colab_magics.run import Run

from .checkpointed import tree
from .conftest import ROWS, Home, Kernel

CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["v_proj", "q_proj"],
    "use_dora": True,
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """As a Trainer leaves it, of two tiny matrices."""
    from checkpoints.test_foreign import numbers, write

    folder = tmp_path / "outputs" / "checkpoint-500"
    folder.mkdir(parents=True)
    name = "base_model.model.model.layers.0.q_proj.lora_{}.weight"
    write(folder / "adapter_model.safetensors", {name.format("A"): numbers(8, 4), name.format("B"): numbers(6, 8)})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "trainer_state.json").write_text('{"global_step": 500, "max_steps": 1500, "train_batch_size": 2}')
    return folder


def imported(root: Path, line: str) -> list[str]:
    return perform(read_line(line), root)["text/plain"].splitlines()


def test_the_cell_to_paste_has_what_the_adapter_decides_and_no_more(foreign: Path, tmp_path: Path) -> None:
    lines = imported(tmp_path / "runs", f"import {foreign} old")
    assert lines == [
        "Imported checkpoint-500 as old: step 500 of 1,500, LoRA adapter, 320 bytes, without the optimizer's moments.",
        "Begin from it with this cell; data is yours to fill in:",
        "",
        "%%finetune old",
        "model: org/base",
        "method: auto",
        "r: 8",
        "lora_alpha: 32",
        "lora_dropout: 0.05",
        "target_modules: [q_proj, v_proj]",
        "use_dora: true",
        "max_steps: 1500",
        "# effective_batch_size: 2 x its gradient_accumulation_steps; 16 without it",
        "data: …",
    ]
    body = "\n".join(lines[4:]).replace("…", "rows.jsonl")
    recipe = parse(body, {}, namespace={}).recipe
    assert (recipe.r, recipe.lora_alpha, recipe.lora_dropout, recipe.use_dora) == (8, 32, 0.05, True)
    assert (recipe.target_modules, recipe.max_steps) == (["q_proj", "v_proj"], 1500)


def test_a_run_that_had_done_all_its_steps_is_given_as_many_again(foreign: Path, tmp_path: Path) -> None:
    (foreign / "trainer_state.json").write_text('{"global_step": 500, "max_steps": 500}')
    lines = imported(tmp_path / "runs", f"import {foreign} old")
    assert "It had done all of its steps: max_steps below is for 500 more." in lines
    assert "max_steps: 1000" in lines


def test_the_cell_of_that_name_begins_from_it_and_resume_says_to_run_it(foreign: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    imported(root, f"import {foreign} old")
    recipe = Recipe(model="org/base", data="rows.jsonl")
    said = "old begins from the checkpoint that was imported, at step 500."
    assert decide("old", root, recipe, {}, Options(name="old")) == Begin("old", said, resume=root / "old/checkpoints")
    fork = decide("old", root, recipe, {}, Options(name="old", fork="new"))
    assert fork == Begin("new", "new begins where old stands, at step 500.", resume=root / "old/checkpoints")


@pytest.mark.parametrize("taken", ["a run", "a file", "a link"])
def test_a_name_that_is_taken_is_refused(foreign: Path, tmp_path: Path, taken: str) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    match taken:
        case "a run":
            imported(root, f"import {foreign} old")
        case "a file":
            (root / "old").write_text("mine")
        case "a link":
            (root / "old").symlink_to(tmp_path / "nowhere")
    before = tree(root)
    with pytest.raises(ColabMagicsError, match="There is a run old already"):
        imported(root, f"import {foreign} old")
    assert tree(root) == before


@pytest.mark.parametrize("name", ["../old", ".old", "list", "a/b"])
def test_a_name_that_no_run_may_have_is_refused(foreign: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ColabMagicsError, match="cannot be"):
        imported(tmp_path / "runs", f"import {foreign} {name}")
    assert sorted(os.listdir(tmp_path)) == ["outputs"]


def test_what_is_refused_leaves_no_trace(foreign: Path, tmp_path: Path) -> None:
    before = tree(foreign)
    with pytest.raises(ColabMagicsError, match=r"checkpoint-500 has no optimizer\.pt"):
        imported(tmp_path / "runs", f"import {foreign} old --trust-pickle")
    assert not (tmp_path / "runs").exists()
    assert tree(foreign) == before


def test_an_imported_adapter_is_trained_on_to_the_end(kernel: Kernel, home: Home) -> None:
    pytest.importorskip("torch")
    shutil.copyfile(ROWS, home.folder / "rows.jsonl")
    common = "model: demo\ndata: rows.jsonl\neffective_batch_size: 4\n"
    first = kernel.run(f"%%finetune first\n{common}r: 4\nmax_steps: 3")
    assert first.status == "ok", first.traceback
    checkpoint = Path(shutil.copytree(home.runs / "first" / "adapter", home.folder / "outputs" / "checkpoint-3"))
    (checkpoint / "trainer_state.json").write_text('{"global_step": 3, "max_steps": 6}')

    said = kernel.run("%checkpoint import outputs/checkpoint-3 old")
    assert said.status == "ok", said.traceback
    assert "Imported checkpoint-3 as old: step 3 of 6" in said.text
    nothing = kernel.run("%checkpoint resume old")
    assert "old was imported, and has no recipe yet" in "\n".join(nothing.traceback)

    wrong = kernel.run(f"%%finetune old\n{common}r: 4\nlora_alpha: 64\nmax_steps: 6")
    assert "Set lora_alpha: 8." in "\n".join(wrong.traceback)
    short = kernel.run(f"%%finetune old\n{common}r: 4\nmax_steps: 3")
    assert "Set max_steps: 6 for 3 more" in "\n".join(short.traceback)
    assert not (home.runs / "old" / "events.jsonl").exists(), "what is refused changes nothing"

    body = said.text[said.text.index("%%finetune old") :].replace("…", "rows.jsonl")
    reply = kernel.run(f"{body.strip()}\neffective_batch_size: 4")
    assert reply.status == "ok", reply.traceback
    (resumed,) = [event for event in home.events("old") if event["kind"] == "resumed"]
    assert (resumed["step"], resumed["exact"]) == (3, False)
    assert [event["step"] for event in home.events("old") if event["kind"] == "step"] == [4, 5, 6]
    run = Run(home.runs / "old")
    found = entries(run.checkpoints, run=run.id)
    assert [entry.name for entry in found] == ["00000006-a1", "00000003-a0"]
    assert not [entry.broken for entry in found if entry.broken]
    # and it is a run like any other from then on
    again = kernel.run(f"{body.strip()}\neffective_batch_size: 4")
    assert "has been trained with this recipe and data" in again.text
    # killed before its first own checkpoint, it goes on from the imported one, which it has kept
    shutil.rmtree(run.checkpoints / "00000006-a1")
    log = run.folder / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if json.loads(line)["kind"] not in ("checkpoint", "finished")))
    assert "after   outputs/checkpoint-3" in kernel.run("%checkpoint show old").text
    reply = kernel.run("%checkpoint resume old")
    assert reply.status == "ok", reply.traceback
    resumed = [event for event in home.events("old") if event["kind"] == "resumed"]
    assert [(event["attempt"], event["step"], event["lost_steps"]) for event in resumed] == [(1, 3, 0), (2, 3, 3)]
    told = [(event["step"], event["loss"]) for event in home.events("old") if event["kind"] == "step"]
    assert told[:3] == told[3:]
