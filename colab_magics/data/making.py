"""Rows to documents, with a count of all that happens to them on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from colab_magics.data.examples import Example, Judged, Pair, Unusable, Written
from colab_magics.data.formats import Format, Wishes, detect
from colab_magics.data.judgements import Model, detect_judged
from colab_magics.data.masks import PER_TURN, WHOLE, Chat, EndOfTurn, Masked, mask_chat
from colab_magics.data.rows import Progress, Reading, Row, read_rows
from colab_magics.data.sources import Source
from colab_magics.data.store import Writer
from colab_magics.data.templates import Renderer, TemplateRefuses, starts_with_bos
from colab_magics.data.tokenise import Tokeniser
from colab_magics.errors import clean

_LOOKED_AT = 50
_BATCH = 256
_BATCH_CHARACTERS = 1 << 20


class Maker:
    """Rows to documents, with a count of all that happened to them."""

    def __init__(
        self, tokenizer: Any, renderer: Renderer, wishes: Wishes, *, whole: bool, has_template: bool = True
    ) -> None:
        self.renderer, self.wishes, self.whole, self.has_template = renderer, wishes, whole, has_template
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
        form = self._format(head, str(source))
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
            "together": form.together,
            "mask_method": _methods(self.methods),
            "rows": self.rows,
            "dropped": list(self.dropped.values()),
            "split_rows": self.split_rows,
            "split_extra": self.split_extra,
            "notes": self._notes(),
        }

    def _format(self, head: list[Row], source: str) -> Format:
        if self.wishes.objective == "sft":
            return detect(head, self.wishes, source=source, written=self._written)
        return detect_judged(head, self.wishes, source=source, model=Model(self._written, self.has_template))

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
                made = self.masked(form.read(row.fields), row)
            except Unusable as reason:
                self._drop(str(reason), row)
                continue
            except TemplateRefuses as refusal:
                self._drop(f"the chat template refuses it: {clean(refusal)[:120]}", row)
                continue
            if not made:
                self._drop("the response cannot be found in what the chat template renders", row)
                continue
            if made[0].method == PER_TURN and made[0].desirable is None:
                self.split_rows += 1
                self.split_extra += len(made) - 1
            self.methods[made[0].method] += 1
            yield from made

    def _drop(self, reason: str, row: Row) -> None:
        count = self.dropped.setdefault(reason, {"reason": reason, "count": 0, "example": row.place})
        count["count"] += 1

    def masked(self, example: Example, row: Row) -> list[Masked]:
        """The text of an example, and which parts of it are trained."""
        if isinstance(example, Pair):
            return [*self._judged(example.chosen, True, row), *self._judged(example.rejected, False, row)]
        if isinstance(example, Judged):
            return self._judged(example.answer, example.desirable, row)
        if isinstance(example, Chat):
            self.chats += 1
            return mask_chat(self._folded(example), self.renderer, self.ends, whole=self.whole)
        if isinstance(example, Written):
            prompt = self.begun(example.prompt)
            text = prompt + example.completion
            if not self.ends.closes(text):
                text += self.ends.eos
            start = 0 if self.whole else len(prompt)
            return [Masked(text, [(start, len(text))], WHOLE if self.whole else "the part after the prompt")]
        text = example.text if row.continues else self.begun(example.text)
        if not row.goes_on and not self.ends.closes(text):
            text += self.ends.eos
        return [Masked(text, [(0, len(text))], WHOLE, row.continues)]

    def _judged(self, answer: Chat | Written, desirable: bool, row: Row) -> list[Masked]:
        """The one document of a judged answer; none of its parts can be left out, or others would be compared."""
        made = self.masked(answer, row)
        if not made:
            raise Unusable("an answer cannot be found in what the chat template renders")
        if len(made) > 1:
            raise Unusable("the chat template cannot render an answer of several turns in one text")
        return [replace(made[0], desirable=desirable)]

    def begun(self, text: str) -> str:
        """The text with the token before it that the tokenizer puts there."""
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


def _tokenised(tokenise: Tokeniser, batch: list[Masked]) -> list[tuple[Any, Any, Masked]]:
    return [(tokens, trained, document) for document, (tokens, trained) in zip(batch, tokenise(batch), strict=True)]


def _write(pieces: list[tuple[Any, Any, Masked]], writer: Writer) -> None:
    for tokens, trained, document in pieces:
        writer.add(tokens, trained, continues=document.continues, desirable=document.desirable)


def _methods(methods: Counter[str]) -> str:
    if len(methods) <= 1:
        return next(iter(methods), "")
    return ", ".join(f"{method} ({count} rows)" for method, count in methods.most_common())
