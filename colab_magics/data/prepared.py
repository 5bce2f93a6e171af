"""Rows to tokens on disk, once: the second run finds them there in milliseconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from colab_magics.data.documents import Documents
from colab_magics.data.formats import Wishes
from colab_magics.data.judgements import SAME
from colab_magics.data.making import Maker
from colab_magics.data.rows import Progress
from colab_magics.data.sources import Source, changed, identity
from colab_magics.data.store import ARRAYS, Writer, read_array, read_labels, read_meta
from colab_magics.data.templates import Renderer, chat_template_of, ensure_chat_template
from colab_magics.errors import ColabMagicsError

if TYPE_CHECKING:
    from colab_magics.recipe import Recipe


# Raised when the same rows would become other tokens.
_VERSION = 1
# What a recipe's `columns` name, by what it learns from.
_COLUMNS = {
    "sft": "{prompt: …, completion: …}",
    "dpo": "{prompt: …, chosen: …, rejected: …}",
    "orpo": "{prompt: …, chosen: …, rejected: …}",
    "kto": "{prompt: …, completion: …, label: …}",
}
# What an entry's meta says of `Prepared`.
_TOLD = ("format", "mask_method", "rows", "dropped", "split_rows", "split_extra", "notes", "chunkable", "fingerprint")


@dataclass(frozen=True)
class Prepared:
    """The documents of one split, in full length, memory-mapped.

    Attributes
    ----------
    tokens, trained : int32[total], bool[total]
        All documents end to end.
    offsets : int64[documents + 1]
    lengths, trained_counts, first_trained : int32[documents]
        Tokens, trained tokens, and the position of the first trained one.
    rows : int
        Rows read; `rows == documents / together + dropped - split_extra` always holds.
    dropped : list of dict
        `reason`, `count`, `example` (where the first one stands).
    split_rows, split_extra : int
        Rows that became one document per assistant turn, and how many documents more than rows that made.
    notes : list of str
        What was done to the rows that the recipe did not ask for.
    together : int
        How many documents, one after another, are of one row: 2 where answers are compared, the preferred one first.
    desirable : bool[documents], optional
        Of each document whether its answer is one that should be given; None where nothing is judged.
    """

    folder: Path
    format: str
    mask_method: str
    rows: int
    dropped: list[dict[str, Any]]
    split_rows: int
    split_extra: int
    notes: list[str]
    chunkable: bool
    fingerprint: str
    cached: bool
    tokens: npt.NDArray[np.int32] = field(repr=False)
    trained: npt.NDArray[np.bool_] = field(repr=False)
    offsets: npt.NDArray[np.int64] = field(repr=False)
    lengths: npt.NDArray[np.int32] = field(repr=False)
    trained_counts: npt.NDArray[np.int32] = field(repr=False)
    first_trained: npt.NDArray[np.int32] = field(repr=False)
    together: int = 1
    desirable: npt.NDArray[np.bool_] | None = field(default=None, repr=False)

    def documents(self, max_length: int) -> Documents:
        """The documents as the loop reads them, none longer than `max_length`.

        Raises
        ------
        ColabMagicsError
            None is left.
        """
        return Documents(self, max_length)


def prepare(
    source: Source,
    tokenizer: Any,
    recipe: Recipe,
    *,
    split: Literal["train", "eval"],
    cache: Path,
    now: datetime,
    progress: Progress,
    limit: int | None = None,
) -> Prepared:
    """Read, render, mask and tokenise `source`, or find it done.

    Parameters
    ----------
    source : Source
    tokenizer : transformers tokenizer
        Gets the plain chat template if it has none.
    split : {"train", "eval"}
        Named in errors and progress.
    cache : Path
        Entries are made in `cache/tokens`.
    now : datetime
        The clock under which templates that print the date are rendered.
    progress : callable
        Called with (phase, done, total or None, unit).
    limit : int, optional
        Read only so many rows.

    Raises
    ------
    ColabMagicsError
        Rows that cannot be read, or none that can be trained on; reasons are counted.
    """
    note = ensure_chat_template(tokenizer)
    wishes = Wishes(recipe.columns, recipe.prompt_template, recipe.system, recipe.objective)
    whole = recipe.loss_on == "all"
    renderer = Renderer(str(chat_template_of(tokenizer)), tokenizer.special_tokens_map, now)
    key = _key(source, tokenizer, wishes, renderer, whole=whole, now=now, limit=limit)
    folder = cache / "tokens" / key
    found = load_prepared(folder, cached=True)
    if found is not None:
        return found
    maker = Maker(tokenizer, renderer, wishes, whole=whole, has_template=not note)
    writer = Writer(cache / "tokens", key)
    try:
        meta = maker.make(source, limit, writer, progress)
        if not writer.documents or not writer.trained_tokens:
            raise _nothing(source, split, meta, recipe.objective)
        if note and maker.chats:
            meta["notes"].insert(0, note)
        folder = writer.commit(meta)
    except BaseException:
        writer.discard()
        raise
    made = load_prepared(folder, cached=False)
    if made is None:
        raise ColabMagicsError(
            f"{folder} was damaged while it was written",
            "The disk may be full or failing.",
            "Make room, and run the cell again.",
        )
    return made


def load_prepared(folder: Path, *, cached: bool = True) -> Prepared | None:
    """The documents that `prepare` left in `folder`, or a copy of it; None if there are none, or they are damaged."""
    meta = read_meta(folder)
    if meta is None:
        return None
    try:
        arrays = {name: read_array(folder, name) for name in ARRAYS}
        if len(arrays["tokens"]) != arrays["offsets"][-1]:
            return None
        told = {name: meta[name] for name in _TOLD}
        columns: dict[str, Any] = {**told, **arrays, "lengths": np.diff(arrays["offsets"]).astype(np.int32)}
        columns |= {"together": int(meta.get("together", 1)), "desirable": read_labels(folder)}
        return Prepared(folder=folder, cached=cached, **columns)
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _key(
    source: Source, tokenizer: Any, wishes: Wishes, renderer: Renderer, *, whole: bool, now: datetime, limit: int | None
) -> str:
    """The name of the entry: everything that the tokens depend on."""
    parts = {
        "version": _VERSION,
        "data": [identity(source), changed(source)],
        "limit": limit,
        "tokenizer": _tokenizer_state(tokenizer),
        "template": renderer.template,
        "now": now.isoformat() if renderer.tells_time else None,
        "columns": dict(wishes.columns) if wishes.columns else None,
        "prompt_template": wishes.prompt_template,
        "system": wishes.system,
        "loss_on": "all" if whole else "response",
    }
    if wishes.objective != "sft":  # left out else, so that what was prepared before is found
        parts["objective"] = wishes.objective
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _tokenizer_state(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if backend is not None:
        # Truncation and padding are state of the last call, not of the tokenizer.
        backend.no_truncation()
        backend.no_padding()
        state = backend.to_str()
    else:
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        state = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), sorted(added.items())])
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return hashlib.blake2b((state + special).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _nothing(source: Source, split: str, meta: dict[str, Any], objective: str) -> ColabMagicsError:
    drops = sorted(meta["dropped"], key=lambda drop: -drop["count"])
    step = "Look at the rows named here, or say which columns hold what: columns: " + _COLUMNS[objective]
    if drops and drops[0]["reason"] == SAME:
        step = "Give each prompt two answers that differ, the better one as chosen."
    return ColabMagicsError(
        f"No row of {source} ({split} data) can be trained on.",
        f"Read as {meta['format']}: {meta['rows']} rows.",
        step,
        details=[
            f"{drop['count']} {'row' if drop['count'] == 1 else 'rows'}: {drop['reason']} (first: {drop['example']})"
            for drop in drops[:3]
        ],
    )
