"""Formats are detected from the columns; rows that do not fit are counted, with the reason and a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from colab_magics.data import Prepared
from colab_magics.data.formats import PAIRS
from colab_magics.errors import ColabMagicsError

from .conftest import trained_texts, whole_text

Prepare = Callable[..., Prepared]
Tokenizer = Callable[[], Any]

ASKED, SAID = "Where is Rome?", "In Italy."
PLAIN = f"### User:\n{ASKED}\n\n### Assistant:\n{SAID}<|endoftext|>"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]}, "messages"),
        (
            {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]},
            "ShareGPT conversations",
        ),
        ({"conversations": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]}, "messages"),
        (
            {"messages": f'[{{"role": "user", "content": "{ASKED}"}}, {{"role": "model", "content": "{SAID}"}}]'},
            "messages",
        ),
        ({"conversations": {"from": ["human", "gpt"], "value": [ASKED, SAID]}}, "ShareGPT conversations"),
        ({"prompt": ASKED, "completion": SAID}, "prompt + completion"),
        (
            {
                "prompt": [{"role": "user", "content": ASKED}],
                "completion": [{"role": "assistant", "content": SAID}],
            },
            "prompt + completion messages",
        ),
        ({"prompt": [{"role": "user", "content": ASKED}], "completion": SAID}, "prompt + completion messages"),
        ({"instruction": ASKED, "input": "", "output": SAID}, "Alpaca"),
        ({"instruction": ASKED, "output": SAID, "id": 7}, "Alpaca"),
        ({"Question": ASKED, "Answer": SAID}, "Question + Answer"),
        *[({first: ASKED, second: SAID}, f"{first} + {second}") for first, second in PAIRS],
    ],
)
def test_each_shape_of_row_becomes_the_same_conversation(
    prepared: Prepare, gpt2: Tokenizer, row: dict[str, Any], name: str
) -> None:
    tokenizer = gpt2()
    made = prepared([row], tokenizer)
    assert made.format == name
    assert whole_text(made, tokenizer) == PLAIN
    assert trained_texts(made, tokenizer) == [f"{SAID}<|endoftext|>"]


def test_alpacas_input_follows_its_instruction(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"instruction": "Translate.", "input": "Ciao", "output": "Hello"}], tokenizer)
    assert whole_text(made, tokenizer).startswith("### User:\nTranslate.\n\nCiao\n\n### Assistant:\nHello")


def test_a_prompt_written_to_be_joined_is_joined_as_it_is(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"prompt": "Q: 1+1\nA:", "completion": " 2"}], tokenizer)
    assert made.format == "prompt + completion, joined as written"
    assert whole_text(made, tokenizer) == "Q: 1+1\nA: 2<|endoftext|>"
    assert trained_texts(made, tokenizer) == [" 2<|endoftext|>"]


def test_a_prompt_with_template_marks_in_it_is_not_rendered_again(prepared: Prepare, phi3: Tokenizer) -> None:
    tokenizer = phi3()
    row = {"prompt": "<|user|>\nHi<|end|>\n<|assistant|>\n", "completion": "Hello<|end|>"}
    made = prepared([row], tokenizer)
    tokens, trained = made.documents(100)[0]
    assert tokens.tolist() == tokenizer(row["prompt"] + row["completion"])["input_ids"]
    assert tokenizer.decode(tokens[trained].tolist()) == "Hello<|end|>"


def test_the_prompts_own_assistant_turns_are_context(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    prompt = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "Context."},
        {"role": "user", "content": "b"},
    ]
    made = prepared([{"prompt": prompt, "completion": [{"role": "assistant", "content": "Trained."}]}], tokenizer)
    assert trained_texts(made, tokenizer) == ["Trained.<|endoftext|>"]


def test_the_recipes_system_message_begins_rows_that_have_none(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    own = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    made = prepared([{"messages": own}, {"messages": own[1:]}], tokenizer, system="Recipe's.")
    assert whole_text(made, tokenizer, 0).startswith("Own.\n\n### User:")
    assert whole_text(made, tokenizer, 1).startswith("Recipe's.\n\n### User:")


def test_a_template_without_a_place_for_system_messages_gets_them_in_the_first_turn(
    prepared: Prepare, phi3: Tokenizer
) -> None:
    tokenizer = phi3()
    made = prepared([{"question": "a?", "answer": "b"}], tokenizer, system="Be brief.")
    assert "Be brief.\n\na?" in whole_text(made, tokenizer)
    assert any("no place for a system message" in note for note in made.notes)


def test_columns_say_which_is_which(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    rows = [{"q": ASKED, "a": SAID, "note": "x"}]
    made = prepared(rows, tokenizer, columns={"prompt": "q", "completion": "a"})
    assert whole_text(made, tokenizer) == PLAIN
    made = prepared(rows, tokenizer, columns={"text": "note"})
    assert made.chunkable
    assert whole_text(made, tokenizer) == "x<|endoftext|>"


def test_a_column_that_is_not_there_is_named_with_those_that_are(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError) as caught:
        prepared([{"question": "a", "reply": "b"}], gpt2(), columns={"prompt": "question", "completion": "replay"})
    assert "The columns are question, reply" in str(caught.value)
    assert "Did you mean reply?" in str(caught.value)


def test_columns_that_mean_nothing_are_named_with_what_would_work(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError) as caught:
        prepared([{"colour": "a", "shape": "b"}], gpt2())
    lines = caught.value.lines()
    assert 3 <= len(lines) <= 8
    assert "colour, shape" in lines[0]
    assert "columns: {prompt: colour, completion: shape}" in str(caught.value)


def test_preference_pairs_are_recognised_and_refused(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError, match="preference pairs"):
        prepared([{"prompt": "a", "chosen": "b", "rejected": "c"}], gpt2())


# --- prompt_template ------------------------------------------------------------------------------------------------


def test_a_prompt_template_trains_its_last_value_and_what_follows(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared(
        [{"instruction": "Add", "output": "Done"}],
        tokenizer,
        prompt_template="Do: {instruction}\nDid: {output} (end)",
    )
    assert made.format == "prompt template"
    assert whole_text(made, tokenizer) == "Do: Add\nDid: Done (end)<|endoftext|>"
    assert trained_texts(made, tokenizer) == [" Done (end)<|endoftext|>"]


def test_json_braces_in_a_prompt_template_are_left_alone(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    template = '{"ask": {"q": "{q}"}, "set": {1, 2}, "lit": "{{q}}", "answer": "{a}"}'
    made = prepared([{"q": "why", "a": "so"}], tokenizer, prompt_template=template)
    wanted = '{"ask": {"q": "why"}, "set": {1, 2}, "lit": "{q}", "answer": "so"}<|endoftext|>'
    assert whole_text(made, tokenizer) == wanted


def test_a_value_with_braces_is_not_a_placeholder(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"q": "{a}", "a": "{q}"}], tokenizer, prompt_template="{q}|{a}")
    assert whole_text(made, tokenizer) == "{a}|{q}<|endoftext|>"


def test_a_placeholder_that_is_no_column_is_named(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError) as caught:
        prepared([{"question": "a", "answer": "b"}], gpt2(), prompt_template="{question} {anwser}")
    assert "{anwser}" in str(caught.value)
    assert "Did you mean {answer}?" in str(caught.value)


def test_a_prompt_template_without_placeholders_is_refused(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError, match="no column in braces"):
        prepared([{"question": "a", "answer": "b"}], gpt2(), prompt_template="nothing here")


def test_a_template_of_a_model_that_begins_texts_gets_the_token_once(prepared: Prepare, phi3: Tokenizer) -> None:
    tokenizer = phi3()
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    for template in ("{q}: {a}", "<s>{q}: {a}"):
        made = prepared([{"q": "one", "a": "two"}], tokenizer, prompt_template=template)
        tokens, _ = made.documents(100)[0]
        assert tokens.tolist().count(tokenizer.bos_token_id) == 1
        assert tokens[0] == tokenizer.bos_token_id


# --- rows that do not fit -------------------------------------------------------------------------------------------

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
        ({"messages": []}, "no messages"),
        ({"other": 1}, "no messages"),
        ({"messages": "plain words"}, "messages is text, not a list of turns"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown role 'wizard'"),
        ({"messages": ["a"]}, "a turn is not an object with role and content"),
        ({"messages": [{"content": "a"}]}, "a turn has no role"),
        ({"messages": [{"role": "user"}]}, "a turn has no content"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]},
            "every assistant turn is empty or switched off",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "a turn holds an image or another part that is not text",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_counted_with_its_reason_and_place(
    prepared: Prepare, gpt2: Tokenizer, bad: dict[str, Any], reason: str
) -> None:
    made = prepared([GOOD, bad, GOOD, bad], gpt2())
    assert made.rows == 4
    assert len(made.lengths) == 2
    assert made.dropped == [{"reason": reason, "count": 2, "example": "line 2"}]


def test_a_row_that_the_template_refuses_is_counted_in_the_templates_words(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('I will not') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    bad = {"messages": [{"role": "user", "content": "bad"}, {"role": "assistant", "content": "b"}]}
    made = prepared([GOOD, bad], tokenizer)
    assert made.dropped == [{"reason": "the chat template refuses it: I will not", "count": 1, "example": "line 2"}]


def test_parts_of_text_are_joined_and_roles_of_tools_are_taken(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
            {"role": "tool", "content": "tool said"},
            {"role": "assistant", "content": "b"},
        ]
    }
    assert "one two" in whole_text(prepared([row], tokenizer), tokenizer)


def test_messages_that_are_no_lists_say_so(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError, match="messages is text, not a list of turns"):
        prepared([{"messages": "User: a"}], gpt2())


def test_empty_answers_and_missing_columns_are_told_apart(prepared: Prepare, gpt2: Tokenizer) -> None:
    rows = [{"question": "a", "answer": "b"}, {"question": "a", "answer": ""}, {"question": "a"}, {"answer": "b"}]
    made = prepared(rows, gpt2())
    assert {drop["reason"]: drop["count"] for drop in made.dropped} == {
        "empty answer": 1,
        "no answer": 1,
        "no question": 1,
    }


def test_numbers_are_answers_too(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"question": "6*7?", "answer": 42}], tokenizer)
    assert trained_texts(made, tokenizer) == ["42<|endoftext|>"]


def test_no_row_left_is_an_error_with_the_counts(prepared: Prepare, gpt2: Tokenizer) -> None:
    bad = {"messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(ColabMagicsError) as caught:
        prepared([bad] * 3, gpt2())
    assert "No row of rows.jsonl" in str(caught.value)
    assert "3 rows: no assistant turn (first: line 1)" in str(caught.value)
