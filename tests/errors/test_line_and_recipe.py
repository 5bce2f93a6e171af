"""What can be wrong with the line and with the recipe: said at once, by the notebook itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROWS, Notebook, OpenNotebook

pytestmark = [pytest.mark.colab, pytest.mark.face]

GOOD = f"model: demo\ndata: {ROWS}\n"


@pytest.fixture
def notebook(open_notebook: OpenNotebook, tmp_path: Path) -> Notebook:
    """No worker is needed for any of these, so a slow one would be noticed."""
    return open_notebook(tmp_path / "notebook")


@pytest.mark.parametrize(
    ("cell", "facts"),
    [
        ("%%finetune run\nmodle: demo\ndata: rows.jsonl", ["modle", "line 1", "id you mean model?"]),
        (f"%%finetune run\n{GOOD}max_steps: many", ["max_steps", "many", "line 3", "whole number"]),
        (f"%%finetune run\n{GOOD}learning_rate: -1", ["learning_rate", "-1", "above 0"]),
        (f"%%finetune run\n{GOOD}lora_dropout: 1.5", ["lora_dropout", "1.5"]),
        (f"%%finetune run\n{GOOD}method: qlra", ["qlra", "id you mean method: qlora?"]),
        (f"%%finetune run\n{GOOD}packing: perhaps", ["packing", "perhaps", "true"]),
        (f"%%finetune run --max-steps many\n{GOOD}", ["max_steps", "many"]),
        ("%%finetune run\nmodel: demo\ndata: [rows.jsonl", ["line 2", "column"]),
        ("%%finetune run\nmodel: demo\n\tdata: rows.jsonl", ["line 2", "column 1", "tab"]),
        ("%%finetune run\nmodel: demo\ndata", ["line 2"]),
        ("%%finetune run\nmodel: demo\nmodel: demo\ndata: x", ["model", "twice", "line 2"]),
        ("%%finetune run\n   \n", ["empty", "model:", "data:"]),
        ("%%finetune run\nmodel: demo", ["names no data"]),
        (f"%%finetune run\n{GOOD}rank: {{ranks}}", ["ranks"]),
        (f"%%finetune run --preset nonsense\n{GOOD}", ["nonsense", "presets"]),
        (f"%%finetune run --out 'model\n{GOOD}", ["quot"]),
        (f"%%finetune run --bakground\n{GOOD}", ["--bakground", "--background"]),
        (f"%%finetune run --zzzz\n{GOOD}", ["--zzzz", "--help"]),
        (f"%%finetune run --out\n{GOOD}", ["--out"]),
        (f"%%finetune run --again=yes\n{GOOD}", ["--again"]),
        (f"%%finetune run --panel sideways\n{GOOD}", ["sideways", "html"]),
        (f"%%finetune run --out 1st\n{GOOD}", ["1st"]),
        (f"%%finetune two names\n{GOOD}", ["two", "names"]),
        (f"%%finetune a/b\n{GOOD}", ["'a/b'", "'a-b'"]),
        (f"%%finetune ..\n{GOOD}", ["'..'"]),
        (f"%%finetune ../up\n{GOOD}", ["'../up'"]),
        (f"%%finetune .hidden\n{GOOD}", ["'.hidden'"]),
        (f"%%finetune {'n' * 65}\n{GOOD}", ["64"]),
        (f"%%finetune run --fork ../up\n{GOOD}", ["'../up'"]),
        (f"%%finetune run --fork other\n{GOOD}", ["run", "%finetune list"]),
        (f"%%finetune list\n{GOOD}", ["list", "subcommand"]),
        (f"%%finetune help\n{GOOD}", ["'help'", "subcommand"]),
        ("%finetune run", ["run", "--model", "--data"]),
        ("%finetune status nobody", ["nobody"]),
        ("%finetune attach", ["no run"]),
        ("%finetune stop nobody", ["nobody"]),
        (f"%%finetune run\n{GOOD}format: nobody", ["nobody", "function"]),
        ("%%finetune run\nmodel: demo\ndata: missing.jsonl", ["missing.jsonl", "does not exist"]),
        ("%%finetune run\nmodel: demo\ndata: nowhere/rows.jsonl", ["nowhere/rows.jsonl", "folder"]),
        ("%%finetune run\nmodel: demo\ndata: nothing_of_that_name", ["nothing_of_that_name", "variable"]),
        ("%%finetune run\nmodel: demo\ndata: $nothing", ["nothing", "variable"]),
    ],
    ids=lambda value: value.replace(f"model: demo\ndata: {ROWS}\n", " ") if isinstance(value, str) else "",
)
def test_it_is_said_in_a_few_lines_and_nothing_is_left(notebook: Notebook, cell: str, facts: list[str]) -> None:
    said = notebook.refuses(cell, *facts)
    assert said.frames == []


def test_files_that_are_there_but_hold_nothing_to_read(notebook: Notebook) -> None:
    (notebook.folder / "empty.jsonl").touch()
    notebook.refuses("%%finetune run\nmodel: demo\ndata: empty.jsonl", "empty.jsonl", "no bytes")
    (notebook.folder / "rows.docx").write_bytes(b"PK")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: rows.docx", "rows.docx", ".docx", "jsonl")
    (notebook.folder / "folder").mkdir()
    (notebook.folder / "folder" / "rows.jsonl").write_text("{}\n")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: folder", "is a folder", "folder/rows.jsonl")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: folder/rosw.jsonl", "id you mean folder/rows.jsonl?")


def test_variables_that_hold_no_rows(notebook: Notebook) -> None:
    notebook.shell.user_ns.update(nothing=[], number=3, mixed=[{"text": "a"}, 5], raw=[{"text": object()}])
    notebook.refuses("%%finetune run\nmodel: demo\ndata: nothing", "no rows")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: number", "number", "int")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: mixed", "ow 2", "int")
    notebook.refuses("%%finetune run\nmodel: demo\ndata: raw", "text", "object")


def test_a_format_function_that_fails_names_the_row(notebook: Notebook) -> None:
    notebook.run("def shape(row):\n    return {'text': row['nope']}\ndef forgets(row):\n    pass")
    notebook.refuses(f"%%finetune run\n{GOOD}format: shape", "shape", "KeyError", "nope", "messages")
    notebook.refuses(f"%%finetune run\n{GOOD}format: forgets", "forgets", "return")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07bell\x07"])
def test_html_and_escape_sequences_are_only_text(notebook: Notebook, text: str) -> None:
    for body in (f"model: demo\ndata: {text!r}", f"model: demo\n{text}: 1", f"model: {text!r}", f"{text}"):
        said = notebook.run(f"%%finetune run\n{body}")
        assert "\x1b" not in said.shown
        assert "\x07" not in said.shown
        assert len(said.lines) <= 8
        assert all("<script>" not in frame.get("text/html", "") for frame in said.frames)
    assert list(notebook.folder.iterdir()) == []


def test_a_token_is_never_repeated(notebook: Notebook) -> None:
    secret = "hf_" + "S" * 34
    for body in (f"tokn: {secret}", f"model: demo\ndata: {secret}", secret, f"model: demo\ndata: '{secret}.jsonl'"):
        assert secret not in notebook.run(f"%%finetune run\n{body}").shown
    assert list(notebook.folder.iterdir()) == []
