"""A prompt is asked as the same prompt was trained, to the token; and what cannot be asked is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from colab_magics.data import Prepared
from colab_magics.data.asking import Asker, last_answer
from colab_magics.data.formats import Wishes
from colab_magics.errors import ColabMagicsError

from .conftest import NOW

ROWS = [
    {"question": "What is a list?", "answer": "A sequence that can change."},
    {"question": "And a tuple?", "answer": "One that can not."},
]
CONTEXTS = [{"context": "Rome is in Italy.", **row} for row in ROWS]


def before_answer(prepared: Prepared, index: int = 0) -> tuple[tuple[int, ...], int]:
    """The tokens before the last answer of a document, and the one that closes it."""
    tokens, marks = prepared.documents(10_000)[index]
    first, last = last_answer(marks)
    return tuple(tokens[:first].tolist()), int(tokens[last - 1])


def asker(tokenizer: Any, prepared: Prepared, now: datetime = NOW, **keys: Any) -> Asker:
    return Asker(
        tokenizer, Wishes(keys.get("columns"), keys.get("prompt_template"), keys.get("system")), now, prepared.format
    )


@pytest.mark.parametrize("keys", [{}, {"system": "Be brief."}], ids=["plain", "system"])
def test_a_question_is_asked_as_rows_with_two_columns_were_trained(
    phi3: Callable[[], Any], prepared: Callable[..., Prepared], keys: dict[str, Any]
) -> None:
    made = prepared(ROWS, phi3(), **keys)
    ask = asker(phi3(), made, **keys)
    for number, row in enumerate(ROWS):
        ids, closing = before_answer(made, number)
        assert ask(row["question"]).ids == ids
        assert ask({"question": row["question"]}).ids == ids
        whole = ask(row)
        assert (whole.ids, whole.reference, whole.shown) == (ids, row["answer"], row["question"])
        assert ask.stops == {closing}


def test_a_prompt_template_is_filled_by_one_text_or_by_a_row(
    gpt2: Callable[[], Any], prepared: Callable[..., Prepared]
) -> None:
    one = {"prompt_template": "Q: {question}\nA: {answer}"}
    made = prepared(ROWS, gpt2(), **one)
    ask = asker(gpt2(), made, **one)
    assert ask(ROWS[0]["question"]).ids == before_answer(made)[0], (
        "the space belongs to the answer's first token, as trained"
    )
    two = {"prompt_template": "{context}\nQ: {question}\nA: {answer}"}
    made = prepared(CONTEXTS, gpt2(), **two)
    ask = asker(gpt2(), made, **two)
    assert ask({"context": "Rome is in Italy.", "question": "What is a list?"}).ids == before_answer(made)[0]
    with pytest.raises(ColabMagicsError, match="asks for context, question, and the prompt is one text") as refused:
        ask("What is a list?")
    assert "{context: …, question: …}" in str(refused.value)
    with pytest.raises(ColabMagicsError, match="A prompt has no context"):
        ask({"question": "What is a list?"})


def test_what_was_trained_as_it_is_written_is_asked_so(
    gpt2: Callable[[], Any], phi3: Callable[[], Any], prepared: Callable[..., Prepared]
) -> None:
    for tokenizer in (gpt2(), phi3()):
        made = prepared([{"prompt": "Once upon a time ", "completion": "there was."}], tokenizer)
        ask = asker(tokenizer, made)
        assert made.format.endswith("joined as written")
        assert ask({"prompt": "Once upon a time ", "completion": "there was."}).ids == before_answer(made)[0]


def test_a_text_goes_on_where_texts_were_trained(phi3: Callable[[], Any], prepared: Callable[..., Prepared]) -> None:
    made = prepared([{"text": "Once upon a time"}], phi3())
    ids = asker(phi3(), made)("Once upon a time").ids
    assert list(ids) == made.documents(100)[0][0].tolist()[:-1], "all but the end of text"


def test_every_known_template_is_asked_as_it_is_trained(
    phi3: Callable[[], Any], prepared: Callable[..., Prepared], known_templates: dict[str, str]
) -> None:
    rows = [{"messages": [
        {"role": "user", "content": "Where is Rome?"}, {"role": "assistant", "content": "In Italy."},
        {"role": "user", "content": "And Oslo?"}, {"role": "assistant", "content": "In Norway."},
    ]}]  # fmt: skip
    asked = 0
    for name, template in known_templates.items():
        tokenizer = phi3()
        tokenizer.chat_template = template
        try:
            made = prepared(rows, tokenizer)
        except ColabMagicsError:
            continue  # it takes no such chat
        ask = asker(tokenizer, made)
        last = len(made.lengths) - 1
        assert ask(rows[0]["messages"][:3]).ids == before_answer(made, last)[0], name
        asked += 1
    assert asked > 10


def test_a_template_that_tells_the_date_tells_that_of_the_run(
    phi3: Callable[[], Any], prepared: Callable[..., Prepared]
) -> None:
    tokenizer = phi3()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}" + tokenizer.chat_template
    made = prepared(ROWS, tokenizer)
    assert asker(tokenizer, made)(ROWS[0]["question"]).ids == before_answer(made)[0]
    later = datetime(2031, 1, 1, tzinfo=timezone.utc)
    assert asker(tokenizer, made, later)(ROWS[0]["question"]).ids != before_answer(made)[0]


def test_raw_sends_the_text_and_nothing_else(phi3: Callable[[], Any], prepared: Callable[..., Prepared]) -> None:
    ask = asker(phi3(), prepared(ROWS, phi3()))
    assert phi3().decode(list(ask.raw("Once upon").ids)) == "Once upon"


@pytest.mark.parametrize("said", ["", "  \n", [{"role": "user", "content": " "}], [{"role": "system", "content": "x"}]])
def test_an_empty_prompt_is_refused(phi3: Callable[[], Any], prepared: Callable[..., Prepared], said: Any) -> None:
    with pytest.raises(ColabMagicsError, match="The prompt is empty"):
        asker(phi3(), prepared(ROWS, phi3()))(said)


def test_what_is_no_prompt_is_told(phi3: Callable[[], Any], prepared: Callable[..., Prepared]) -> None:
    ask = asker(phi3(), prepared(ROWS, phi3()))
    with pytest.raises(ColabMagicsError, match="unknown role 'pirate'"):
        ask([{"role": "pirate", "content": "Arr"}])
    with pytest.raises(ColabMagicsError, match="a, b"):
        ask({"a": "1", "b": "2"})


def test_the_last_answer_of_a_document_is_found_by_position() -> None:
    marks = np.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 0], bool)
    assert last_answer(marks) == (6, 9)
    assert last_answer(np.zeros(3, bool)) == (0, 0)
