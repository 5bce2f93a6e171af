"""What the columns of a row mean where answers are judged: two answers to one prompt, or one and whether it is good."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colab_magics.data.documents import Documents
from colab_magics.data.examples import Judged, Pair, Unusable, Written, words
from colab_magics.data.formats import CONVERSATION_COLUMNS, Columns, Format, Wishes, listed, renaming, system_reader
from colab_magics.data.masks import Chat, Message
from colab_magics.data.rows import Row
from colab_magics.data.sources import Source
from colab_magics.data.turns import chat, turns_of
from colab_magics.errors import ColabMagicsError

# By the names that data sets on the Hub give them, the commonest first.
CHOSEN = ("chosen", "chosen_response", "preferred", "accepted", "response_chosen")
REJECTED = ("rejected", "rejected_response", "dispreferred", "rejected_answer", "response_rejected")
PROMPTS = ("prompt", "question", "instruction", "query", "input")
COMPLETIONS = ("completion", "response", "answer", "output")
JUDGEMENTS = ("label", "desirable", "kto_tag", "thumbs_up")

SAME = "chosen and rejected are the same"
_TRUE = frozenset({"true", "1", "1.0", "yes", "good", "desirable", "chosen"})
_FALSE = frozenset({"false", "0", "0.0", "-1", "no", "bad", "undesirable", "rejected"})
# Anthropic's HH-RLHF writes both conversations out, in words of its own.
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Model:
    """What a reader must know of the model: whether a text carries its template's marks, and whether it has one."""

    written: Callable[[str], bool]
    has_template: bool


class NotJudged(ColabMagicsError):
    """Rows of another kind than the objective learns from."""


def check_both_judged(documents: Documents, source: Source, dropped: Sequence[Mapping[str, Any]]) -> None:
    """Refuse answers that are judged all alike: it is from the two kinds beside each other that kto learns.

    Parameters
    ----------
    dropped : what was left out before, and why: one kind may have been lost there

    Raises
    ------
    ColabMagicsError
        None of them is good, or none bad.
    """
    good = documents.desirable
    if good is None or documents.together == 2 or (good.any() and not good.all()):
        return
    there, missing, label = ("good", "bad", "false") if good.all() else ("bad", "good", "true")
    all_of_them = (
        f"All {len(documents):,} answers of {source} are" if len(documents) > 1 else f"{source}'s one answer is"
    )
    raise ColabMagicsError(
        f"{all_of_them} judged {there}.",
        f"kto learns from how good and bad answers differ, and nothing is judged {missing}.",
        f"Add rows with label: {label}.",
        "To train on the answers as they are, leave the method out." if there == "good" else "",
        details=[f"{drop['count']:,} × {drop['reason']}" for drop in [*dropped, *documents.dropped]],
    )


def detect_judged(rows: Sequence[Row], wishes: Wishes, *, source: str, model: Model) -> Format:
    """The format of rows that begin like `rows`, for an objective that compares.

    Raises
    ------
    ColabMagicsError
        The data is not what the objective learns from, or holds conversations that the model has no template for.
    """
    found = list(dict.fromkeys(column for row in rows for column in row.fields))
    rename = renaming(wishes.columns, found, source) if wishes.columns else None
    firsts = [rename(row.fields) if rename else row.fields for row in rows]
    known = Columns(firsts)
    chosen, rejected, label = known.first(CHOSEN), known.first(REJECTED), known.first(JUDGEMENTS)
    if chosen is not None and rejected is not None:
        form = _pairs(known, firsts, chosen, rejected, wishes, source, model)
    elif label is not None and wishes.objective == "kto":
        form = _singles(known, firsts, label, wishes, source, model)
    else:
        raise _not_judged(source, found, wishes.objective, labelled=label is not None)
    if rename is None:
        return form
    return Format(form.name, lambda fields: form.read(rename(fields)), together=form.together)


def _pairs(
    known: Columns,
    firsts: Sequence[Mapping[str, Any]],
    chosen: str,
    rejected: str,
    wishes: Wishes,
    source: str,
    model: Model,
) -> Format:
    prompt = known.first((*PROMPTS, *CONVERSATION_COLUMNS))
    values = [(row.get(prompt) if prompt else None, row.get(chosen), row.get(rejected)) for row in firsts]
    spoken = any(_are_turns(value) for asked, *said in values for value in (asked, *said))
    _check_template(spoken, source, model)
    if prompt is None and not spoken and not any(_is_transcript(said) for _, *both in values for said in both):
        raise ColabMagicsError(
            f"{source} has {chosen} and {rejected}, and no prompt.",
            "Two texts do not say where their prompt ends and the answers begin.",
            "Add a prompt column, or give whole conversations (lists of messages).",
        )
    together = _joined(((asked, said) for asked, *both in values for said in both), model)
    read = _Answers(prompt, known.get("input") if prompt == known.get("instruction") else known.get("context"),
                    system_reader(known, wishes.system), together, model.has_template)  # fmt: skip

    def pair(row: Mapping[str, Any]) -> Pair:
        if _same(row.get(chosen), row.get(rejected)):
            raise Unusable(SAME)
        if _are_turns(row.get(chosen)) and _are_turns(row.get(rejected)):
            return read.conversations(row, chosen, rejected)
        if prompt is None:
            return read.transcripts(row, chosen, rejected)
        return Pair(read.answer(row, chosen), read.answer(row, rejected))

    name = f"{chosen} / {rejected}"
    name = f"{prompt} + {name}" if prompt else f"{name} (conversations)"
    # to kto they are two answers that are judged, and each is a sample
    return Format(name, pair, together=1 if wishes.objective == "kto" else 2)


def _singles(
    known: Columns, firsts: Sequence[Mapping[str, Any]], label: str, wishes: Wishes, source: str, model: Model
) -> Format:
    prompt, said = known.first(PROMPTS), known.first(COMPLETIONS)
    whole = known.first(CONVERSATION_COLUMNS)
    if said is None or prompt is None or prompt == said:
        if whole is None:
            raise ColabMagicsError(
                f"{source} has a {label}, and it is not clear of what.",
                f"The columns are {listed(list(known.names.values()))}.",
                "Say which is which: columns: {prompt: A, completion: B, label: C}",
            )
        said, prompt = whole, None
    values = [(row.get(prompt) if prompt else None, row.get(said)) for row in firsts]
    _check_template(any(_are_turns(value) for pair in values for value in pair), source, model)
    system = system_reader(known, wishes.system)
    read = _Answers(prompt, known.get("context"), system, _joined(values, model), model.has_template)

    def judged(row: Mapping[str, Any]) -> Judged:
        desirable = _judgement(row.get(label), label)
        if prompt is None:
            turns = turns_of(row.get(said), said)
            last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
            return Judged(chat(_as_context(turns[:last]) + turns[last:], system(row), None), desirable)
        return Judged(read.answer(row, said), desirable)

    return Format(f"{prompt} + {said} + {label}" if prompt else f"{said} + {label}", judged)


@dataclass(frozen=True)
class _Answers:
    """Reads the answers of one row.

    Parameters
    ----------
    prompt, extra : the column of the prompt, and one that goes with it
    system : a row's system prompt
    joined : whether prompt and answer are joined as they are written
    has_template : whether the model has a chat template of its own
    """

    prompt: str | None
    extra: str | None
    system: Callable[[Mapping[str, Any]], str]
    joined: bool
    has_template: bool

    def answer(self, row: Mapping[str, Any], column: str) -> Chat | Written:
        """One answer to the row's prompt, whichever of the two is text and which is turns."""
        assert self.prompt is not None
        asked, said = row.get(self.prompt), row.get(column)
        if not _are_turns(asked) and not _are_turns(said):
            text = words(row, self.prompt, may_be_empty=self.joined)
            more = words(row, self.extra, may_be_empty=True) if self.extra is not None else ""
            text = f"{text}\n\n{more}" if more else text
            if self.joined:
                return Written(text, words(row, column))
            messages: list[Message] = [{"role": "user", "content": text}]
            return self._chat(messages, [{"role": "assistant", "content": words(row, column)}], row)
        return self._chat(self._asked(row), self._said(row, column), row)

    def conversations(self, row: Mapping[str, Any], chosen: str, rejected: str) -> Pair:
        """Two lists of turns: what both begin with is the prompt, after the prompt column's own turns if they lack it.

        Raises
        ------
        Unusable
            They begin with nothing in common, or part where the user speaks.
        """
        one, other = self._said(row, chosen), self._said(row, rejected)
        if one[0]["role"] == "assistant" and other[0]["role"] == "assistant":
            if self.prompt is None:
                raise Unusable("no prompt: both answers begin with the assistant")
            asked = self._asked(row)
            one, other = asked + one, asked + other
            common = len(asked)
        else:
            pairs = zip(one, other, strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
        if common in (len(one), len(other)):
            raise Unusable("one answer is the beginning of the other")
        if common == 0:
            raise Unusable("chosen and rejected do not begin with the same prompt")
        if {one[common]["role"], other[common]["role"]} != {"assistant"}:
            raise Unusable("chosen and rejected part where the user speaks")
        return Pair(self._chat(one[:common], one[common:], row), self._chat(other[:common], other[common:], row))

    def transcripts(self, row: Mapping[str, Any], chosen: str, rejected: str) -> Pair:
        """Two conversations written out (`\\n\\nHuman: … \\n\\nAssistant: …`), which differ in their last answer."""
        texts = words(row, chosen), words(row, rejected)
        if not all(_is_transcript(text) for text in texts):
            raise Unusable("no prompt: what both texts begin with cannot be told from the answers")
        prompts = [text[: text.rindex("\n\nAssistant:") + len("\n\nAssistant:")] for text in texts]
        if prompts[0] != prompts[1]:
            raise Unusable("chosen and rejected do not answer the same prompt")
        answers = [text[len(prompts[0]) :] for text in texts]
        if not all(answer.strip() for answer in answers):
            raise Unusable("an answer is empty")
        if not self.has_template:
            return Pair(*(Written(prompts[0], answer) for answer in answers))
        parts = _SPEAKER.split(prompts[0])[1:-2]
        asked: list[Message] = [
            {"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)
        ]
        return Pair(*(self._chat(asked, [{"role": "assistant", "content": answer.strip()}], row) for answer in answers))

    def _asked(self, row: Mapping[str, Any]) -> list[Message]:
        assert self.prompt is not None
        value = row.get(self.prompt)
        if _are_turns(value):
            return turns_of(value, self.prompt)
        return [{"role": "user", "content": words(row, self.prompt)}]

    def _said(self, row: Mapping[str, Any], column: str) -> list[Message]:
        value = row.get(column)
        if not _are_turns(value):
            return [{"role": "assistant", "content": words(row, column)}]
        # LLaMA-Factory's ranking data has one turn, and no list around it
        return turns_of([value] if isinstance(value, dict) and ("role" in value or "from" in value) else value, column)

    def _chat(self, asked: list[Message], said: list[Message], row: Mapping[str, Any]) -> Chat:
        return chat(_as_context(asked) + said, self.system(row), None)


def _as_context(turns: list[Message]) -> list[Message]:
    """What an answer is given to is not judged, also where the assistant said it."""
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]


def _are_turns(value: Any) -> bool:
    """Whether a value is a list of turns, one turn, or the JSON text of them (as CSV files hold it)."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return False
        try:
            value = json.loads(value)
        except ValueError:
            return False
    if isinstance(value, dict):
        return "role" in value or "from" in value
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip() and bool(one.strip())
    return one is not None and bool(one == other)


def _joined(values: Any, model: Model) -> bool:
    """Whether texts are joined as they stand: without a template, or where the prompts end in white space or marks."""
    if not model.has_template:
        return True
    texts = [(asked, said) for asked, said in values if isinstance(asked, str) and isinstance(said, str) and asked]
    return bool(texts) and all(
        asked[-1:].isspace() or said[:1].isspace() or model.written(asked) for asked, said in texts
    )


def _judgement(value: Any, column: str) -> bool:
    if value is None:
        raise Unusable(f"no {column}")
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise Unusable(f"{column} {str(value)[:20]!r} is neither true nor false")


def _check_template(spoken: bool, source: str, model: Model) -> None:
    if spoken and not model.has_template:
        raise ColabMagicsError(
            f"{source} holds conversations, and the model has no chat template.",
            "A comparison starts from a model that answers in turns already: as it is, it is the reference.",
            "Use the instruct version of the model, or train it on answers first (without a method: dpo, kto or orpo).",
        )


def _not_judged(source: str, found: Sequence[str], objective: str, *, labelled: bool) -> NotJudged:
    columns = f"The columns are {listed(found)}."
    if labelled:
        return NotJudged(
            f"{source} judges one answer at a time, and {objective} compares two.",
            columns,
            "Write method: kto, which learns from such judgements.",
        )
    if objective == "kto":
        return NotJudged(
            f"{source} has no label, which kto learns from.",
            columns,
            "Give each row a label (true or false) beside prompt and completion, or chosen and rejected.",
            "Or say which column it is: columns: {prompt: A, completion: B, label: C}",
        )
    return NotJudged(
        f"{source} has no pairs of answers, which {objective} compares.",
        columns,
        "Give each row prompt, chosen and rejected; or columns: {prompt: A, chosen: B, rejected: C}",
        "To train on the answers as they are, leave the method out.",
    )
