"""Tokens and marks: by position in the text, for fast and slow tokenizers alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.data.masks import Masked
from colab_magics.data.tokenise import Tokeniser


def only(tokenizer: Any, text: str, *spans: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    [(tokens, trained)] = Tokeniser(tokenizer)([Masked(text, list(spans), "")])
    assert tokens.dtype == np.int32
    assert trained.dtype == np.bool_
    assert len(tokens) == len(trained)
    return tokens, trained


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_nothing_is_added_to_what_the_template_printed(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)()
    tokens, _ = only(tokenizer, "Hello there.", (0, 12))
    assert tokens.tolist() == tokenizer("Hello there.", add_special_tokens=False)["input_ids"]


def test_the_first_token_is_never_trained(gpt2: Callable[[], Any]) -> None:
    _, trained = only(gpt2(), "Hello there.", (0, 12))
    assert trained.tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_a_character_of_several_tokens_is_trained_whole(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)()
    text = "Say: 🦜𓀀 ok"
    start = text.index("🦜")
    tokens, trained = only(tokenizer, text, (start, start + 2))
    said = tokenizer.decode(tokens[trained].tolist())
    assert said.strip() == "🦜𓀀"
    assert trained.sum() >= 4


def test_a_padding_token_that_is_also_the_end_of_text_is_trained(phi3: Callable[[], Any]) -> None:
    tokenizer = phi3()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    text = "Q: a\nA: b<|endoftext|>"
    tokens, trained = only(tokenizer, text, (text.index("b"), len(text)))
    assert tokens[-1] == tokenizer.eos_token_id
    assert trained[-1]


def test_a_call_that_truncated_or_padded_before_changes_nothing(gpt2: Callable[[], Any]) -> None:
    tokenizer = gpt2()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["a", "b c d"], padding="max_length", truncation=True, max_length=2)
    tokens, _ = only(tokenizer, "one two three four five", (0, 3))
    assert len(tokens) == 5


def test_half_a_surrogate_pair_is_replaced_rather_than_fatal(gpt2: Callable[[], Any]) -> None:
    tokens, trained = only(gpt2(), "bad \ud83d char", (4, 5))
    assert trained.any()
    assert len(tokens) >= 3


def test_a_slow_tokenizer_marks_the_same_characters() -> None:
    transformers = pytest.importorskip("transformers")
    slow = transformers.ByT5Tokenizer()
    assert not slow.is_fast
    text = "Question? Answer.</s>"
    tokens, trained = only(slow, text, (10, len(text)))
    assert slow.decode(tokens[trained].tolist()) == "Answer.</s>"
    assert tokens[-1] == slow.eos_token_id


text = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(max_examples=100, deadline=None)
@given(before=text, inside=text.filter(str.strip), after=text, name=st.sampled_from(["gpt2", "phi3"]))
def test_the_marked_tokens_hold_every_marked_character(
    request: Any, before: str, inside: str, after: str, name: str
) -> None:
    tokenizer = request.getfixturevalue(name)()
    whole = before + inside + after
    _, trained = only(tokenizer, whole, (len(before), len(before) + len(inside)))
    encoding = tokenizer.backend_tokenizer.encode(whole, add_special_tokens=False)
    covered = {
        position
        for (start, end), marked in zip(encoding.offsets, trained, strict=True)
        if marked
        for position in range(start, end)
    }
    first = encoding.offsets[0]
    for position in range(len(before), len(before) + len(inside)):
        known = any(start <= position < end for start, end in encoding.offsets)
        if known and not first[0] <= position < first[1]:
            assert position in covered, (whole, position)
