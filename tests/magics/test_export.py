"""`%export`: our own list of files, whole or not at all, and a merge in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from disks import small_disk

from colab_magics.checkpoints.tensors import laid_out
from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import download, export_merge
from colab_magics.magics.export import perform
from colab_magics.magics.export_earlier import LOG
from colab_magics.magics.export_files import allowed
from colab_magics.magics.export_gguf import convert
from colab_magics.magics.export_line import read
from colab_magics.recipe import Recipe
from colab_magics.sizes import size

from .checkpointed import Left, tensor, tree, truncate

pytestmark = [pytest.mark.colab, pytest.mark.face]

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the notebook's face has no torch")
TOKEN = "hf_" + "T" * 34
SECRETS = (
    ".env",
    "token",
    "credentials.json",
    "optimizer.pt",
    "training_args.bin",
    "events.jsonl",
    "id_rsa",
    "notes.md",
)


def weights(said: str = "") -> bytes:
    """A file of weights, with a text among its metadata."""
    return b"".join(laid_out({"layers.0.q_proj.lora_A.weight": tensor(1, 2)}, {"said": said}))


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """A run with a result beside which lies what is nobody's business."""
    left = Left(tmp_path / "runs", recipe=Recipe(model="demo", data="rows.jsonl"))
    left.tell("finished", step=40, reason="completed", path=str(left.folder / "adapter"))
    adapter = left.folder / "adapter"
    adapter.mkdir()
    (adapter / "README.md").write_text(f"---\nbase_model: demo\n---\n\n# demo, fine-tuned\n\ndata: s3://k:{TOKEN}\n")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": f"https://me:{TOKEN}@x/y"}))
    (adapter / "adapter_model.safetensors").write_bytes(weights(TOKEN))  # bytes are bytes
    (adapter / "tokenizer.json").write_text("{}")
    for name in SECRETS:
        (adapter / name).write_text(TOKEN)
    (adapter / "sub").mkdir()
    (adapter / "sub" / "config.json").write_text("{}")
    (adapter / "vocab.json").symlink_to(adapter / ".env")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    return left


def export(left: Left, *words: str, **how: Any) -> list[str]:
    return perform(read(words), left.root, **how)["text/plain"].splitlines()


def refused(left: Left, *words: str) -> str:
    """What is said of an export that must leave nothing behind."""
    before = tree(left.root.parent)
    with pytest.raises(ColabMagicsError) as raised:
        export(left, *words)
    assert tree(left.root.parent) == before
    assert raised.value.next_steps, "nothing says what to do next"
    return str(raised.value)


def test_our_own_list_of_files_leaves_and_nothing_else(left: Left, tmp_path: Path) -> None:
    export(left, "--to", "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert not any(map(allowed, (*SECRETS, "../config.json", "sub/config.json", "model.safetensors.py", ".README.md")))


def test_secrets_in_texts_are_cut_and_weights_are_left_alone(left: Left, tmp_path: Path) -> None:
    export(left, "--to", "out")
    for name in ("README.md", "adapter_config.json"):
        assert TOKEN not in (tmp_path / "out" / name).read_text()
    source = left.folder / "adapter" / "adapter_model.safetensors"
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == source.read_bytes()


def test_an_archive_is_the_default_and_the_same_bytes_every_time(left: Left, tmp_path: Path) -> None:
    said = export(left)
    first = (tmp_path / "kwanzaa-adapter.zip").read_bytes()
    assert said[0] == f"Exported the adapter of kwanzaa, {size(len(first))}: {tmp_path}/kwanzaa-adapter.zip"
    for path in (left.folder / "adapter").iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    export(left, "--force")
    assert (tmp_path / "kwanzaa-adapter.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "kwanzaa-adapter.zip") as archive:
        assert archive.testzip() is None
        assert {name.partition("/")[0] for name in archive.namelist()} == {"kwanzaa-adapter"}


def test_what_is_there_is_replaced_by_force_alone_and_only_if_it_is_ours(left: Left, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").write_text("mine")
    said = refused(left, "--to", "out")
    assert "is there already" in said
    assert "--force" not in said, "it would not help"
    assert "no export of ours" in refused(left, "--to", "out", "--force")
    shutil.rmtree(tmp_path / "out")
    export(left, "--to", "out")
    (tmp_path / "out" / "notes.md").write_text("mine")
    assert "is there already" in refused(left, "--to", "out")
    export(left, "--to", "out", "--force")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("mine")
    assert "no export of ours" in refused(left, "--to", "thesis", "--force")


def test_a_base_that_is_a_folder_is_named_without_its_path_in_the_card(left: Left, tmp_path: Path) -> None:
    base = "/home/me/models/big"
    (left.folder / "recipe.yaml").write_text(Recipe(model=base, data="rows.jsonl").to_yaml())
    adapter = left.folder / "adapter"
    card = f"---\nbase_model: {base}\nlibrary_name: peft\n---\n\n# {base}, fine-tuned\n\n## Recipe\n\nmodel: {base}\n"
    (adapter / "README.md").write_text(card)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    said = export(left, "--to", "out")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "# big, fine-tuned" in readme
    assert "base_model:" not in readme
    assert f"model: {base}" in readme, "the recipe is what was asked for"
    # here it must load as it stands
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    assert any(f"names the base as a folder of this machine, {base}" in line for line in said)
    left.save(20)
    export(left, "--checkpoint", "20", "--to", "step")
    assert "An adapter for `big`" in (tmp_path / "step" / "README.md").read_text()


def test_that_the_demo_lies_in_a_folder_of_this_machine_is_told(left: Left) -> None:
    config = left.folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(model_path())}))
    (line,) = [line for line in export(left, "--to", "out") if "names the base" in line]
    assert line == (
        "Its adapter_config.json names the base as a folder of this machine, that of colab_magics's demo: elsewhere, "
        "set base_model_name_or_path to where it is."
    )


@pytest.mark.parametrize("to", ["out", "out.zip"])
def test_the_same_export_a_second_time_is_already_there(left: Left, tmp_path: Path, to: str) -> None:
    export(left, "--to", to)
    before = tree(tmp_path)
    shown = perform(read(["--to", to]), left.root, in_kernel=True)
    (line,) = shown["text/plain"].splitlines()
    assert line.startswith(f"Already there, as it was exported: {tmp_path / to} (")
    assert tree(tmp_path) == before
    if to.endswith(".zip"):
        assert '<a href="out.zip" download="out.zip">' in shown["text/html"]


def test_another_export_of_the_run_is_replaced_by_force_alone(left: Left, tmp_path: Path) -> None:
    left.save(20)
    export(left, "--checkpoint", "20", "--to", "out.zip")
    said = refused(left, "--to", "out.zip")
    assert "is there already" in said
    assert "add --force" in said
    assert export(left, "--to", "out.zip", "--force")[0].startswith("Exported the adapter of kwanzaa")
    (left.folder / "adapter" / "adapter_model.safetensors").write_bytes(weights("trained further"))
    assert "is there already" in refused(left, "--to", "out.zip")
    export(left, "--to", "out.zip", "--force")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("out/adapter_model.safetensors") == weights("trained further")
    (left.folder / LOG).unlink()  # as of another run
    assert "is there already" in refused(left, "--to", "out.zip")


@pytest.mark.parametrize("to", ["out", "out.zip"])
def test_an_empty_folder_is_a_free_place(left: Left, tmp_path: Path, to: str) -> None:
    (tmp_path / to).mkdir()
    export(left, "--to", to)
    assert (tmp_path / to).is_file() if to.endswith(".zip") else (tmp_path / to / "adapter_config.json").is_file()
    assert sorted(os.listdir(tmp_path)) == [to, "runs"]


def test_nothing_is_exported_into_the_run_itself(left: Left) -> None:
    assert "the run's own folder" in refused(left, "--to", str(left.folder / "out"))
    assert "There is no folder" in refused(left, "--to", "drive/MyDrive/out")


def test_a_result_whose_weights_would_not_load_is_refused(left: Left) -> None:
    path = left.folder / "adapter" / "adapter_model.safetensors"
    truncate(path)
    assert "The result of kwanzaa is not whole. In " in refused(left).replace("\n", " ")
    path.write_bytes(b"")
    assert "too short for a header" in refused(left)
    path.unlink()
    left.save(20)
    said = refused(left, "--merge")
    assert "adapter_model.safetensors is missing" in said
    assert "%export kwanzaa --checkpoint 20" in said
    assert "%checkpoint verify kwanzaa looks at all" in said


def test_a_result_that_is_cut_short_is_called_so(left: Left) -> None:
    path = left.folder / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "adapter_model.safetensors: the file is cut short" in refused(left)


def test_a_whole_model_leaves_with_every_file_that_its_index_names(left: Left) -> None:
    (left.folder / "adapter").rename(left.folder / "model")
    folder = left.folder / "model"
    for path in folder.glob("adapter*"):
        path.unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    (folder / names[0]).write_bytes(weights())
    assert f"{names[1]} is missing" in refused(left)
    (folder / names[1]).write_bytes(weights())
    assert export(left)[0].startswith("Exported the model of kwanzaa")


def test_a_checkpoint_is_exported_by_its_step(left: Left, tmp_path: Path) -> None:
    left.save(20)
    assert export(left, "--checkpoint", "20")[0].startswith("Exported the adapter of step 20 of kwanzaa")
    assert (tmp_path / "kwanzaa-step-20-adapter.zip").is_file()
    assert "has no checkpoint of step 30" in refused(left, "--checkpoint", "30")


def test_a_run_without_a_result_is_told_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = Left(tmp_path / "runs")
    assert "kwanzaa has no result yet: it is unfinished." in refused(left)
    left.save(20)
    assert "%export kwanzaa --checkpoint 20" in refused(left)
    assert "There is no run called" in refused(left, "other")


def test_each_export_is_noted_in_the_run_for_its_report(left: Left) -> None:
    export(left)
    (told,) = [json.loads(line) for line in (left.folder / LOG).read_text().splitlines()]
    assert (told["what"], told["bytes"] > 0, told["to"].endswith("kwanzaa-adapter.zip")) == ("exported", True, True)


def test_a_link_with_its_size_is_offered_in_a_notebook_and_a_path_in_a_terminal(left: Left) -> None:
    shown = perform(read(["--to", "a b.zip"]), left.root, in_kernel=True)
    assert '<a href="a%20b.zip" download="a b.zip">Download a b.zip (' in shown["text/html"]
    assert "text/html" not in perform(read(["--to", "c.zip"]), left.root)
    assert "text/html" not in perform(read(["--to", "folder"]), left.root, in_kernel=True)


def test_colab_is_asked_to_download_and_where_it_cannot_the_line_is_named(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    package, files = ModuleType("google.colab"), ModuleType("google.colab.files")
    files.download = asked.append  # type: ignore[attr-defined]
    package.files = files  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setitem(sys.modules, "google.colab.files", files)
    assert "Your browser is asked to download it" in export(left, in_kernel=True)[-1]
    assert asked == [str(tmp_path / "kwanzaa-adapter.zip")]
    assert "--zip makes one file" in export(left, "--to", "out")[-1]
    monkeypatch.setattr(download, "_MOST_FOR_A_BROWSER", 10)
    assert "too large for a download through the page" in export(left, "--force")[-1]
    monkeypatch.setattr(download, "_MOST_FOR_A_BROWSER", 2**31)
    del files.download
    assert "files.download(" in export(left, "--force")[-1]


def test_on_kaggle_it_is_said_what_leaves(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert "Only what is in /kaggle/working leaves Kaggle" in export(left)[-1]


def test_gguf_needs_llama_cpps_converter_and_says_what_to_install(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    said = refused(left, "--gguf")
    assert "convert_hf_to_gguf.py is not here" in said
    assert "git clone" in said


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (b"GGUFxxxx", "the file has 8 bytes"),
        (b"GGUF" + b"x" * 60, "the file begins with b'GGUFxxxx'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 4) + bytes(64), "it holds no tensor"),
        (b"GGUF" + struct.pack("<IQQ", 3, 290, 20) + bytes(64), "88 bytes do not hold the 290 tensors"),
    ],
)
def test_what_is_no_whole_gguf_file_is_no_success(tmp_path: Path, made: bytes, why: str) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"  # takes the converter's place, and ends well
    script.write_text(f"import sys\nopen(sys.argv[3], 'wb').write({made!r})\n")
    with pytest.raises(ColabMagicsError) as raised:
        convert(script, tmp_path, tmp_path / "out.gguf", "f16")
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--merged"], "Did you mean --merge?"),
        (["--to"], "--to needs a value"),
        (["--zip=yes"], "takes no value"),
        (["a", "b"], "takes one run"),
        (["a", "--run", "b"], "takes one run"),
        (["a", "--gguf", "q4"], "It can be q8_0, f16"),
        (["--gguf", "q3_k", "a"], "It can be q8_0, f16"),
        (["--dtype", "bf16"], "goes with --merge"),
        (["--merge", "--dtype", "int8"], "fp16, bf16, fp32"),
        (["--gguf=q4"], "--gguf q4 is not known"),
        (["--checkpoint", "best"], "is no step"),
        (["--to", "hub://mine"], "names no repository"),
        (["--to", "hub://me/it", "--zip"], "the Hub takes a model's files as they are"),
        (["--public"], "goes with --to hub://"),
        (["--gguf", "--to", "model.bin"], "does not end in .gguf"),
    ],
)
def test_a_line_that_cannot_be_read_is_explained(words: list[str], said: str) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read(words)
    assert said in str(raised.value)
    assert raised.value.next_steps


def test_a_line_is_read() -> None:
    line = read("kwanzaa --merge --dtype fp16 --to=hub://me/it --public --checkpoint 1,000 # a comment".split())
    assert (line.run, line.merge, line.dtype, line.hub) == ("kwanzaa", True, "fp16", "me/it")
    assert (line.public, line.checkpoint, line.to) == (True, 1000, None)
    assert read(["--gguf", "kwanzaa"]).gguf == "q8_0"
    assert read(["--gguf", "f16", "kwanzaa"]).run == "kwanzaa"
    assert read(["a", "--gguf", "#", "q8_0?"]).gguf == "q8_0"
    assert read(["--run", "kwanzaa"]) == read(["--run=kwanzaa"]) == read(["kwanzaa"])


# --- the merge, in its own process -----------------------------------------------------------------------------------


@pytest.fixture
def adapted(left: Left) -> Left:
    """The same run with a real adapter of the demo model."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    adapter = left.folder / "adapter"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.randn(4, 192), name.format("B"): torch.randn(192, 4)}
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(model_path())}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return left


@needs_torch
def test_a_merge_gives_a_whole_model_that_loads_as_it_stands(adapted: Left, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    said = export(adapted, "--merge", "--dtype", "fp32")
    assert said[0].startswith("Merged kwanzaa into demo, fp32, ")
    out = tmp_path / "kwanzaa-merged"
    assert sorted(os.listdir(out)) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    base, merged = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model_path(), out))
    layers = [model.model.layers[0].self_attn.q_proj.weight for model in (base, merged)]
    assert not layers[0].equal(layers[1])
    assert base.model.layers[1].mlp.up_proj.weight.equal(merged.model.layers[1].mlp.up_proj.weight)
    assert "base_model: demo" in (out / "README.md").read_text()
    told = json.loads((adapted.folder / LOG).read_text().splitlines()[-1])
    assert told["what"] == "merged"
    assert told["memory"]["peak"] < 2**30
    assert export(adapted, "--merge", "--dtype", "fp32")[0].startswith("Already there, as it was exported")
    assert "is there already" in refused(adapted, "--merge", "--dtype", "bf16")
    assert export(adapted, "--merge", "--dtype", "bf16", "--force")[0].startswith("Merged kwanzaa into demo, bf16, ")


@needs_torch
def test_a_merge_as_an_archive_leaves_the_archive_alone(adapted: Left, tmp_path: Path) -> None:
    export(adapted, "--merge", "--zip")
    export(adapted, "--merge", "--to", "other.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kwanzaa-merged.zip", "other.zip", "runs"]
    assert zipfile.is_zipfile(tmp_path / "other.zip")


@needs_torch
def test_a_gguf_is_made_of_the_merged_model_by_the_converter_that_is_there(
    adapted: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "llama.cpp" / "convert_hf_to_gguf.py"
    script.parent.mkdir()
    # takes the converter's place: its words, and whether what it is given is a whole model
    script.write_text(
        "import sys, json, pathlib\n"
        "model, out, kind = pathlib.Path(sys.argv[1]), sys.argv[3], sys.argv[5]\n"
        "assert (model / 'config.json').is_file() and (model / 'tokenizer.json').is_file()\n"
        "head = b'GGUF' + (3).to_bytes(4, 'little') + (1).to_bytes(8, 'little') * 2\n"
        "pathlib.Path(out).write_bytes(head + kind.encode() + bytes(64))\n"
    )
    monkeypatch.setenv("LLAMA_CPP", str(script.parent))
    assert "Converted kwanzaa to GGUF, f16" in export(adapted, "--gguf", "f16")[0]
    assert (tmp_path / "kwanzaa-f16.gguf").read_bytes()[24:27] == b"f16"
    assert "Already there" in export(adapted, "--gguf", "f16")[0]
    assert "Converted" in export(adapted, "--gguf", "f16", "--force")[0]
    assert "add --force" in refused(adapted, "--gguf", "q8_0", "--to", "kwanzaa-f16.gguf")
    assert "Converted" in export(adapted, "--gguf", "q8_0", "--to", "kwanzaa-f16.gguf", "--force")[0]
    script.write_text("import sys; sys.exit('ERROR: Model OwnForCausalLM is not supported')")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ColabMagicsError, match="OwnForCausalLM is not supported"):
        export(adapted, "--gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@needs_torch
def test_an_adapter_for_another_base_is_refused_with_both_shapes(adapted: Left, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    other = tmp_path / "other"
    other.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(64, 48)}, other / "model.safetensors")
    (other / "config.json").write_text("{}")
    said = refused(adapted, "--merge", "--base", str(other))
    assert f"The adapter is not for {other}." in said
    gone = refused(adapted, "--merge", "--base", "/nonexistent")
    assert "There is no folder /nonexistent.\nIt is what --base names." in gone
    assert "192 × 192; that of" in said
    assert "64 × 48" in said


@needs_torch
def test_a_base_that_was_written_after_the_run_began_is_told(
    adapted: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_path(), base)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base)}
    (adapted.folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (adapted.folder / "recipe.yaml").write_text(Recipe(model=str(base), data="rows.jsonl").to_yaml())
    os.utime(base / "model.safetensors", (1, 1))
    export(adapted, "--merge")
    assert "was written after" not in capsys.readouterr().out
    (base / "model.safetensors").touch()
    assert "is there already" in refused(adapted, "--merge")  # of other weights, perhaps: no more the same
    assert export(adapted, "--merge", "--force")[0].startswith("Merged")
    assert f"{base} was written after kwanzaa had begun" in capsys.readouterr().out


@needs_torch
def test_a_full_disk_is_found_before_the_merge_starts(adapted: Left, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m"):
        with pytest.raises(ColabMagicsError) as raised:
            export(adapted, "--merge", "--to", str(tmp_path / "disk" / "out"))
        said = str(raised.value)
        assert f"The disk of {tmp_path / 'disk'} is too full for the merged model" in said
        assert "8,388,608 (8.0 MiB) are free" in said
        assert "It needs 70," in said
        assert "3.5 MiB for the model, with 64.0 MiB in reserve" in said
        assert list((tmp_path / "disk").iterdir()) == []


@needs_torch
def test_a_quantised_base_names_where_its_16_bits_are_or_says_what_to_do(adapted: Left, tmp_path: Path) -> None:
    base = tmp_path / "base-bnb-4bit"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"quantization_config": {"load_in_4bit": True}}))
    (base / "model.safetensors").symlink_to(model_path() / "model.safetensors")
    config = json.loads((adapted.folder / "adapter" / "adapter_config.json").read_text())
    (adapted.folder / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(base)})
    )
    (adapted.folder / "recipe.yaml").write_text(Recipe(model=str(base), data="rows.jsonl").to_yaml())
    # of a folder, the same name without its ending is looked for beside it
    assert str(tmp_path / "base") in refused(adapted, "--merge")
    assert "is quantised" in refused(adapted, "--merge", "--base", str(base))


@needs_torch
def test_what_ends_the_merge_leaves_nothing_and_says_why(
    adapted: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(process: Any, *_: Any) -> None:
        process.kill()
        process.wait()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_merge, "_followed", killed)
    assert "The process that merged was killed." in refused(adapted, "--merge")
    monkeypatch.setattr(export_merge, "_followed", interrupted)
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export(adapted, "--merge")
    assert tree(tmp_path) == before


def test_a_whole_model_has_nothing_to_merge(left: Left) -> None:
    for path in (left.folder / "adapter").iterdir():
        if path.name.startswith("adapter"):
            path.unlink()
    (left.folder / "adapter").rename(left.folder / "model")
    (left.folder / "model" / "model.safetensors").write_bytes(weights())
    assert "fine-tuned in full" in refused(left, "--merge")
    assert export(left)[0].startswith("Exported the model of kwanzaa")
