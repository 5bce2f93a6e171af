"""What can be wrong with the rows: found by the worker's preflight, before any model is loaded."""

from __future__ import annotations

import pytest

from .conftest import Notebook

pytestmark = pytest.mark.xdist_group("errors")


def refused(notebook: Notebook, *facts: str, more: str = "") -> None:
    said = notebook.refuses(f"%%finetune run\nmodel: demo\ndata: rows.jsonl\n{more}", *facts)
    assert said.frames, "the panel said nothing"
    assert "failed" in said.frames[-1]["text/plain"]


def test_malformed_json_is_named_with_its_file_and_line(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", {"text": "one"}, {"text": "two"}, '{"text": "three",')
    refused(notebook, "rows.jsonl, line 3 is not valid JSON", '{"text": "three",')


def test_a_line_that_is_no_object_is_named(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", {"text": "one"}, ["two"])
    refused(notebook, "rows.jsonl, line 2 is not a JSON object", '["two"]')


def test_a_file_of_blank_lines_has_no_rows(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", "", "  ")
    refused(notebook, "rows.jsonl has no rows")


def test_a_file_that_is_no_text_is_named(notebook: Notebook) -> None:
    (notebook.folder / "rows.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    refused(notebook, "rows.jsonl, line 1 is not UTF-8 text", "0xe9")


def test_columns_that_are_not_understood_are_listed(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", *[{"alpha": "a", "beta": "b", "gamma": "c", "delta": 4}] * 3)
    refused(notebook, "alpha, beta, gamma, delta", "columns: {prompt: alpha")


def test_a_column_that_is_not_there_is_named_with_those_that_are(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", *[{"question": "a", "reply": "b"}] * 3)
    refused(notebook, "'replay'", "question, reply", "Did you mean reply?", more="columns: {completion: replay}")
    refused(notebook, "{anwser}", "question, reply", more='prompt_template: "{question} {anwser}"')


def test_rows_in_which_nothing_is_trained_are_counted(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", *[{"messages": [{"role": "user", "content": "Only a question?"}]}] * 3)
    refused(notebook, "No row of rows.jsonl", "3 rows", "no assistant turn", "line 1")


def test_rows_longer_than_max_length_are_counted(notebook: Notebook) -> None:
    row = {"prompt": "word " * 60, "completion": "and its answer"}
    notebook.write("rows.jsonl", *[row] * 4)
    refused(notebook, "No rows are left", "max_length 16", "4 rows", "Raise max_length above", more="max_length: 16")


def test_evaluation_data_is_held_to_the_same(notebook: Notebook) -> None:
    notebook.write("rows.jsonl", *[{"text": "enough to learn from"}] * 3)
    notebook.write("eval.jsonl", {"text": "one"}, "{")
    refused(notebook, "eval.jsonl, line 2 is not valid JSON", more="eval_data: eval.jsonl")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "\x1b[2J\x1b[31m", "\x1b]0;title\x07"])
def test_html_and_escape_sequences_of_a_row_are_only_text(notebook: Notebook, text: str) -> None:
    notebook.write("rows.jsonl", {text: "a", "beta": text, "gamma": 3, "delta": 4})
    said = notebook.refuses("%%finetune run\nmodel: demo\ndata: rows.jsonl", "beta, gamma, delta")
    # and where a row is shown as it is trained on
    notebook.write("rows.jsonl", *[{"prompt": f"say {text}", "completion": f"{text} said"}] * 2)
    shown = notebook.run("%%finetune data\nmodel: demo\ndata: rows.jsonl")
    assert shown.error is None
    assert "said" in shown.shown
    for reply in (said, shown):
        assert "\x1b" not in reply.shown
        assert "\x07" not in reply.shown
        assert not any("<script" in frame.get("text/html", "") for frame in reply.frames)
