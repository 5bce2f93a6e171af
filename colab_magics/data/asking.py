"""A prompt as the model read it while it was trained, token for token, up to where its answer begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from colab_magics.data.examples import Example, Text, Unusable, Written, words
from colab_magics.data.formats import PAIRS, Wishes, detect
from colab_magics.data.making import Maker
from colab_magics.data.masks import Chat, Masked
from colab_magics.data.placeholders import columns_of, fill_in
from colab_magics.data.rows import Row
from colab_magics.data.templates import Renderer, TemplateRefuses, chat_template_of
from colab_magics.data.turns import turns_of
from colab_magics.errors import ColabMagicsError, clean

Said = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A prompt: its words; the turns of a chat; or a row, by its columns."""

Style = Literal["chat", "template", "text"]

# Stands for the answer that is not there yet: what comes before it is what the model is asked.
_ANSWER = "A"
_QUESTIONS = (("prompt", "completion"), ("instruction", "output"), *PAIRS)


@dataclass(frozen=True)
class Question:
    """One prompt.

    Attributes
    ----------
    shown : str
        What the person wrote, in short.
    ids : tuple of int
        What the model reads.
    reference : str, optional
        The answer that the data has, where it has one.
    """

    shown: str
    ids: tuple[int, ...]
    reference: str | None = None

    def called(self, shown: str) -> Question:
        """The same, shown by other words."""
        return replace(self, shown=shown)


class Asker:
    """Makes questions of prompts, as one run's data were made.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    wishes : Wishes
        The recipe's columns, prompt_template and system.
    now : datetime
        The clock under which the run's templates were rendered.
    format : str
        How the run's rows were read, by the name that its `data` event tells; "" where there was no run.

    Attributes
    ----------
    stops : set of int
        Tokens that close an answer, as the questions so far have shown it: the model was taught to end with them,
        whatever its generation config says.
    """

    def __init__(self, tokenizer: Any, wishes: Wishes, now: datetime, format: str = "") -> None:
        template = chat_template_of(tokenizer)
        self.style: Style = _style(wishes, format, template)
        self.stops: set[int] = set()
        self._tokenizer, self._wishes = tokenizer, wishes
        self._maker = Maker(tokenizer, Renderer(template or "", tokenizer.special_tokens_map, now), wishes, whole=False)
        self._added = set(getattr(tokenizer, "added_tokens_decoder", {}))

    def __call__(self, said: Said) -> Question:
        """The question that a prompt is.

        Raises
        ------
        ColabMagicsError
            It is empty, its columns are not those of the template, or the chat template refuses it.
        """
        if isinstance(said, str):
            return self._words(said)
        try:
            if isinstance(said, Mapping):
                return self._row(said)
            return self._chat(turns_of(list(said), "messages"), _last_words(said))
        except Unusable as reason:
            raise ColabMagicsError(
                f"A prompt cannot be asked: {reason}.",
                "",
                "A prompt is text, a list of turns with role and content, or a row of columns.",
            ) from None

    def raw(self, text: str) -> Question:
        """The text as it is, with nothing before it."""
        if not text:
            raise _empty()
        return Question(text, tuple(map(int, self._maker.tokenise([Masked(text, [], "")])[0][0])))

    def _words(self, text: str) -> Question:
        if not text.strip():
            raise _empty()
        if self.style == "chat":
            return self._chat([{"role": "user", "content": text}], text)
        if self.style == "text":
            return self.raw(self._maker.begun(text)).called(text)
        columns = columns_of(str(self._wishes.prompt_template), self._wishes.columns or {})
        if len(columns) != 2:
            asked = ", ".join(columns[:-1])
            raise ColabMagicsError(
                f"prompt_template asks for {asked or 'no column'}, and the prompt is one text.",
                "A text can stand for one column only.",
                f"Give a row: {{{': …, '.join(columns[:-1])}: …}}, or --prompts VAR with a list of dicts."
                if asked
                else "",
                "--raw sends a text as it is.",
            )
        return self._row({columns[0]: text}).called(text)

    def _row(self, row: Mapping[str, Any]) -> Question:
        template = self._wishes.prompt_template
        if template is None or not (names := columns_of(template, self._wishes.columns or {})):
            return self._known_columns(row)
        answer = row.get(names[-1])
        whole = {**row, names[-1]: answer or _ANSWER}
        if missing := [name for name in names if name not in whole]:
            raise ColabMagicsError(
                f"A prompt has no {', '.join(missing)}, which prompt_template asks for.",
                f"It has {', '.join(map(str, row)) or 'nothing'}.",
                f"Give {', '.join(names[:-1])}.",
            )
        read = fill_in(template, self._wishes.columns or {}, list(map(str, whole)), "the prompt")
        shown = " / ".join(words(row, name, may_be_empty=True) for name in names[:-1])
        return self._of(read(whole), shown, answer)

    def _known_columns(self, row: Mapping[str, Any]) -> Question:
        """A row whose columns say what they are, with its answer or without."""
        if self.style == "chat" and isinstance(row.get("prompt"), str):
            turns = [{"role": "user", "content": words(row, "prompt")}]
            if row.get("completion"):
                turns.append({"role": "assistant", "content": words(row, "completion")})
            return self._chat(turns, str(row["prompt"]))
        whole, answered = dict(row), True
        for asked, answer in _QUESTIONS:
            if asked in row and not any(row.get(other) for _, other in _QUESTIONS):
                whole[answer], answered = _ANSWER, False
                break
        for column in ("messages", "conversations", "conversation"):
            if column in row:
                turns = turns_of(row[column], column)
                return self._chat(turns, _last_words(turns))
        rows = [Row("the prompt", whole)]
        form = detect(rows, self._wishes, source="the prompt", written=lambda _: self.style == "text")
        example = form.read(whole)
        if isinstance(example, Chat):
            shown = str(example.messages[-2]["content"])
            return self._chat(example.messages if answered else example.messages[:-1], shown)
        assert isinstance(example, Written | Text)  # judged answers are read by another
        shown = example.prompt if isinstance(example, Written) else example.text
        return self._of(example, shown, example.completion if isinstance(example, Written) and answered else None)

    def _chat(self, turns: list[dict[str, Any]], shown: str) -> Question:
        if not any(str(turn.get("content") or "").strip() for turn in turns if turn["role"] != "system"):
            raise _empty()
        reference = None
        if turns[-1]["role"] == "assistant":
            *turns, last = turns
            reference = str(last["content"])
        system = self._wishes.system
        if system and turns and turns[0]["role"] not in {"system", "developer"}:
            turns = [{"role": "system", "content": system}, *turns]
        if not turns or all(turn["role"] == "system" for turn in turns):
            raise _empty()
        answer = {"role": "assistant", "content": reference or _ANSWER}
        return self._of(Chat([*turns, answer], (len(turns),)), shown, reference)

    def _of(self, example: Example, shown: str, reference: Any) -> Question:
        if isinstance(example, Text):
            return self.raw(self._maker.begun(example.text)).called(shown)
        try:
            masked = self._maker.masked(example, Row("the prompt", {}))
        except TemplateRefuses as refusal:
            raise ColabMagicsError(
                "The chat template refuses the prompt.",
                clean(refusal)[:200],
                "--raw sends a text as it is.",
            ) from None
        if not masked:
            raise ColabMagicsError(
                "The place of the answer cannot be found in what the chat template renders.",
                "So it cannot be told what the model would be asked.",
                "--raw sends a text as it is.",
            )
        [(tokens, trained)] = self._maker.tokenise([masked[-1]])
        first, last = last_answer(trained)
        if int(tokens[last - 1]) in self._added:
            self.stops.add(int(tokens[last - 1]))
        ids = tuple(map(int, tokens[:first]))
        return Question(shown, ids, None if reference is None else str(reference))


def last_answer(trained: Any) -> tuple[int, int]:
    """The [start, end) of the last trained part of a document, in tokens; both 0 where there is none."""
    end = len(trained)
    while end and not trained[end - 1]:
        end -= 1
    start = end
    while start and trained[start - 1]:
        start -= 1
    return start, end


def _style(wishes: Wishes, format: str, template: str | None) -> Style:
    if wishes.prompt_template is not None:
        return "template"
    if format == "text" or "joined as written" in format or template is None:
        return "text"
    return "chat"


def _last_words(turns: Sequence[Mapping[str, Any]]) -> str:
    """What the last turn but an assistant's says."""
    said = [turn for turn in turns if turn.get("role", turn.get("from")) not in ("assistant", "gpt")]
    return str(said[-1].get("content", said[-1].get("value"))) if said else ""


def _empty() -> ColabMagicsError:
    return ColabMagicsError(
        "The prompt is empty.",
        "There is nothing to answer.",
        "Write it below %%generate, behind %generate, or name a variable with --prompts.",
    )
