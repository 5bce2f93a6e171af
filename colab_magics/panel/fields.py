"""Small readers of an event's fields: what is missing or of the wrong shape is None or empty, never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from colab_magics.errors import clean, redact

_SAMPLE = 1200  # characters of the rendered sample
_MOST = 1e18  # no run has more bytes, seconds or steps than that


def shown(value: object, limit: int = 400) -> str:
    """Text that is safe to show: no ANSI, no control characters, no endless lines."""
    if value is None:
        return ""
    text = redact(" ".join(clean(value).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def chosen(value: object) -> object:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else value


def number(event: Mapping[str, Any], key: str, finite: bool = True) -> float | None:
    """A number; NaN and infinity, also as text, only where `finite` is False."""
    value = event.get(key)
    if isinstance(value, str) and value.lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:  # an integer of 400 digits
        return None
    return None if finite and not math.isfinite(value) else value


def amount(event: Mapping[str, Any], key: str) -> float | None:
    """A number that cannot be negative: bytes, seconds."""
    value = number(event, key)
    return None if value is None or not 0 <= value <= _MOST else value


def count(event: Mapping[str, Any], key: str) -> int | None:
    """A whole number that cannot be negative."""
    value = amount(event, key)
    return None if value is None else int(value)


def items(value: object) -> list[Any]:
    """A list's items; none of anything else."""
    return list(value) if isinstance(value, (list, tuple)) else []


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping; an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def clock(event: Mapping[str, Any]) -> float | None:
    """When the event was written, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(str(event.get("time")).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def lengths(value: object) -> tuple[tuple[str, float], ...]:
    """The lengths of documents that are shown, in tokens."""
    pairs = ((key, number(mapping(value), key)) for key in ("p50", "p99", "max"))
    return tuple((key, length) for key, length in pairs if length is not None)


def sample(value: object) -> tuple[tuple[str, bool], ...]:
    """A rendered sample: pieces of text, and whether each is trained."""
    parts: list[tuple[str, bool]] = []
    room = _SAMPLE
    for part in items(value):
        if not isinstance(part, (list, tuple)) or len(part) != 2 or room <= 0:
            continue
        text = redact(clean(part[0]))
        parts.append((text if len(text) <= room else text[:room] + "…", bool(part[1])))
        room -= len(text)
    return tuple(parts)
