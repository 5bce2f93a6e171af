"""Which part of a rendered chat is trained: the assistant's words and the end of their turn, by position.

The ladder, per row:

1. the template's own ``{% generation %}`` markers;
2. prefix difference: what a turn adds to the prompt that generation starts from, checked on this row (templates that
   render earlier turns differently, like Qwen3's and DeepSeek's, break it);
3. the contents located in one full rendering: the same chat is rendered with marks in place of its contents, and the
   two renderings must agree in every character between the contents;
4. one sample per assistant turn, each ending with that turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from colab_magics.data.templates import REASONING_FIELDS, Renderer, TemplateRefuses

Message = dict[str, Any]
Span = tuple[int, int]

MARKERS = "generation markers"
PREFIX = "prefix difference"
LOCATED = "located contents"
PER_TURN = "one sample per turn"
WHOLE = "all tokens"

_MARK = re.compile(r"@7f3(\d+)x(\d+)@")


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Parameters
    ----------
    messages : list of dict
        `role`, `content` and whatever else the template reads.
    trained : tuple of int
        Positions of the assistant turns that are trained.
    tools : list or None
    """

    messages: list[Message]
    trained: tuple[int, ...]
    tools: list[Any] | None = None


@dataclass(frozen=True)
class Masked:
    """A text, the [start, end) of its trained parts in characters, and how they were found.

    `desirable` is the judgement of its answer, where there is one.
    """

    text: str
    spans: list[Span]
    method: str
    continues: bool = False
    desirable: bool | None = None


@dataclass(frozen=True)
class EndOfTurn:
    """The tokens that end things: `pattern` matches any added token of the tokenizer; `eos` is its end of text."""

    pattern: re.Pattern[str]
    eos: str = ""
    _trailing: re.Pattern[str] = field(init=False)
    _following: re.Pattern[str] = field(init=False)
    _run: re.Pattern[str] = field(init=False)
    _only: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_trailing", re.compile(rf"(?:{self.pattern.pattern})\s*\Z"))
        object.__setattr__(self, "_following", re.compile(rf"\s*(?:{self.pattern.pattern})"))
        object.__setattr__(self, "_run", re.compile(rf"\s*(?:{self.pattern.pattern})+"))
        object.__setattr__(self, "_only", re.compile(rf"(?:\s|{self.pattern.pattern})*"))

    @staticmethod
    def of(tokenizer: Any) -> EndOfTurn:
        """Those of a tokenizer."""
        added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        eos = getattr(tokenizer, "eos_token", None) or ""
        tokens = sorted({*added, eos} - {""}, key=len, reverse=True)
        return EndOfTurn(re.compile("|".join(map(re.escape, tokens)) or "(?!)"), eos)

    def closes(self, text: str) -> bool:
        """Whether `text` ends with such a token (white space after it aside)."""
        return self._trailing.search(text) is not None

    def after(self, text: str, position: int) -> int | None:
        """The end of the token that follows `position`, white space between them aside; None if another text does."""
        found = self._following.match(text, position)
        return found.end() if found else None

    def run(self, text: str, position: int, limit: int) -> int | None:
        """As `after`, with the tokens that stand right behind it, up to `limit`: some turns end with two."""
        found = self._run.match(text, position, limit)
        return found.end() if found else None

    def fill(self, text: str, start: int, end: int) -> bool:
        """Whether text[start:end] is nothing but such tokens and white space."""
        return self._only.fullmatch(text, start, end) is not None


def mask_chat(chat: Chat, renderer: Renderer, ends: EndOfTurn, *, whole: bool = False) -> list[Masked]:
    """The text of `chat` with its trained parts: one, or one per assistant turn; none if no rung of the ladder holds.

    Raises
    ------
    TemplateRefuses
        The template does not take these messages.
    """
    if whole:
        text = renderer.render(chat.messages, tools=chat.tools)
        return [_closed(text, [(0, len(text))], ends, WHOLE)]
    if renderer.has_markers:
        text, marked = renderer.render_marked(chat.messages, tools=chat.tools)
        turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if len(marked) == len(turns):
            spans = [span for turn, span in zip(turns, marked, strict=True) if turn in chat.trained]
            if all(start < end for start, end in spans):
                return [_closed(text, [_to_the_end_of_turn(text, *span, ends) for span in spans], ends, MARKERS)]
    else:
        text = renderer.render(chat.messages, tools=chat.tools)
    prompts = _Prompts(chat, renderer)
    found = _prefix_difference(text, prompts, ends)
    if found is not None:
        return [_closed(text, found, ends, PREFIX)]
    found = _located(text, prompts, ends)
    if found is not None:
        return [_closed(text, found, ends, LOCATED)]
    return list(_per_turn(chat, renderer, ends))


class _Prompts:
    """The renderings of the beginnings of one chat, each made once."""

    def __init__(self, chat: Chat, renderer: Renderer) -> None:
        self.chat, self.renderer = chat, renderer
        self._made: dict[int, str | None] = {}

    def before(self, turn: int) -> str | None:
        """What generation of `turn` would start from; None if the template does not take that beginning."""
        if turn not in self._made:
            try:
                text = self.renderer.render(self.chat.messages[:turn], prompt=True, tools=self.chat.tools)
            except TemplateRefuses:
                self._made[turn] = None
            else:
                self._made[turn] = text
        return self._made[turn]

    def upto(self, turn: int, whole: str) -> str | None:
        """The chat up to and with `turn`; `whole` if that is all of it."""
        if turn == len(self.chat.messages) - 1:
            return whole
        try:
            return self.renderer.render(self.chat.messages[: turn + 1], tools=self.chat.tools)
        except TemplateRefuses:
            return None


def _prefix_difference(text: str, prompts: _Prompts, ends: EndOfTurn) -> list[Span] | None:
    spans: list[Span] = []
    for turn in prompts.chat.trained:
        before = prompts.before(turn)
        upto = prompts.upto(turn, text)
        if before is None or upto is None or not upto.startswith(before) or not text.startswith(upto):
            return None
        span = _turn_in(text, len(before), len(upto), prompts.chat.messages[turn], ends)
        if span is None:
            return None
        spans.append(span)
    return spans


def _turn_in(text: str, start: int, end: int, message: Message, ends: EndOfTurn) -> Span | None:
    """The words of `message` in text[start:end] and their end of turn; None if they are not all there."""
    answer = _answer(_content(message))
    called = [str((call.get("function") or call).get("name") or "") for call in message.get("tool_calls") or ()]
    if not all(name in text[start:end] for name in called):
        return None  # the template does not print tool calls: what is left would teach an empty answer
    if called or not answer:
        return _to_the_end_of_turn(text, start, end, ends)
    # From the right, for reasoning may say the answer before the answer does; and an answer like "end" may also be
    # found in the token that follows it.
    at = rightmost = text.rfind(answer, start, end)
    if at < 0:
        return None
    while at >= 0:
        said = at + len(answer)
        closed = ends.run(text, said, end)
        if closed is not None and ends.fill(text, closed, end):
            return start, closed
        at = text.rfind(answer, start, said - 1)
    said = rightmost + len(answer)
    if not text[said:end].strip():
        return start, ends.after(text, said) or said
    # Closed by other text than a token.
    return start, start + len(text[start:end].rstrip())


def _to_the_end_of_turn(text: str, start: int, end: int, ends: EndOfTurn) -> Span:
    """The span, closed by the token that ends the turn, without the white space that templates print after it."""
    bare = start + len(text[start:end].rstrip())
    if ends.closes(text[start:bare]):
        return start, bare
    return start, ends.after(text, bare) or end


def _located(text: str, prompts: _Prompts, ends: EndOfTurn) -> list[Span] | None:
    chat = prompts.chat
    if any(chat.messages[turn].get("tool_calls") for turn in chat.trained):
        return None  # the calls are printed after the content, in the template's own form
    places = _contents(text, chat, prompts.renderer)
    if places is None:
        return None
    spans: list[Span] = []
    for turn in chat.trained:
        if turn not in places:
            return None
        first, last = places[turn]
        before = prompts.before(turn)
        start = len(before) if before is not None and text.startswith(before) and len(before) <= first else first
        ended = turn == len(chat.messages) - 1
        end = ends.run(text, last, len(text)) if ended else ends.after(text, last)
        spans.append((start, last if end is None else end))
    return spans


def _contents(text: str, chat: Chat, renderer: Renderer) -> dict[int, Span] | None:
    """Where each message's own text stands in `text`: from the start of its first part to the end of its last."""
    values: dict[tuple[int, int], str] = {}
    marked = [_with_marks(index, message, values) for index, message in enumerate(chat.messages)]
    try:
        scaffold = renderer.render(marked, tools=chat.tools)
    except TemplateRefuses:
        return None
    pieces = _MARK.split(scaffold)
    if not text.startswith(pieces[0]):
        return None
    position = len(pieces[0])
    places: dict[int, Span] = {}
    for index, part, following in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        value = values[int(index), int(part)]
        # Templates strip; what stands between two contents must be there to the last character.
        for form in dict.fromkeys((value, value.strip(), value.strip("\n"), value.lstrip(), value.rstrip())):
            if text.startswith(form + following, position):
                break
        else:
            return None
        start, _ = places.get(int(index), (position, position))
        places[int(index)] = (start, position + len(form))
        position += len(form) + len(following)
    return places if position == len(text) else None


def _with_marks(index: int, message: Message, values: dict[tuple[int, int], str]) -> Message:
    """`message` with a mark in place of each text; reasoning in the content keeps its tags."""

    def mark(part: int, text: str) -> str:
        values[index, part] = text
        return f"@7f3{index}x{part}@"

    marked = dict(message)
    content = _content(message)
    opening, reasoning, answer = _reasoning(content)
    if opening is not None:
        marked["content"] = f"{opening}{mark(1, reasoning)}\n</think>\n\n{mark(2, answer)}"
    elif content:
        marked["content"] = mark(0, content)
    for name, key in enumerate(REASONING_FIELDS, 3):
        if isinstance(message.get(key), str):
            marked[key] = mark(name, message[key])
    return marked


def _reasoning(content: str) -> tuple[str | None, str, str]:
    """The opening tag, the reasoning and the answer of a turn that thinks aloud; None, "", content otherwise."""
    head, tag, answer = content.rpartition("</think>")
    if not tag:
        return None, "", content
    before, opening, reasoning = head.partition("<think>")
    return (before + "<think>\n", reasoning.strip("\n"), answer) if opening else ("", head.strip("\n"), answer)


def _answer(content: str) -> str:
    return content.rpartition("</think>")[2].strip()


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _per_turn(chat: Chat, renderer: Renderer, ends: EndOfTurn) -> Iterator[Masked]:
    for turn in chat.trained:
        part = Chat(chat.messages[: turn + 1], (turn,), chat.tools)
        try:
            text = renderer.render(part.messages, tools=chat.tools)
        except TemplateRefuses:
            continue
        prompts = _Prompts(part, renderer)
        found = _prefix_difference(text, prompts, ends) or _located(text, prompts, ends)
        if found:
            yield _closed(text, found, ends, PER_TURN)


def _closed(text: str, spans: Sequence[Span], ends: EndOfTurn, method: str) -> Masked:
    """The masked text, cut after its last trained part: a causal model learns nothing from what follows.

    A template that never ends the last turn gets the tokenizer's end of text there, or the model would not learn to
    stop.
    """
    start, end = spans[-1]
    bare = start + len(text[start:end].rstrip())
    if ends.eos and not text[end:].strip() and not ends.closes(text[start:bare]):
        text = text[:bare] + ends.eos
        return Masked(text, [*spans[:-1], (start, len(text))], method)
    return Masked(text[:end], list(spans), method)
