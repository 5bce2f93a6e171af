"""Notebook variables become rows in a file, whatever their cells hold."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_magics.data import Source, identity, write_rows
from colab_magics.errors import ColabMagicsError

from .conftest import write_jsonl


def written(value: Any, path: Path, **more: Any) -> list[dict[str, Any]]:
    count = write_rows(value, path, **more)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


def test_a_list_of_dicts_or_texts_is_written_as_it_is(tmp_path: Path) -> None:
    rows = [{"q": "Wo?", "a": "«Köln»\u2028"}, {"q": "1", "a": None}]
    assert [json.loads(line) for line in _lines(rows, tmp_path)] == rows
    assert written(["one", "two"], tmp_path / "b.jsonl") == [{"text": "one"}, {"text": "two"}]


def _lines(rows: Any, tmp_path: Path) -> list[str]:
    write_rows(rows, tmp_path / "a.jsonl")
    return (tmp_path / "a.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")


def test_cells_of_a_frame_become_what_json_can_hold(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "text": ["a", None],
            "number": [1, 2],
            "share": [0.5, float("nan")],
            "whole": pandas.array([3, None], dtype="Int64"),
            "when": [pandas.Timestamp("2025-03-04 05:06"), pandas.NaT],
            "day": [dt.date(2025, 3, 4), None],
            "array": [np.array([1, 2]), np.float32(1.5)],
            "flag": [np.bool_(True), False],
            "price": [decimal.Decimal("1.5"), float("inf")],
            "turns": [[{"role": "user", "content": np.str_("hi")}], ()],
        },
        index=[10, 20],
    )
    assert written(frame, tmp_path / "a.jsonl") == [
        {
            "text": "a",
            "number": 1,
            "share": 0.5,
            "whole": 3,
            "when": "2025-03-04T05:06:00",
            "day": "2025-03-04",
            "array": [1, 2],
            "flag": True,
            "price": 1.5,
            "turns": [{"role": "user", "content": "hi"}],
        },
        {
            "text": None,
            "number": 2,
            "share": None,
            "whole": None,
            "when": None,
            "day": None,
            "array": 1.5,
            "flag": False,
            "price": None,
            "turns": [],
        },
    ]


def test_a_data_set_is_streamed(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"q": f"q{n}", "a": "x"} for n in range(2500)]
    made = datasets.Dataset.from_list(rows)
    seen: list[tuple[str, int, int | None, str]] = []
    assert written(made, tmp_path / "a.jsonl", progress=lambda *told: seen.append(told)) == rows
    assert seen == [("reading", n, 2500, "rows") for n in (1000, 2000, 2500)]
    assert written(made.to_iterable_dataset(), tmp_path / "b.jsonl", limit=7) == rows[:7]


def test_a_format_function_is_applied_to_each_row(tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "b"}]

    def turns(row: dict[str, Any]) -> Any:
        return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]

    assert written(rows, tmp_path / "a.jsonl", fn=lambda row: {"text": row["q"] + row["a"]}) == [{"text": "ab"}]
    assert written(rows, tmp_path / "a.jsonl", fn=lambda row: row["q"]) == [{"text": "a"}]
    assert written(rows, tmp_path / "a.jsonl", fn=turns)[0]["messages"][1]["content"] == "b"


def test_a_format_function_is_applied_to_a_file_too(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"q": f"{n}"} for n in range(5)])
    source = Source("path", "rows.jsonl", str(path))
    assert written(source, tmp_path / "out.jsonl", fn=lambda row: row["q"], limit=2) == [{"text": "0"}, {"text": "1"}]


def test_a_function_that_fails_names_the_row_and_its_own_error(tmp_path: Path) -> None:
    def shorten(row: dict[str, Any]) -> Any:
        return {"text": row["q"][:10]}

    with pytest.raises(ColabMagicsError) as caught:
        write_rows([{"q": "a"}, {"q": None}], tmp_path / "a.jsonl", fn=shorten)
    assert "`format: shorten` failed on row 2" in str(caught.value)
    assert "TypeError" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ColabMagicsError, match="Forgot `return`"):
        write_rows([{"q": "a"}], tmp_path / "a.jsonl", fn=print)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "no rows"),
        ([{"q": "a"}, 3], "Row 2 of the data variable is of type int"),
        ([{"q": object()}], "Column 'q' of row 1 is of type object"),
        ([{"q": b"\xff"}], "Column 'q' of row 1 is of type bytes"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(ColabMagicsError) as caught:
        write_rows(value, tmp_path / "a.jsonl")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_of_a_variable_have_the_same_identity(tmp_path: Path) -> None:
    def of(name: str, rows: list[dict[str, Any]]) -> str:
        write_rows(rows, tmp_path / name)
        return identity(Source("variable", "rows", str(tmp_path / name)))

    rows = [{"q": "a"}]
    assert of("a.jsonl", rows) == of("b.jsonl", rows) != of("c.jsonl", [{"q": "b"}])


def test_an_interrupt_passes_through_a_format_function(tmp_path: Path) -> None:
    def interrupted(row: dict[str, Any]) -> Any:
        raise KeyboardInterrupt

    write: Callable[..., int] = write_rows
    with pytest.raises(KeyboardInterrupt):
        write([{"q": "a"}], tmp_path / "a.jsonl", fn=interrupted)
    assert list(tmp_path.iterdir()) == []
