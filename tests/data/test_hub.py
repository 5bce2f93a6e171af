"""Hub data sets: what `datasets` raises becomes words that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from colab_magics.data import Source
from colab_magics.data.hub import explained
from colab_magics.data.rows import read_rows
from colab_magics.errors import ColabMagicsError

datasets = pytest.importorskip("datasets")
SOURCE = Source("hub", "org/name", split="train")


def said(error: BaseException) -> str:
    found = explained(SOURCE, "train", error)
    assert 2 <= len(found.lines()) <= 8
    return str(found)


def _caused(by: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = by
    return error


def test_an_unknown_id_says_that_it_is_no_file_either() -> None:
    error = datasets.exceptions.DatasetNotFoundError(
        "Dataset 'org/name' doesn't exist on the Hub or cannot be accessed."
    )
    assert "no file here, no variable, and no data set on the Hub" in said(error)
    assert "HF_TOKEN" in said(error)


def test_a_gated_data_set_says_how_to_set_a_token() -> None:
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub. Visit the page")
    text = said(error)
    assert "needs a login" in text
    assert "https://huggingface.co/datasets/org/name" in text
    assert "HF_TOKEN" in text


def test_no_network_is_told_apart_from_an_unknown_id() -> None:
    for error in (
        ConnectionError("Couldn't reach 'org/name' on the Hub (LocalEntryNotFoundError)"),
        _caused(ConnectionError("unreachable"), ValueError("wrapped")),
    ):
        assert "The Hub cannot be reached" in said(error)


def test_a_wrong_split_and_a_missing_configuration_are_named() -> None:
    assert "has no split 'train'" in said(ValueError("Unknown split \"train\". Should be one of ['test']."))
    assert "data: org/name:CONFIG:train" in said(ValueError("Config name is missing.\nPlease pick one among ['main']"))


def test_code_that_a_data_set_ships_is_not_run() -> None:
    assert "not run" in said(RuntimeError("Dataset scripts are no longer supported, but found name.py"))


def test_a_token_in_an_error_is_not_shown() -> None:
    secret = "hf_" + "a" * 30
    assert secret not in said(RuntimeError(f"bad header Bearer {secret}"))


def test_without_a_network_a_hub_id_ends_at_once_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it would try again for 24 s"))
    with pytest.raises(ColabMagicsError) as caught:
        list(read_rows(Source("hub", "colab-magics/no-such-rows"), limit=3))
    assert "cannot be reached for colab-magics/no-such-rows" in str(caught.value)


def test_rows_of_a_repository_are_streamed_when_they_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `load_dataset`, on a local folder in the place of the Hub."""
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"q": str(n)}) + "\n" for n in range(50)))
    real, asked = datasets.load_dataset, []

    def of_the_folder(name: str, config: str | None, **more: Any) -> Any:
        asked.append((name, config, more))
        return real("json", data_files=str(tmp_path / "train.jsonl"), cache_dir=str(tmp_path / "cache"), **more)

    monkeypatch.setattr(datasets, "load_dataset", of_the_folder)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    rows = list(read_rows(SOURCE, limit=3))
    assert [row.fields for row in rows] == [{"q": "0"}, {"q": "1"}, {"q": "2"}]
    assert asked[0] == ("org/name", None, {"split": "train", "streaming": True})
    assert len(list(read_rows(Source("hub", "org/name", split="main:train")))) == 50
    assert asked[1] == ("org/name", "main", {"split": "train", "streaming": False})
