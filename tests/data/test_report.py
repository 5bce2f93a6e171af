"""What the preflight shows of the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colab_magics.data import Prepared, Source
from colab_magics.data.report import data_event, report_lines

Prepare = Callable[..., Prepared]
Tokenizer = Callable[[], Any]


def fields(prepared: Prepared, tokenizer: Any, max_length: int = 64) -> dict[str, Any]:
    made = data_event(prepared, prepared.documents(max_length), Source("path", "rows.jsonl"), tokenizer)
    return json.loads(json.dumps({"split": "train", **made}))  # it travels as JSON


def test_the_report_says_what_is_trained_truncated_and_dropped(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    rows = [
        *[{"question": "Where is Rome?", "answer": "In Italy."}] * 8,
        {"question": "Long?", "answer": "yes " * 100},
        {"question": "word " * 100, "answer": "no"},
        {"question": "Empty?", "answer": ""},
    ]
    made = prepared(rows, tokenizer)
    event = fields(made, tokenizer)
    assert (event["rows"], event["documents"], event["truncated"]) == (11, 9, 1)
    assert event["lengths"]["max"] == int(made.lengths.max())
    text = "\n".join(report_lines(event))
    assert "train data: rows.jsonl (a file)" in text
    assert "question + answer, loss on: prefix difference" in text
    assert "11 read, 2 dropped, 9 documents to train on" in text
    assert "max_length  64: 1 documents lose their end" in text
    assert "1 × empty answer (first: line 11)" in text
    assert "1 × the response begins after max_length 64" in text
    assert "«In Italy.<|endoftext|>»" in text
    assert "### Assistant:" in text
    assert "the tokenizer has no chat template" in text


def test_rows_equal_documents_and_drops(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    rows = [{"question": "a?", "answer": "b " * n} for n in range(40)]
    event = fields(prepared(rows, tokenizer), tokenizer, 16)
    assert event["rows"] == event["documents"] + sum(drop["count"] for drop in event["dropped"])


def test_ansi_in_the_data_cannot_draw_on_the_terminal(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"question": "a\x1b[2J\x07?", "answer": "\x1b]0;owned\x07b"}], tokenizer)
    assert "\x1b" not in "\n".join(report_lines(fields(made, tokenizer)))


def test_text_says_that_windows_lose_nothing(prepared: Prepare, gpt2: Tokenizer, tmp_path: Path) -> None:
    tokenizer = gpt2()
    path = tmp_path / "book.txt"
    path.write_text("some words\n" * 500)
    text = "\n".join(report_lines(fields(prepared(path, tokenizer), tokenizer)))
    assert "cut into windows" in text
    assert "windows of text to train on" in text


def test_a_long_sample_is_shortened(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"question": "a\n" * 4000, "answer": "b " * 4000}], tokenizer)
    event = fields(made, tokenizer, 100_000)
    assert sum(len(text) for text, _ in event["sample"]) < 2000
    assert len(report_lines(event)) < 40


def test_an_event_of_another_version_is_still_shown() -> None:
    assert report_lines({"format": "messages", "unknown": 1})[0] == "data: ?"


def test_a_cached_data_set_says_so(prepared: Prepare, gpt2: Tokenizer) -> None:
    rows = [{"question": "a?", "answer": "b"}]
    prepared(rows, gpt2())
    assert any("in the cache" in line for line in report_lines(fields(prepared(rows, gpt2()), gpt2())))
