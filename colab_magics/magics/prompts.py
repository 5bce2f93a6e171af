"""What a cell, a line or a variable says to a model: one prompt, a chat, a row, or many of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from colab_magics.data.asking import Said
from colab_magics.errors import ColabMagicsError, nearest

_ROLES = ("system", "user", "assistant")
_TURN = re.compile(rf"^({'|'.join(_ROLES)}):[ \t]*", re.MULTILINE | re.IGNORECASE)


def prompts_of(
    text: str, body: str | None, variable: str | None, namespace: Mapping[str, Any] | None, *, lines: bool
) -> list[Said]:
    """The prompts, in their order.

    Parameters
    ----------
    text : what stands on the line
    body : the cell's, if there is one
    variable : the name of a notebook variable that holds them
    lines : each line of the body is one

    Raises
    ------
    ColabMagicsError
        There is none, or they are said in two places.
    """
    said_in = (("on the line", text), ("in the cell", body), (f"in {variable}", variable))
    places = [place for place, there in said_in if there]
    if len(places) > 1:
        raise ColabMagicsError(
            f"There are prompts {places[0]} and {places[1]}.",
            "It cannot be told which are meant.",
            "Keep one of them.",
        )
    if variable is not None:
        return of_variable(variable, namespace)
    said = body if body is not None else text
    if not said.strip():
        raise ColabMagicsError(
            "The prompt is empty.",
            "There is nothing to answer.",
            "Write it behind the word generate, in quotes."
            if namespace is None
            else "Write it below %%generate or behind %generate, or name a variable with --prompts.",
        )
    return [line.strip() for line in said.splitlines() if line.strip()] if lines else of_text(said)


def check_is_no_run(text: str, root: Path, magic: str) -> None:
    """A line that is nothing but a run's name means the run.

    Raises
    ------
    ColabMagicsError
        It is one.
    """
    if text and "/" not in text and (root / text / "events.jsonl").is_file():
        raise ColabMagicsError(
            f"{text} is a run, and a line without an option is a prompt.",
            "It would be asked what it says to its own name.",
            f"Write {magic} --run {text}.",
            f"To ask it for that word: write it below %{magic}.",
        )


def of_text(text: str) -> list[Said]:
    """A chat by its roles, turns or prompts in JSON or YAML, a row of columns; else one prompt, as it is."""
    stripped = text.strip("\n")
    first = stripped.lstrip()
    if _TURN.match(first):
        return [_turns(first)]
    if first.startswith(("[", "{", "- ", "messages:")):
        found = _structured(first)
        if isinstance(found, Mapping):
            return [found]
        if isinstance(found, list) and found:
            return [_open_ended(found)] if _is_chat(found) else found
    return [stripped]


def of_variable(name: str, namespace: Mapping[str, Any] | None) -> list[Said]:
    """The prompts in a notebook variable: a text, a list of texts, of chats or of rows, a DataFrame, a Dataset."""
    if namespace is None:
        raise ColabMagicsError(
            "--prompts needs a notebook.", "It names one of its variables.", "Give the prompt on the line."
        )
    if name not in namespace:
        close = nearest(name, [one for one in namespace if not one.startswith("_")])
        raise ColabMagicsError(
            f"There is no variable {name}.",
            "--prompts names a list of prompts.",
            f"Did you mean {close}?" if close else "Run the cell that makes it.",
        )
    value = namespace[name]
    if isinstance(value, str):
        return [value]
    if hasattr(value, "iloc"):
        # of a frame an empty place is NaN, which is no word
        value = value.astype(object).where(value.notna(), None)
        value = value.to_dict("records") if hasattr(value, "columns") else list(value)
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, Sequence) and type(value).__name__ != "Dataset":
        raise ColabMagicsError(
            f"{name} is of type {type(value).__name__}, and holds no prompts.",
            "",
            "Give a list of texts, of chats or of rows, a DataFrame or a datasets.Dataset.",
        )
    found = list(value)
    if found and _is_chat(found):
        return [found]
    kinds = (str, Mapping, list, tuple)
    wrong = [place for place, one in enumerate(found) if not isinstance(one, kinds)]
    if wrong or not found:
        at = wrong[0] if wrong else 0
        kind = "nothing" if found and found[at] is None else f"a {type(found[at]).__name__}" if found else ""
        raise ColabMagicsError(
            f"Place {at + 1} of {name} holds {kind}, which is no prompt." if found else f"{name} is empty.",
            "A prompt is a text, a list of turns with role and content, or a row.",
            "Make them so in a cell above.",
        )
    return found


def _turns(text: str) -> list[dict[str, str]]:
    """`user: …` and its like, each up to the next."""
    pieces = _TURN.split(text)[1:]
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return _open_ended([{"role": role.lower(), "content": said.strip()} for role, said in pairs])


def _open_ended(turns: list[Any]) -> list[Any]:
    """The turns of a chat that a person has written, which ends with what is to be answered."""
    last = str(turns[-1].get("role") or turns[-1].get("from"))
    if last not in ("assistant", "gpt", "system"):
        return turns
    raise ColabMagicsError(
        f"The chat ends with the {last}.",
        "There is no question left to answer.",
        "End it with a turn of the user.",
    )


def _structured(text: str) -> Any:
    """What JSON or YAML says; None where it is neither, as most texts are that begin with a dash."""
    import yaml

    for read in (json.loads, yaml.safe_load):
        try:
            found = read(text)
        except (ValueError, yaml.YAMLError):
            continue
        if isinstance(found, Mapping) and isinstance(found.get("messages"), list):
            return found["messages"]
        if isinstance(found, Mapping) and found and all(value is not None for value in found.values()):
            return found  # of a set in braces YAML makes a mapping to nothing
        if isinstance(found, list) and (_is_chat(found) or (text.startswith("[") and all_text(found))):
            return found
    return None


def all_text(found: Sequence[Any]) -> bool:
    """Whether these are prompts in words."""
    return bool(found) and all(isinstance(one, str) for one in found)


def _is_chat(found: Sequence[Any]) -> bool:
    return all(isinstance(one, Mapping) and ("role" in one or "from" in one) for one in found)
