"""Rows to tokens on disk, once: the second run finds them there in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from colab_magics.data.documents import Documents
from colab_magics.data.formats import Example, Format, Unusable, Wishes, Written, detect
from colab_magics.data.masks import PER_TURN, WHOLE, Chat, EndOfTurn, Masked, mask_chat
from colab_magics.data.rows import Reading, Row, read_rows
from colab_magics.data.sources import Source, changed, identity
from colab_magics.data.store import ARRAYS, Writer, read_array, read_meta
from colab_magics.data.templates import (
    Renderer,
    TemplateRefuses,
    chat_template_of,
    ensure_chat_template,
    starts_with_bos,
)
from colab_magics.data.tokenise import Tokeniser
from colab_magics.errors import ColabMagicsError, clean

if TYPE_CHECKING:
    from colab_magics.recipe import Recipe

Progress = Callable[[str, int, int | None, str], None]

# Raised when the same rows would become other tokens.
_VERSION = 1
_LOOKED_AT = 50
# What an entry's meta says of `Prepared`.
_TOLD = ("format", "mask_method", "rows", "dropped", "split_rows", "split_extra", "notes", "chunkable", "fingerprint")
_BATCH = 256
_BATCH_CHARACTERS = 1 << 20


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
        Rows read; `rows == documents + dropped - split_extra` always holds.
    dropped : list of dict
        `reason`, `count`, `example` (where the first one stands).
    split_rows, split_extra : int
        Rows that became one document per assistant turn, and how many documents more than rows that made.
    notes : list of str
        What was done to the rows that the recipe did not ask for.
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
    wishes = Wishes(recipe.columns, recipe.prompt_template, recipe.system)
    whole = recipe.loss_on == "all"
    renderer = Renderer(str(chat_template_of(tokenizer)), tokenizer.special_tokens_map, now)
    key = _key(source, tokenizer, wishes, renderer, whole=whole, now=now, limit=limit)
    folder = cache / "tokens" / key
    found = _load(folder, cached=True)
    if found is not None:
        return found
    maker = _Maker(tokenizer, renderer, wishes, whole=whole)
    writer = Writer(cache / "tokens", key)
    try:
        meta = maker.make(source, limit, writer, progress)
        if not writer.documents or not writer.trained_tokens:
            raise _nothing(source, split, meta)
        if note and maker.chats:
            meta["notes"].insert(0, note)
        folder = writer.commit(meta)
    except BaseException:
        writer.discard()
        raise
    made = _load(folder, cached=False)
    if made is None:
        raise ColabMagicsError(f"{folder} was damaged while it was written", "the disk may be full or failing")
    return made


def _load(folder: Path, *, cached: bool) -> Prepared | None:
    meta = read_meta(folder)
    if meta is None:
        return None
    try:
        arrays = {name: read_array(folder, name) for name in ARRAYS}
        if len(arrays["tokens"]) != arrays["offsets"][-1]:
            return None
        told = {name: meta[name] for name in _TOLD}
        columns: dict[str, Any] = {**told, **arrays, "lengths": np.diff(arrays["offsets"]).astype(np.int32)}
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


class _Maker:
    """Rows to documents, with a count of all that happened to them."""

    def __init__(self, tokenizer: Any, renderer: Renderer, wishes: Wishes, *, whole: bool) -> None:
        self.renderer, self.wishes, self.whole = renderer, wishes, whole
        self.tokenise = Tokeniser(tokenizer)
        self.ends = EndOfTurn.of(tokenizer)
        self.begin = tokenizer.bos_token if starts_with_bos(tokenizer) else ""
        self.methods: Counter[str] = Counter()
        self.dropped: dict[str, dict[str, Any]] = {}
        self.rows = self.split_rows = self.split_extra = self.chats = self.folded = 0
        self.folds = not _takes_system(renderer)

    def make(self, source: Source, limit: int | None, writer: Writer, progress: Progress) -> dict[str, Any]:
        """Everything the entry's meta says about the rows; the documents go to `writer`."""
        reading = Reading()
        rows = read_rows(source, limit=limit, reading=reading)
        head = list(islice(rows, _LOOKED_AT))
        form = detect(head, self.wishes, source=str(source), written=self._written)
        # While Rust tokenises one batch, Python renders the next.
        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
            pending = None
            for batch in _batches(self._documents(chain(head, rows), form)):
                if pending is not None:
                    _write(pending.result(), writer)
                pending = pool.submit(_tokenised, self.tokenise, batch)
                done, total, unit = self._how_far(reading, limit)
                progress("tokenising", done, total, unit)
            if pending is not None:
                _write(pending.result(), writer)
        progress("tokenising", self.rows, self.rows, "rows")
        return {
            "format": form.name,
            "chunkable": form.chunkable,
            "mask_method": _methods(self.methods),
            "rows": self.rows,
            "dropped": list(self.dropped.values()),
            "split_rows": self.split_rows,
            "split_extra": self.split_extra,
            "notes": self._notes(),
        }

    def _how_far(self, reading: Reading, limit: int | None) -> tuple[int, int | None, str]:
        if limit is not None or not reading.size:
            return self.rows, limit, "rows"
        return reading.look(), reading.size, "bytes"

    def _written(self, prompt: str) -> bool:
        return self.ends.pattern.search(prompt) is not None

    def _notes(self) -> list[str]:
        notes = []
        if self.folded:
            notes.append(
                "the chat template has no place for a system message: "
                f"in {self.folded} rows it begins the first user turn"
            )
        if self.split_rows:
            notes.append(
                f"{self.split_rows} rows became {self.split_rows + self.split_extra} documents, one per assistant "
                "turn: the chat template renders earlier turns in another way than the last"
            )
        return notes

    def _documents(self, rows: Iterator[Row], form: Format) -> Iterator[Masked]:
        for row in rows:
            if not row.continues:
                self.rows += 1
            try:
                made = self._masked(form.read(row.fields), row)
            except Unusable as reason:
                self._drop(str(reason), row)
                continue
            except TemplateRefuses as refusal:
                self._drop(f"the chat template refuses it: {clean(refusal)[:120]}", row)
                continue
            if not made:
                self._drop("the response cannot be found in what the chat template renders", row)
                continue
            if made[0].method == PER_TURN:
                self.split_rows += 1
                self.split_extra += len(made) - 1
            self.methods[made[0].method] += 1
            yield from made

    def _drop(self, reason: str, row: Row) -> None:
        count = self.dropped.setdefault(reason, {"reason": reason, "count": 0, "example": row.place})
        count["count"] += 1

    def _masked(self, example: Example, row: Row) -> list[Masked]:
        if isinstance(example, Chat):
            self.chats += 1
            return mask_chat(self._folded(example), self.renderer, self.ends, whole=self.whole)
        if isinstance(example, Written):
            prompt = self._begun(example.prompt)
            text = prompt + example.completion
            if not self.ends.closes(text):
                text += self.ends.eos
            start = 0 if self.whole else len(prompt)
            return [Masked(text, [(start, len(text))], WHOLE if self.whole else "the part after the prompt")]
        text = example.text if row.continues else self._begun(example.text)
        if not row.goes_on and not self.ends.closes(text):
            text += self.ends.eos
        return [Masked(text, [(0, len(text))], WHOLE, row.continues)]

    def _begun(self, text: str) -> str:
        return text if not self.begin or text.startswith(self.begin) else self.begin + text

    def _folded(self, chat: Chat) -> Chat:
        """The chat with its system message in the first user turn, where the template has no place for one."""
        first = chat.messages[0]
        if not self.folds or first["role"] not in {"system", "developer"} or len(chat.messages) < 2:
            return chat
        second = chat.messages[1]
        if second["role"] != "user":
            return chat
        self.folded += 1
        merged = {**second, "content": f"{first['content']}\n\n{second['content']}"}
        return Chat([merged, *chat.messages[2:]], tuple(turn - 1 for turn in chat.trained), chat.tools)


def _takes_system(renderer: Renderer) -> bool:
    said = [
        {"role": "system", "content": "7f3-system"},
        {"role": "user", "content": "7f3-user"},
        {"role": "assistant", "content": "7f3-assistant"},
    ]
    try:
        return "7f3-system" in renderer.render(said)
    except TemplateRefuses:
        return False


def _batches(documents: Iterator[Masked]) -> Iterator[list[Masked]]:
    batch: list[Masked] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokenised(tokenise: Tokeniser, batch: list[Masked]) -> list[tuple[Any, Any, bool]]:
    return [
        (tokens, trained, document.continues)
        for document, (tokens, trained) in zip(batch, tokenise(batch), strict=True)
    ]


def _write(pieces: list[tuple[Any, Any, bool]], writer: Writer) -> None:
    for tokens, trained, continues in pieces:
        writer.add(tokens, trained, continues=continues)


def _methods(methods: Counter[str]) -> str:
    if len(methods) <= 1:
        return next(iter(methods), "")
    return ", ".join(f"{method} ({count} rows)" for method, count in methods.most_common())


def _nothing(source: Source, split: str, meta: dict[str, Any]) -> ColabMagicsError:
    drops = sorted(meta["dropped"], key=lambda drop: -drop["count"])
    return ColabMagicsError(
        f"no row of {source} ({split} data) can be trained on",
        f"format: {meta['format']}; {meta['rows']} rows were read",
        "look at the rows named here, or say which columns hold what: columns: {prompt: …, completion: …}",
        details=[f"{drop['count']} rows: {drop['reason']} (first: {drop['example']})" for drop in drops[:3]],
    )
