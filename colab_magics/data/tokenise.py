"""Texts to tokens, with a mark on each token that is trained. Characters decide, by position; never a token's id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.data.masks import Masked, Span

Tokens = npt.NDArray[np.int32]
Trained = npt.NDArray[np.bool_]


class Tokeniser:
    """A tokenizer that adds nothing of its own: what the template printed is what is trained.

    A fast tokenizer gets whole batches, which its Rust side spreads over all cores. A slow one has no offsets: there
    the tokens before a character are counted by tokenising the text up to it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None

    def __call__(self, documents: Sequence[Masked]) -> list[tuple[Tokens, Trained]]:
        """Tokens and marks of each document; the first token of a document is never trained (nothing predicts it)."""
        if self._backend is None:
            return [self._slowly(document) for document in documents]
        # transformers sets both before each of its own calls.
        self._backend.no_truncation()
        self._backend.no_padding()
        texts = [document.text for document in documents]
        try:
            encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            # Half of a surrogate pair, which JSON allows ("\ud83d") and UTF-8 does not.
            whole = [text.encode("utf-8", "replace").decode() for text in texts]
            encodings = self._backend.encode_batch(whole, add_special_tokens=False)
        return [_marked(encoding, document) for encoding, document in zip(encodings, documents, strict=True)]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text.encode("utf-8", "replace").decode(), add_special_tokens=False)["input_ids"])

    def _slowly(self, document: Masked) -> tuple[Tokens, Trained]:
        ids = self._ids(document.text)
        trained = np.zeros(len(ids), np.bool_)
        for start, end in document.spans:
            first, _ = self._tokens_before(document.text, ids, start)
            last, aligned = self._tokens_before(document.text, ids, end)
            # A token that straddles the end of a part belongs to it.
            trained[first : last if aligned else last + 1] = True
        return np.asarray(ids, np.int32), _but_the_first(trained, document)

    def _tokens_before(self, text: str, ids: list[int], position: int) -> tuple[int, bool]:
        """How many of `ids` lie before the character `position`, and whether a token ends right there."""
        if position in (0, len(text)):
            return (0, True) if position == 0 else (len(ids), True)
        before = self._ids(text[:position])
        same = next(
            (k for k, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids))
        )
        return same, same == len(before)


def _marked(encoding: Any, document: Masked) -> tuple[Tokens, Trained]:
    tokens = np.array(encoding.ids, np.int32)
    trained = np.zeros(len(tokens), np.bool_)
    if document.spans == [(0, len(document.text))]:
        trained[:] = True
    elif len(tokens):
        offsets = np.array(encoding.offsets, np.int64)
        for first, last in _token_ranges(offsets, document.spans):
            trained[first:last] = True
    return tokens, _but_the_first(trained, document)


def _token_ranges(offsets: npt.NDArray[np.int64], spans: Sequence[Span]) -> list[tuple[int, int]]:
    """The tokens that overlap each span. Running maxima: tokens of one character share its offsets, and a byte-level
    tokenizer gives some white space an empty range."""
    starts = np.maximum.accumulate(offsets[:, 0])
    ends = np.maximum.accumulate(offsets[:, 1])
    return [
        (int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(starts, end, side="left")))
        for start, end in spans
    ]


def _but_the_first(trained: Trained, document: Masked) -> Trained:
    if len(trained) and not document.continues:
        trained[0] = False
    return trained
