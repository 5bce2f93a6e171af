"""The documents that are trained, once the length is known: truncated, cut into windows, or left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from colab_magics.data.tokenise import Tokens, Trained
from colab_magics.errors import ColabMagicsError

if TYPE_CHECKING:
    from colab_magics.data.prepared import Prepared

_SHOWN = 700
_ALIKE = "both answers are the same up to max_length"


class Documents(Sequence[tuple[Tokens, Trained]]):
    """What the loop reads: `documents[i]` is `(tokens: int32[n], trained: bool[n])`, n <= max_length.

    `trained[t]` says that token t is predicted and counts in the loss; `trained[0]` is False. Both are views of a
    memory map.

    Attributes
    ----------
    lengths : int32[len(self)]
    truncated : int
        Documents that lost their end.
    dropped : list of dict
        `reason`, `count` (and `example`) of the rows left out here.
    together : int
        How many documents in succession are of one row.
    desirable : bool[len(self)], optional
        Where answers are judged, whether this one should be given.
    """

    def __init__(self, prepared: Prepared, max_length: int) -> None:
        if max_length < 2:
            raise ColabMagicsError(
                f"max_length is {max_length}", "One token predicts the next: two are needed.", "Raise max_length."
            )
        self.max_length = max_length
        self._tokens, self._trained = prepared.tokens, prepared.trained
        self.together, self.desirable = prepared.together, prepared.desirable
        starts = prepared.offsets[:-1]
        if prepared.chunkable:
            starts, lengths = _windows(starts, prepared.lengths, max_length)
            self.truncated, self.dropped = 0, []
        else:
            late = self._of_a_row(prepared.first_trained >= max_length)
            same = ~late & self._alike(starts, prepared.lengths)
            inside = ~(late | same)
            starts, full = starts[inside], prepared.lengths[inside]
            lengths = np.minimum(full, max_length)
            self.truncated = int((full > max_length).sum())
            self.dropped = [
                {"reason": reason, "count": int(out.sum()) // self.together}
                for reason, out in (
                    (f"the response begins after max_length {max_length}", late),
                    (f"{_ALIKE} {max_length}", same),
                )
                if out.any()
            ]
            if self.desirable is not None:
                self.desirable = self.desirable[inside]
        self._starts: npt.NDArray[np.int64] = starts
        self.lengths: npt.NDArray[np.int32] = lengths.astype(np.int32)
        if not len(self.lengths):
            raise _none_left(prepared, self.dropped, max_length)

    def _of_a_row(self, out: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """True for every document of a row of which any is out."""
        return np.repeat(out.reshape(-1, self.together).any(1), self.together) if self.together > 1 else out

    def _alike(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """True for both answers of a pair of which only what is cut off differs."""
        alike = np.zeros(len(starts), np.bool_)
        if self.together == 2:
            cut = (lengths > self.max_length).reshape(-1, 2).all(1)
            for pair in np.flatnonzero(cut).tolist():
                one, other = (
                    self._tokens[start : start + self.max_length] for start in starts[2 * pair : 2 * pair + 2]
                )
                alike[2 * pair : 2 * pair + 2] = np.array_equal(one, other)
        return alike

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def samples(self) -> npt.NDArray[np.int32]:
        """Of each row that is trained on, the length of its longest document."""
        return self.lengths if self.together == 1 else self.lengths.reshape(-1, self.together).max(1)

    @overload
    def __getitem__(self, index: int) -> tuple[Tokens, Trained]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Tokens, Trained]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Tokens, Trained] | list[tuple[Tokens, Trained]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = int(self._starts[index])
        end = start + int(self.lengths[index])
        trained = self._trained[start:end]
        if len(trained) and trained[0]:  # a window that begins inside a text: nothing here predicts its first token
            trained = trained.copy()
            trained[0] = False
        return self._tokens[start:end], trained

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of all documents."""
        total = 0
        for start, length in zip(self._starts.tolist(), self.lengths.tolist(), strict=True):
            total += int(np.count_nonzero(self._trained[start + 1 : start + length]))
        return total

    def sample(self, tokenizer: Any, index: int = 0) -> list[list[Any]]:
        """One document as text: `[[text, trained], ...]`, long parts shortened in the middle."""
        tokens, trained = self[index]
        edges = [0, *(np.flatnonzero(np.diff(trained.astype(np.int8))) + 1).tolist(), len(tokens)]
        parts: list[list[Any]] = []
        written = ""
        for start, end in pairwise(edges):
            # Decoded from the beginning: a token's white space may depend on what stands before it.
            whole = tokenizer.decode(tokens[:end].tolist(), skip_special_tokens=False)
            text = whole[len(written) :] if whole.startswith(written) else tokenizer.decode(tokens[start:end].tolist())
            written = whole
            parts.append([_shortened(text), bool(trained[start])])
        return parts


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"


def _windows(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32], size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The start and length of each window; a last window of one token, which predicts nothing, is left out."""
    counts = -(-lengths.astype(np.int64) // size)
    document = np.repeat(np.arange(len(starts)), counts)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = starts[document] + nth * size
    sizes = np.minimum(size, lengths[document] - nth * size)
    return begins[sizes > 1], sizes[sizes > 1]


def _none_left(prepared: Prepared, dropped: Sequence[dict[str, Any]], max_length: int) -> ColabMagicsError:
    counted = [
        f"{drop['count']} {'row' if drop['count'] == 1 else 'rows'}: {drop['reason']}"
        for drop in [*prepared.dropped, *dropped]
    ]
    need = int(prepared.first_trained.min()) if len(prepared.first_trained) else 0
    if dropped and dropped[-1]["reason"].startswith(_ALIKE):
        why = f"The two answers of every row are the same up to max_length {max_length}, or begin after it."
        step = f"Raise max_length (the longest answer ends at {int(prepared.lengths.max())}), or shorten the prompts."
    elif need:
        why = f"The response of every row begins after max_length {max_length}."
        step = f"Raise max_length above {need}, or shorten the prompts."
    else:
        why = "No row has a token that is trained on."
        step = "Look at the rows, or say which columns hold what: columns: {prompt: …, completion: …}"
    return ColabMagicsError("No rows are left to train on.", why, step, details=counted)
