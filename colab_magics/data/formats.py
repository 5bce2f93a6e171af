"""What the columns of a row mean: the format is detected once, and every row is brought into one of three forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colab_magics.data.examples import Example, Text, Unusable, Written, words
from colab_magics.data.masks import Chat, Message
from colab_magics.data.placeholders import fill_in
from colab_magics.data.rows import Row
from colab_magics.data.turns import chat, listed_turns, tools_of, turns_of
from colab_magics.errors import ColabMagicsError, nearest

# (prompt, response): pairs of columns that mean one question and one answer, the commonest first.
PAIRS: tuple[tuple[str, str], ...] = (
    ("question", "answer"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("query", "answer"),
    ("query", "response"),
    ("question", "response"),
    ("instruction", "answer"),
    ("instruction", "completion"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("input", "response"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("source", "target"),
)
CONVERSATION_COLUMNS = ("messages", "conversations", "conversation", "chat", "dialogue")
TEXT_COLUMNS = ("text", "content", "document")
WOULD_WORK = "messages; prompt and completion; instruction and output; question and answer; or text"


@dataclass(frozen=True)
class Format:
    """How rows are read.

    Parameters
    ----------
    name : str
        As it is shown.
    read : callable
        A row's columns to an `Example`; raises `Unusable` with the reason.
    chunkable : bool
        Plain text: cut into windows rather than truncated.
    together : int
        How many documents a row becomes that stand or fall together: two where answers are compared.
    """

    name: str
    read: Callable[[Mapping[str, Any]], Example]
    chunkable: bool = False
    together: int = 1


@dataclass(frozen=True)
class Wishes:
    """What the recipe says about the rows."""

    columns: Mapping[str, str] | None = None
    prompt_template: str | None = None
    system: str | None = None
    objective: str = "sft"


def detect(rows: Sequence[Row], wishes: Wishes, *, source: str, written: Callable[[str], bool]) -> Format:
    """The format of rows that begin like `rows`.

    Parameters
    ----------
    rows : sequence of Row
        The first rows; at least one.
    source : str
        What errors call the data.
    written : callable
        Whether a prompt already carries the marks of a template (then it is not rendered by another).

    Raises
    ------
    ColabMagicsError
        No known format fits; the columns found are named, and what would work.
    """
    found = list(dict.fromkeys(column for row in rows for column in row.fields))
    rename: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is
    if wishes.columns:
        rename = renaming(wishes.columns, found, source)
    if wishes.prompt_template is not None:
        return Format("prompt template", fill_in(wishes.prompt_template, wishes.columns or {}, found, source))
    firsts = [rename(row.fields) for row in rows]
    known = Columns(firsts)
    read = _reader(known, firsts, wishes, written)
    if read is None:
        raise _no_format(source, found, known)
    return Format(read.name, lambda fields: read.read(rename(fields)), read.chunkable)


class Columns:
    """The columns of the first rows, by their names in lower case."""

    def __init__(self, firsts: Sequence[Mapping[str, Any]]) -> None:
        self.names = {str(column).strip().lower(): str(column) for row in firsts for column in row}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> str:
        return self.names[name]

    def get(self, name: str) -> str | None:
        """The column as it is spelt in the data."""
        return self.names.get(name)

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these that the data has, as it is spelt there."""
        return next((self.names[name] for name in names if name in self.names), None)


def _reader(
    known: Columns, firsts: Sequence[Mapping[str, Any]], wishes: Wishes, written: Callable[[str], bool]
) -> Format | None:
    system = system_reader(known, wishes.system)
    for name in CONVERSATION_COLUMNS:
        if (column := known.get(name)) is not None and (firsts_turns := _first_turns(firsts, column)):
            return _conversations(column, known.get("tools"), firsts_turns, system)
    if "prompt" in known and "completion" in known:
        return _prompt_completion(known["prompt"], known["completion"], firsts, system, written)
    if "instruction" in known and "output" in known:
        read = _pair_reader(known["instruction"], known["output"], system, extra=known.get("input"))
        return Format("Alpaca", read)
    for question, answer in PAIRS:
        if question in known and answer in known:
            read = _pair_reader(known[question], known[answer], system, extra=known.get("context"))
            return Format(f"{known[question]} + {known[answer]}", read)
    for name in TEXT_COLUMNS:
        if (column := known.get(name)) is not None:
            return _texts(column)
    # Whatever stands there is no list of turns; each row will say so, and be counted.
    column = known.get("messages") or known.get("conversations")
    return None if column is None else _conversations(column, None, [], system)


def _first_turns(firsts: Sequence[Mapping[str, Any]], column: str) -> list[Any]:
    """The turns of the first row that has any in `column`."""
    for row in firsts:
        try:
            return listed_turns(row.get(column), column)
        except Unusable:
            continue
    return []


def _conversations(
    column: str, tools: str | None, turns: list[Any], system: Callable[[Mapping[str, Any]], str]
) -> Format:
    shape = "ShareGPT conversations" if turns and isinstance(turns[0], dict) and "from" in turns[0] else "messages"

    def read(row: Mapping[str, Any]) -> Chat:
        offered = tools_of(row.get(tools)) if tools is not None else None
        return chat(turns_of(row.get(column), column), system(row), offered)

    return Format(shape, read)


def _texts(column: str) -> Format:
    return Format("text", lambda row: Text(words(row, column)), chunkable=True)


def system_reader(known: Columns, system: str | None) -> Callable[[Mapping[str, Any]], str]:
    """A row's own system prompt wins over the recipe's."""
    column = known.get("system") or known.get("system_prompt") or ""

    def read(row: Mapping[str, Any]) -> str:
        own = row.get(column)
        return own if isinstance(own, str) and own.strip() else system or ""

    return read


def _as_it_is(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields


def renaming(
    columns: Mapping[str, str], found: Sequence[str], source: str
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    for key, column in columns.items():
        if column not in found:
            near = nearest(column, found)
            raise ColabMagicsError(
                f"{source} has no column {column!r}, which `columns: {key}` names",
                f"The columns are {listed(found)}",
                f"Did you mean {near}?" if near else f"Name one of them: columns: {{{key}: …}}",
            )
    return lambda fields: {key: fields[column] for key, column in columns.items() if column in fields}


def listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(map(str, names[:most])) + (f", … ({len(names)})" if len(names) > most else "") or "none"


def _no_format(source: str, found: Sequence[str], known: Columns) -> ColabMagicsError:
    if "chosen" in known and "rejected" in known:
        return ColabMagicsError(
            f"{source} holds preference pairs (chosen and rejected)",
            f"The columns are {listed(found)}",
            "To learn which answer is preferred: method: dpo (or orpo, or kto)",
            "To train on the chosen answers only: columns: {prompt: prompt, completion: chosen}",
        )
    first = found[0] if found else "A"
    second = found[1] if len(found) > 1 else "B"
    return ColabMagicsError(
        f"The columns of {source} are not understood: {listed(found)}",
        f"Understood without more words: {WOULD_WORK}",
        f"Say which is which: columns: {{prompt: {first}, completion: {second}}}",
        f'Or write it out: prompt_template: "{{{first}}}\\n{{{second}}}"',
    )


def _pair_reader(
    question: str, answer: str, system: Callable[[Mapping[str, Any]], str], extra: str | None = None
) -> Callable[[Mapping[str, Any]], Example]:
    def read(row: Mapping[str, Any]) -> Chat:
        asked = words(row, question)
        more = words(row, extra, may_be_empty=True) if extra is not None else ""
        return _one_turn(f"{asked}\n\n{more}" if more else asked, words(row, answer), system(row))

    return read


def _one_turn(asked: str, answered: str, system: str) -> Chat:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return Chat(messages, (len(messages) - 1,))


def _prompt_completion(
    prompt: str,
    completion: str,
    firsts: Sequence[Mapping[str, Any]],
    system: Callable[[Mapping[str, Any]], str],
    written: Callable[[str], bool],
) -> Format:
    """Turns, or texts to be joined: a prompt that ends in white space, or holds a template's marks, is joined."""
    values = [(row.get(prompt), row.get(completion)) for row in firsts]
    if any(isinstance(value, list) for pair in values for value in pair):
        return Format("prompt + completion messages", lambda row: _two_parts(row, prompt, completion, system(row)))
    texts = [(asked, said) for asked, said in values if isinstance(asked, str) and isinstance(said, str) and asked]
    if texts and all(asked[-1:].isspace() or said[:1].isspace() or written(asked) for asked, said in texts):
        return Format(
            "prompt + completion, joined as written",
            lambda row: Written(words(row, prompt, may_be_empty=True), words(row, completion)),
        )
    return Format("prompt + completion", _pair_reader(prompt, completion, system))


def _two_parts(row: Mapping[str, Any], prompt: str, completion: str, system: str) -> Chat:
    def turns(column: str, role: str) -> list[Message]:
        value = row.get(column)
        return [{"role": role, "content": value}] if isinstance(value, str) else turns_of(value, column)

    # What the prompt's own assistant turns said is context.
    asked = [{**turn, "weight": 0} for turn in turns(prompt, "user")]
    return chat(asked + turns(completion, "assistant"), system, None)
