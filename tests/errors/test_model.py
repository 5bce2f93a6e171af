"""What can be wrong with the model and with the place for the result: found before a weight is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import DEMO, ROWS, SHORT, Notebook

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("errors")]

BERT = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 99, "hidden_size": 8}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 99, "d_model": 8}
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
QWEN = json.loads((DEMO / "model" / "config.json").read_text())


def a_model(notebook: Notebook, name: str, config: object, weights: str = "model.safetensors") -> None:
    """A folder that looks like a model; what is wrong with it is found without reading the weights."""
    folder = notebook.folder / name
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for file in (DEMO / "model").glob("tokenizer*"):
        shutil.copy(file, folder)
    if weights:
        (folder / weights).write_bytes(b"these are no weights, and nobody may read them")


def refused(notebook: Notebook, model: str, *facts: str, more: str = "") -> None:
    said = notebook.refuses(f"%%finetune run\nmodel: {model}\ndata: {ROWS}\n{more}", *facts)
    assert said.frames[-1]["text/plain"].startswith("run: failed") or "failed" in said.frames[-1]["text/plain"]


def test_a_folder_that_is_not_there(notebook: Notebook) -> None:
    refused(notebook, "./nowhere", "./nowhere", "folder", "demo")


def test_a_folder_without_a_model(notebook: Notebook) -> None:
    (notebook.folder / "empty").mkdir()
    refused(notebook, "./empty", "./empty", "config.json")


def test_a_config_that_cannot_be_read(notebook: Notebook) -> None:
    a_model(notebook, "broken", "{not json")
    refused(notebook, "./broken", "./broken", "config")


def test_an_architecture_that_is_not_known(notebook: Notebook) -> None:
    a_model(notebook, "strange", {"model_type": "strangest", "architectures": ["StrangestForCausalLM"]})
    refused(notebook, "./strange", "./strange", "strangest", "transformers")


def test_a_model_that_is_no_causal_language_model(notebook: Notebook) -> None:
    a_model(notebook, "bert", BERT | SIZES)
    refused(notebook, "./bert", "not a causal language model", "BertModel", "ForCausalLM")
    a_model(notebook, "t5", T5)
    refused(notebook, "./t5", "not a causal language model", "T5ForConditionalGeneration")


def test_weights_that_are_pickles(notebook: Notebook) -> None:
    a_model(notebook, "pickled", QWEN, weights="pytorch_model.bin")
    refused(notebook, "./pickled", "pytorch_model.bin", "any code", "allow_pickle")


def test_no_weights_at_all(notebook: Notebook) -> None:
    a_model(notebook, "hollow", QWEN, weights="")
    refused(notebook, "./hollow", "no weights", ".safetensors")
    a_model(notebook, "gguf", QWEN, weights="model-Q4.gguf")
    refused(notebook, "./gguf", "GGUF")


def test_code_of_its_own_is_not_run_unless_it_is_named(notebook: Notebook) -> None:
    code = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
    a_model(notebook, "own", code)
    (notebook.folder / "own" / "own.py").write_text("open('it-was-run', 'w')\n")
    refused(notebook, "./own", "its own code", "trust_remote_code: true")


def test_a_model_without_a_tokenizer(notebook: Notebook) -> None:
    a_model(notebook, "mute", QWEN)
    for file in (notebook.folder / "mute").glob("tokenizer*"):
        file.unlink()
    refused(notebook, "./mute", "tokenizer of ./mute")


def test_target_modules_that_do_not_exist_are_named_with_those_that_do(notebook: Notebook) -> None:
    refused(notebook, "demo", "no qproj", "q_proj", "down_proj", "all-linear", more="target_modules: [qproj, v_proj]")


def test_html_and_escape_sequences_in_a_models_name_are_only_text(notebook: Notebook) -> None:
    for name in ("./<b>bold<!--", "./\x1b[31mred", "<script>alert(1)</script>", "\x1b]0;title\x07x"):
        said = notebook.refuses(f"%%finetune run\nmodel: {json.dumps(name)}\ndata: {ROWS}")
        assert "\x1b" not in said.shown
        assert "\x07" not in said.shown
        html = "".join(frame.get("text/html", "") for frame in said.frames)
        assert not any(tag in html for tag in ("<b>", "<script", "<!--"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_too_full_for_the_result(notebook: Notebook, small_disk: Path) -> None:
    cell = f"%%finetune run --root {small_disk}\nmodel: demo\ndata: {ROWS}\n{SHORT}"
    notebook.refuses(cell, str(small_disk), "too full", "MiB", "--root")
    assert list(small_disk.iterdir()) == []


def test_a_disk_on_which_not_even_the_recipe_can_be_written(notebook: Notebook, small_disk: Path) -> None:
    (small_disk / "rubbish").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    cell = f"%%finetune run --root {small_disk}\nmodel: demo\ndata: {ROWS}\n{SHORT}"
    notebook.refuses(cell, "disk", str(small_disk), "--root")
    assert [path.name for path in small_disk.iterdir()] == ["rubbish"]


@pytest.mark.skipif(os.geteuid() != 0, reason="/proc is not writable by anybody, but only root is not told so")
def test_a_root_in_which_nothing_can_be_made(notebook: Notebook) -> None:
    notebook.refuses(f"%%finetune run --root /proc/runs\nmodel: demo\ndata: {ROWS}", "/proc/runs", "--root")
    (notebook.folder / "file").touch()
    notebook.refuses(f"%%finetune run --root file\nmodel: demo\ndata: {ROWS}", "file", "--root")
