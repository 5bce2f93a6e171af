"""Lists of turns, in the several ways that data sets write them, to one conversation."""

from __future__ import annotations

import json
from typing import Any

from colab_magics.data.examples import Unusable
from colab_magics.data.masks import Chat, Message

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "ipython",
}


def tools_of(value: Any) -> list[Any] | None:
    """The tools a row offers: a list, or its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list) and value else None


def turns_of(value: Any, column: str) -> list[Message]:
    """The messages in a column, with `role` and `content`."""
    return [_turn(turn) for turn in listed_turns(value, column)]


def listed_turns(value: Any, column: str) -> list[Any]:
    """A list of turns, or the JSON text of one (as CSV files hold it)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Unusable(f"{column} is text, not a list of turns") from None
    if isinstance(value, dict) and all(isinstance(parts, list) for parts in value.values()):
        # What `datasets` before 4 makes of a list of objects.
        value = [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not value:
        raise Unusable(f"no {column}" if not value else f"{column} is not a list of turns")
    return value


def _turn(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise Unusable("a turn is not an object with role and content")
    role = turn.get("role", turn.get("from"))
    said = turn.get("content", turn.get("value"))
    if role is None:
        raise Unusable("a turn has no role")
    known = _ROLES.get(str(role).strip().lower())
    if known is None:
        raise Unusable(f"unknown role {str(role)[:20]!r}")
    rest = {
        key: value
        for key, value in turn.items()
        if key not in {"role", "from", "content", "value"} and value is not None
    }
    if said is None and not rest.get("tool_calls"):
        raise Unusable("a turn has no content")
    return {"role": known, "content": _flat(said), **rest}


def _flat(said: Any) -> str:
    """The text of a content that may be a list of parts."""
    if said is None:
        return ""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        parts = [
            part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in said
        ]
        if any(not isinstance(part, str) for part in parts):
            raise Unusable("a turn holds an image or another part that is not text")
        return "".join(map(str, parts))
    if isinstance(said, (dict, int, float)):
        return json.dumps(said, ensure_ascii=False)
    raise Unusable("the content of a turn is not text")


def chat(messages: list[Message], system: str, tools: list[Any] | None) -> Chat:
    """The conversation, begun by `system` where it has no system message; raises `Unusable` without an answer."""
    if system and messages[0]["role"] not in {"system", "developer"}:
        messages = [{"role": "system", "content": system}, *messages]
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise Unusable("no assistant turn")
    # OpenAI's and axolotl's ways to keep a turn as context only.
    trained = tuple(
        index
        for index in answers
        if messages[index].get("weight") != 0
        and messages[index].get("train") is not False
        and (messages[index]["content"].strip() or messages[index].get("tool_calls"))
    )
    if not trained:
        raise Unusable("every assistant turn is empty or switched off")
    # Nothing is learnt from what follows the last answer.
    return Chat(messages[: answers[-1] + 1], trained, tools)
