"""`%export`: our own list of files, whole or not at all, and a merge in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import download
from colab_magics.magics.export import perform
from colab_magics.magics.export_earlier import LOG
from colab_magics.magics.export_files import allowed
from colab_magics.magics.export_gguf import convert
from colab_magics.magics.export_line import read
from colab_magics.recipe import Recipe
from colab_magics.sizes import size

from .checkpointed import Left, tree, truncate
from .exported import SECRETS, TOKEN, a_result, export, refused, weights

pytestmark = [pytest.mark.colab, pytest.mark.face]


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    return a_result(tmp_path, monkeypatch)


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
