"""Rows out of files: one at a time, from what people really upload."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.data import Source
from colab_magics.data import json_array as array_module
from colab_magics.data.rows import Reading, read_rows
from colab_magics.errors import ColabMagicsError

ROWS = [{"question": f"Wo liegt «Köln» {n}?", "answer": 'Am Rhein,\n"links"; und rechts.'} for n in range(5)]


def rows_of(path: Path, **more: Any) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(Source("path", path.name, str(path)), **more)]


def refused(path: Path) -> str:
    with pytest.raises(ColabMagicsError) as caught:
        rows_of(path)
    assert len(caught.value.lines()) <= 8
    return str(caught.value)


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def as_jsonl_with_blank_lines_and_no_last_newline(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")


def as_jsonl_from_windows(path: Path) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())


def as_json_array(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2, ensure_ascii=False), encoding="utf-8")


def as_json_array_on_one_line(path: Path) -> None:
    path.write_text("\ufeff " + json.dumps(ROWS), encoding="utf-8")


def as_json_object_around_rows(path: Path) -> None:
    path.write_text(json.dumps({"version": "1", "data": ROWS}, indent=1), encoding="utf-8")


def as_json_columns(path: Path) -> None:
    path.write_text(json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}), encoding="utf-8")


def as_csv(path: Path, delimiter: str = ",", bom: str = "") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(bom)
        writer = csv.DictWriter(file, ROWS[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_csv_from_excel(path: Path) -> None:
    as_csv(path, ";", "\ufeff")


def as_tsv(path: Path) -> None:
    as_csv(path, "\t")


def as_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", as_jsonl),
        ("a.jsonl", as_jsonl_with_blank_lines_and_no_last_newline),
        ("a.jsonl", as_jsonl_from_windows),
        ("a.ndjson", as_jsonl),
        ("a.json", as_json_array),
        ("a.json", as_json_array_on_one_line),
        ("a.json", as_jsonl),
        ("a.jsonl", as_json_array),
        ("a.json", as_json_object_around_rows),
        ("a.json", as_json_columns),
        ("a.csv", as_csv),
        ("a.csv", as_csv_from_excel),
        ("a.tsv", as_tsv),
        ("a.parquet", as_parquet),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_the_rows_are_read_as_they_were_written(tmp_path: Path, name: str, write: Any, gzipped: bool) -> None:
    path = tmp_path / name
    write(path)
    if gzipped:
        if name.endswith(".parquet"):
            return
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert rows_of(path) == ROWS
    assert rows_of(path, limit=2) == ROWS[:2]


def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2,}\n', encoding="utf-8")
    said = refused(path)
    assert "rows.jsonl, line 3 is not valid JSON" in said
    assert '{"a": 2,}' in said


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('[{"a": 1},\n{"a": 2},\n{"a": }]', 3, "Expecting value"),
        ('[{"a": 1}\n{"a": 2}]', 2, "a comma or ] is missing"),
        ('[{"a": 1},\n{"a": 2}', 2, "the array is not closed"),
        ('[{"a": 1},\n{"a": "unfinished', 2, "Unterminated string"),
        ('[{"a": 1}]\nmore', 2, "something follows"),
        ('{"a": [1,\n2}', 2, "delimiter"),
    ],
)
def test_a_broken_array_is_named_by_file_and_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    said = refused(path)
    assert f"rows.json, line {line} is not valid JSON" in said
    assert why in said


def test_an_array_of_texts_is_rows_of_text_and_one_of_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('["one", "two"]')
    assert rows_of(path) == [{"text": "one"}, {"text": "two"}]
    path.write_text("[1, 2]")
    assert "row 1 is not a JSON object" in refused(path)


def test_several_lists_in_one_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=1))
    assert "train, test" in refused(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text({"a.json": "[]", "a.csv": "question,answer\n"}.get(name, "\n \n"))
    assert "has no rows" in refused(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
def test_text_that_is_not_utf_8_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = {"a.json": '[{"a": "Köln"}]', "a.jsonl": '{"a": 1}\n{"a": "Köln"}\n'}.get(name, "a,b\nKöln,1\n")
    path.write_bytes(text.encode("latin-1"))
    said = refused(path)
    assert "is not UTF-8 text" in said
    assert "UTF-8" in said.splitlines()[-1]
    if name == "a.jsonl":
        assert "line 2" in said


def test_a_csv_row_with_too_many_values_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"a, b",c\nd,e, f\n')
    said = refused(path)
    assert "line 3 has 3 values where the header has 2" in said
    assert "double quotes" in said


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,a\n1,2\n")
    assert "two columns named 'a'" in refused(path)


def test_one_column_of_text_with_commas_in_quotes_is_one_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text\n"one, two; three"\n"four"\n')
    assert rows_of(path) == [{"text": "one, two; three"}, {"text": "four"}]


def test_a_cell_may_be_longer_than_csv_allows_by_default(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "x" * 300_000 + "\n")
    assert len(rows_of(path)[0]["text"]) == 300_000


def test_a_torn_download_is_named(tmp_path: Path) -> None:
    as_parquet(tmp_path / "a.parquet")
    torn = tmp_path / "b.parquet"
    torn.write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    assert "not a whole parquet file" in refused(torn)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    assert "not a whole gzip file" in refused(packed)
    packed.write_bytes(b'{"a": 1}\n')
    assert "not a whole gzip file" in refused(packed)


def test_a_text_file_is_one_document_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    text = "\n\n" + "".join(f"{n} " * 20 + "\n" for n in range(5000)) + "the end" + " \n" * 70_000
    path.write_text(text)
    pieces = list(read_rows(Source("path", path.name, str(path)), limit=1))
    assert "".join(piece.fields["text"] for piece in pieces).rstrip() == text.rstrip()
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    assert [piece.goes_on for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len(pieces) > 3
    assert all(piece.fields["text"].endswith("\n") for piece in pieces[:-1])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_limit_reads_no_further_than_it_must(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    many = [{"question": f"q{n}", "answer": "x" * 400} for n in range(30_000)]
    if name == "a.parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        unlike = [{**row, "answer": f"{n}" * 100} for n, row in enumerate(many)]
        pq.write_table(pa.Table.from_pylist(unlike), path, row_group_size=1000)
    elif name == "a.csv":
        path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in many))
    elif name == "a.json":
        path.write_text(json.dumps(many))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in many))
    reading = Reading()
    source = Source("path", name, str(path))
    assert len(list(read_rows(source, limit=100, reading=reading))) == 100
    if name != "a.parquet":  # its index is at the end, and arrow reads by offset
        assert 0 < reading.done <= 3 << 20 < path.stat().st_size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(json_values, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
)
def test_an_array_is_the_same_however_small_the_blocks_it_is_read_in(
    rows: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    class Small:
        def __init__(self, text: str) -> None:
            self.text = text

        def read(self, _size: int, /) -> str:
            piece, self.text = self.text[:chunk], self.text[chunk:]
            return piece

    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    assert list(array_module.array_elements(Small(text))) == rows
