"""`%checkpoint export`: what others load, verified, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_line import read_line

from .checkpointed import Left, flip, tree, truncate

pytestmark = [pytest.mark.colab, pytest.mark.face]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    left = Left(tmp_path / "runs")
    left.save(20, eval_loss=1.0)
    left.save(40)
    return left


def export(left: Left, words: str) -> list[str]:
    return perform(read_line(f"export {words}"), left.root)["text/plain"].splitlines()


def refused(left: Left, words: str) -> list[str]:
    """What is said of an export that must leave nothing behind."""
    home = left.root.parent
    before = tree(home)
    with pytest.raises(ColabMagicsError) as raised:
        export(left, words)
    assert tree(home) == before
    return raised.value.lines()


def keep_tokenizer(left: Left) -> None:
    (left.folder / "tokenizer").mkdir()
    (left.folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (left.folder / "tokenizer" / "tokenizer_config.json").write_text("{}")


def test_a_folder_gets_what_inference_needs_and_nothing_else(left: Left, tmp_path: Path) -> None:
    keep_tokenizer(left)
    target = tmp_path / "adapter"
    lines = export(left, str(target))
    size = sum(path.stat().st_size for path in target.iterdir())
    assert lines == [
        f"Exported step 40 of kwanzaa, {size / 1024:.1f} KiB: {target}",
        "By evaluation step 20 is the best: --step 20 exports that one.",
    ]
    assert sorted(os.listdir(target)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    source = left.run.checkpoints / "00000040-a1"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (target / name).read_bytes() == (source / name).read_bytes()


def test_the_readme_tells_step_metrics_and_recipe_and_how_to_load_it(left: Left, tmp_path: Path) -> None:
    export(left, f"{tmp_path / 'out'} --step 20")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert readme.startswith("---\nbase_model: demo\nlibrary_name: peft\n---\n")
    assert "step 20 of 100 (loss 0.0500, eval loss 1.0000)" in readme
    assert "AutoPeftModelForCausalLM.from_pretrained(" in readme
    assert "data: rows.jsonl" in readme
    assert str(tmp_path) not in readme, "where it lay is nobody's business"


def test_a_base_that_lay_in_a_folder_is_called_by_the_folders_name(left: Left, tmp_path: Path) -> None:
    recipe = left.run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("model: demo", f"model: {tmp_path}/my-base"))
    export(left, str(tmp_path / "out"))
    told, _, written = (tmp_path / "out" / "README.md").read_text().partition("## Recipe")
    assert "An adapter for `my-base`" in told
    assert str(tmp_path) not in told
    assert f"model: {tmp_path}/my-base" in written


def test_a_step_that_is_named_is_exported_without_a_word_on_better_ones(left: Left, tmp_path: Path) -> None:
    (said, tokenizer) = export(left, f"{tmp_path / 'out'} --step 40")
    assert said.startswith("Exported step 40")
    assert tokenizer == "The tokenizer is not in it: it is the base model's own."


def test_a_zip_holds_one_folder_its_weights_stored_as_they_are(left: Left, tmp_path: Path) -> None:
    keep_tokenizer(left)
    target = tmp_path / "adapter.zip"
    export(left, str(target))
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        kinds = {entry.filename: entry.compress_type for entry in archive.infolist()}
        archive.extractall(tmp_path / "there")
    assert kinds == {
        "adapter/adapter_model.safetensors": zipfile.ZIP_STORED,
        "adapter/adapter_config.json": zipfile.ZIP_DEFLATED,
        "adapter/tokenizer.json": zipfile.ZIP_DEFLATED,
        "adapter/tokenizer_config.json": zipfile.ZIP_DEFLATED,
        "adapter/README.md": zipfile.ZIP_DEFLATED,
    }
    assert len(read_tensors(tmp_path / "there" / "adapter" / "adapter_model.safetensors")) == 4


def test_a_full_fine_tuning_is_exported_as_a_model(tmp_path: Path) -> None:
    left = Left(tmp_path / "runs")
    left.save(20, adapter=False)
    export(left, str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors"]
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()


def test_the_newest_that_is_whole_is_exported_and_an_altered_one_by_name_is_refused(left: Left, tmp_path: Path) -> None:
    flip(left.run.checkpoints / "00000040-a1" / "optimizer.safetensors")
    assert refused(left, f"{tmp_path / 'out'} --step 40")[:2] == [
        "The checkpoint of step 40 is broken.",
        "optimizer.safetensors was altered.",
    ]
    assert export(left, str(tmp_path / "out"))[0].startswith("Exported step 20")


def test_nothing_is_exported_where_nothing_is_whole(left: Left, tmp_path: Path) -> None:
    for folder in left.run.checkpoints.iterdir():
        truncate(folder / "state.json")
    assert refused(left, str(tmp_path / "out"))[0] == "The checkpoint of step 40 is broken."


def test_what_is_there_is_overwritten_by_force_alone(left: Left, tmp_path: Path) -> None:
    for name in ("out", "out.zip"):
        target = tmp_path / name
        export(left, f"{target} --step 20")
        assert refused(left, str(target)) == [
            f"{target} is there already.",
            "An export overwrites nothing.",
            "→ Name another path, or add --force.",
        ]
        assert export(left, f"{target} --force")[0].startswith("Exported step 40")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.zip", "runs"]


def test_force_replaces_an_earlier_export_and_nothing_else(left: Left, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("my thesis")
    (tmp_path / "photos.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty archive
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "photos.zip", "link", "runs/kwanzaa"):
        assert refused(left, str(tmp_path / name))[1:] == [
            "It is no export, and nothing else is ever replaced.",
            "→ Name another path.",
        ]
        assert refused(left, f"{tmp_path / name} --force")[0] == f"{tmp_path / name} is no export of ours."


def test_no_folder_is_made_where_a_drive_should_be_mounted(left: Left, tmp_path: Path) -> None:
    assert refused(left, str(tmp_path / "drive" / "MyDrive" / "out")) == [
        f"There is no folder {tmp_path / 'drive' / 'MyDrive'}.",
        "An export makes no folders above its own.",
        "→ Make it first, or name another path.",
    ]


def test_nothing_is_exported_among_the_checkpoints(left: Left) -> None:
    assert "where checkpoints are kept" in refused(left, str(left.run.checkpoints / "out"))[1]


def test_links_and_folders_beside_the_tokenizer_stay_there(left: Left, tmp_path: Path) -> None:
    keep_tokenizer(left)
    (tmp_path / ".env").write_text("SECRET=1")
    (left.folder / "tokenizer" / "vocab.txt").symlink_to(tmp_path / ".env")
    (left.folder / "tokenizer" / "more").mkdir()
    export(left, str(tmp_path / "out"))
    assert not {"vocab.txt", "more", ".env"} & set(os.listdir(tmp_path / "out"))


def test_the_tokenizer_cannot_take_the_place_of_weights_or_readme(left: Left, tmp_path: Path) -> None:
    keep_tokenizer(left)
    for name in ("adapter_config.json", "README.md"):
        (left.folder / "tokenizer" / name).write_text("another")
    export(left, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text()) == {"base_model_name_or_path": "demo"}
    assert "# kwanzaa" in (tmp_path / "out" / "README.md").read_text()


def test_on_colab_the_line_that_downloads_it_is_named(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    target = tmp_path / "out.zip"
    assert export(left, str(target))[-1] == (
        f"To download it: from google.colab import files; files.download({str(target)!r})"
    )
    assert "ends in .zip" in export(left, str(tmp_path / "out"))[-1]


def test_a_relative_path_and_a_home_are_meant_as_in_a_shell(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert export(left, "here")[0].endswith(f": {tmp_path / 'here'}")
    assert export(left, "~/there")[0].endswith(f": {tmp_path / 'there'}")


def test_a_run_that_saved_nothing_has_nothing_to_export(tmp_path: Path) -> None:
    assert refused(Left(tmp_path / "runs"), str(tmp_path / "out"))[0] == "kwanzaa has no checkpoint."
