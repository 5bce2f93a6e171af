"""The forms that every row is brought into, and why some rows are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from colab_magics.data.masks import Chat


class Unusable(Exception):
    """Why one row cannot be trained on; rows are counted by this reason."""


@dataclass(frozen=True)
class Written:
    """A prompt and a completion that are joined as they are written; the completion is trained."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """Plain text; all of it is trained."""

    text: str


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, of which the first is preferred."""

    chosen: Chat | Written
    rejected: Chat | Written


@dataclass(frozen=True)
class Judged:
    """An answer, and whether it is one that should be given."""

    answer: Chat | Written
    desirable: bool


Example = Chat | Written | Text | Pair | Judged


def words(row: Mapping[str, Any], column: str, *, may_be_empty: bool = False) -> str:
    """The text of one column."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        if may_be_empty:
            return ""
        raise Unusable(f"no {column}" if column not in row or value is None else f"empty {column}")
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    raise Unusable(f"{column} holds a {type(value).__name__}, not text")
