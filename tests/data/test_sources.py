"""What `data:` names, and what is said when it names nothing."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from colab_magics import demo
from colab_magics.data import Source, identity, resolve
from colab_magics.data import sources as module
from colab_magics.data.sources import changed
from colab_magics.errors import ColabMagicsError

ROWS = [{"question": "a", "answer": "b"}]


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    return path


def refused(text: str, namespace: dict[str, Any], cwd: Path) -> str:
    with pytest.raises(ColabMagicsError) as caught:
        resolve(text, namespace, cwd=cwd)
    assert len(caught.value.lines()) <= 8
    return str(caught.value)


def test_a_path_wins_over_a_variable_and_a_variable_over_the_hub(tmp_path: Path) -> None:
    written(tmp_path / "org" / "rows.jsonl")
    namespace = {"org/rows.jsonl": ROWS, "rows": ROWS, "org/rows": ROWS}
    assert resolve("org/rows.jsonl", namespace, cwd=tmp_path).kind == "path"
    assert resolve("rows", namespace, cwd=tmp_path) == Source("variable", "rows")
    assert resolve("org/rows", namespace, cwd=tmp_path).kind == "variable"
    assert resolve("org/rows", {}, cwd=tmp_path) == Source("hub", "org/rows")


def test_a_file_that_has_a_variables_name_is_taken_as_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "train.jsonl")
    source = resolve("train.jsonl", {"train": ROWS}, cwd=tmp_path)
    assert source == Source("path", "train.jsonl", str(path.resolve()))


@pytest.mark.parametrize(
    ("text", "name", "split"),
    [
        ("org/name", "org/name", None),
        ("org/name:train", "org/name", "train"),
        ("org/na.me-1:train[:10%]", "org/na.me-1", "train[:10%]"),
        ("openai/gsm8k:main:train", "openai/gsm8k", "main:train"),
    ],
)
def test_hub_ids_may_name_a_split(tmp_path: Path, text: str, name: str, split: str | None) -> None:
    assert resolve(text, {}, cwd=tmp_path) == Source("hub", name, split=split)


def test_a_source_survives_its_way_through_inputs_json() -> None:
    source = Source("hub", "org/name", split="train")
    assert Source.from_dict({**source.to_dict(), "identity": "x"}) == source


def test_frames_and_data_sets_are_variables(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    namespace = {"frame": pandas.DataFrame(ROWS), "rows": datasets.Dataset.from_list(ROWS)}
    assert resolve("frame", namespace, cwd=tmp_path).kind == "variable"
    assert resolve("rows", namespace, cwd=tmp_path).kind == "variable"
    several = datasets.DatasetDict({"train": namespace["rows"]})
    said = refused("several", {"several": several}, tmp_path)
    assert "DatasetDict" in said
    assert "several['train']" in said


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    written(tmp_path / "data" / "kwanzaa_train.jsonl")
    assert "Did you mean data/kwanzaa_train.jsonl?" in refused("data/kwanza_train.jsonl", {}, tmp_path)
    assert "does not exist" in refused("dta/kwanzaa_train.jsonl", {}, tmp_path)


def test_a_misspelt_variable_names_its_nearest_neighbour(tmp_path: Path) -> None:
    said = refused("train_row", {"train_rows": ROWS, "_train_row": ROWS, "train_raw": 3}, tmp_path)
    assert "Did you mean train_rows?" in said


def test_a_variable_that_holds_no_rows_says_what_it_is(tmp_path: Path) -> None:
    assert "is of type int" in refused("rows", {"rows": 3}, tmp_path)


def test_a_folder_an_empty_file_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "folder" / "inside.jsonl")
    assert "data: folder/inside.jsonl" in refused("folder", {}, tmp_path)
    (tmp_path / "empty.jsonl").touch()
    assert "is empty" in refused("empty.jsonl", {}, tmp_path)
    (tmp_path / "model.gguf").write_text("x")
    said = refused("model.gguf", {}, tmp_path)
    assert ".gguf" in said
    assert "parquet" in said
    assert "`data` is empty" in refused("  ", {}, tmp_path)


def test_endings_may_be_compressed_and_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "ROWS.JSONL.GZ").write_bytes(gzip.compress(b"{}"))
    assert resolve("ROWS.JSONL.GZ", {}, cwd=tmp_path).kind == "path"


def test_the_same_content_has_the_same_identity_wherever_it_lies(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl")
    copy = tmp_path / "b.jsonl"
    shutil.copy(path, copy)
    os.utime(copy, (1, 1))
    first, second = Source("path", "a.jsonl", str(path)), Source("path", "b.jsonl", str(copy))
    assert identity(first) == identity(second)
    copy.write_text(path.read_text().replace("b", "c"))
    assert identity(first) != identity(second)


def test_a_large_file_is_known_without_reading_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HASHED_WHOLE", 1 << 20)
    path = tmp_path / "big.jsonl"
    path.write_bytes(os.urandom(20 << 20))
    source = Source("path", "big.jsonl", str(path))
    before = identity(source), changed(source)
    copy = tmp_path / "copy.jsonl"
    shutil.copy(path, copy)
    assert identity(Source("path", "copy.jsonl", str(copy))) == before[0]
    with path.open("r+b") as file:  # between two of the blocks that are looked at
        file.seek((1 << 20) + 200_000)
        file.write(b"changed")
    os.utime(path, ns=(1, before[1] + 5))
    assert changed(source) != before[1]
    with path.open("ab") as file:
        file.write(b"more")
    assert identity(source) != before[0]


def test_demo_is_the_rows_beside_the_demo_model_unless_something_here_is_called_so(tmp_path: Path) -> None:
    found = resolve("demo", {}, cwd=tmp_path)
    assert (found.kind, found.name) == ("path", "demo")
    assert found.path == str(demo.data_path())
    assert resolve("demo", {"demo": [{"text": "a"}]}, cwd=tmp_path).kind == "variable"
