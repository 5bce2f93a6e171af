"""`%export --merge`: a whole model, made in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import export_merge
from colab_magics.magics.export_earlier import LOG
from colab_magics.recipe import Recipe

from .checkpointed import Left, tree
from .exported import a_result, export, refused, weights

pytestmark = [pytest.mark.colab, pytest.mark.face]

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the notebook's face has no torch")


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    return a_result(tmp_path, monkeypatch)


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
