"""Times as people write them: `10h`, `90 min`, `1h30m`, `3600` (seconds), `2026-11-20T10:00`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from colab_magics.errors import ColabMagicsError

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(
    rf"(?:(?P<d>{_NUMBER})\s*(?:d|days?))?\s*"
    rf"(?:(?P<h>{_NUMBER})\s*(?:h|hrs?|hours?))?\s*"
    rf"(?:(?P<m>{_NUMBER})\s*(?:m|mins?|minutes?))?\s*"
    rf"(?:(?P<s>{_NUMBER})\s*(?:s|secs?|seconds?))?",
    re.ASCII,
)
_BARE = re.compile(_NUMBER, re.ASCII)
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
LONGEST = 1000 * 86_400.0  # what is longer was meant otherwise

AS_DURATION = "Write it as 10h, 90min, 1h30m, or in seconds."
AS_END = "Write it as 11h, 90min, 1h30m, in seconds, or as 2026-11-20T10:00 (this machine's clock, or with +01:00)."


def seconds_of(text: str) -> float | None:
    """The seconds that a duration stands for; None if the text is no duration, is nothing, or is over 1,000 days.

    A number alone counts seconds. After a unit a number needs its own, so that `1h30` is not guessed at.
    """
    text = text.strip().lower()
    if _BARE.fullmatch(text):
        total = float(text)
    else:
        found = _DURATION.fullmatch(text)
        parts = {unit: float(value) for unit, value in found.groupdict().items() if value} if found else {}
        total = sum(value * _SECONDS[unit] for unit, value in parts.items())
    return total if 0 < total <= LONGEST else None


def moment_of(text: str) -> datetime | None:
    """The moment that a date stands for, with its offset; this machine's local time where it has none."""
    text = text.strip()
    if "-" not in text:  # fromisoformat also takes 20261120, which is a number of seconds here
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def dated(text: str, now: datetime, *, past: bool = False) -> str:
    """How to write a time of day (`22:00`): with the date of the next one, or the last; empty for any other text."""
    found = _TIME_OF_DAY.fullmatch(text.strip())
    if found is None:
        return ""
    moment = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
    if past and moment > now:
        moment -= timedelta(days=1)
    elif not past and moment <= now:
        moment += timedelta(days=1)
    return f"For {text.strip()} write {moment:%Y-%m-%dT%H:%M}."


def duration(text: str, what: str) -> float:
    """Seconds.

    Parameters
    ----------
    what : str
        Whose time it is, as the error names it: `--deadline`, `limit`.

    Raises
    ------
    ColabMagicsError
        The text is no duration.
    """
    total = seconds_of(text)
    if total is None:
        raise ColabMagicsError(f"{what} {text} is no time.", "It is how long something lasts.", AS_DURATION)
    return total


def end(text: str, what: str, now: datetime | None = None) -> float:
    """Seconds from now to an end, which is written as a duration from now or as a date.

    Parameters
    ----------
    now : datetime, optional
        The time of day, with its offset; this machine's when not given.

    Raises
    ------
    ColabMagicsError
        The text is neither, or the date is past.
    """
    total = seconds_of(text)
    if total is not None:
        return total
    moment = moment_of(text)
    now = now or datetime.now().astimezone()
    if moment is None:
        raise ColabMagicsError(
            f"{what} {text} is no time.",
            "It is how long this machine still lives, or when it ends.",
            dated(text, now) or AS_END,
        )
    left = (moment - now).total_seconds()
    if left <= 0:
        raise ColabMagicsError(
            f"{what} {text} is past.",
            f"Here it is {now.astimezone().isoformat(timespec='minutes')}.",
            "Write the offset where your clock is another: 2026-11-20T10:00+01:00.",
            "Or how long it is from now on: 11h.",
        )
    return left


def said(seconds: float) -> str:
    """A time as people say it: 45 s, 90 min, 8.2 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(seconds / 3600, 1):g} h"
