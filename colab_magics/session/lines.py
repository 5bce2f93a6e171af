"""Values that are read from a TOML file a person edits: what each may be, and on which line a wrong one stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.session.times import AS_DURATION, moment_of, seconds_of

Keys = tuple[str, ...]

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes
    ----------
    read : function
        The value as it is used; raises ValueError where it is none.
    noun : str
        What it is, as in "'10 hous' is no time."
    shape : str
        How to write it.
    plain : bool
        A number is written without quotes.
    """

    read: Callable[[Any], Any]
    noun: str
    shape: str
    plain: bool = False


def _time(value: Any) -> float | None:
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    total = seconds_of(str(value))
    if total is None:
        raise ValueError
    return total


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError
    unit = found[2].lower()
    return int(float(found[1]) * (1024 if "i" in unit else 1000) ** _POWERS[unit.rstrip("ib")])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise ValueError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError
    return tuple(_text(one) for one in value)


def _date(value: Any) -> str:
    return (value if type(value) is date else date.fromisoformat(_text(value))).isoformat()


def _share(value: Any) -> float:
    found = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(found[1]) / 100 if found else _number(value)
    if not 0 < share <= 1:
        raise ValueError
    return share


def _amount(value: Any) -> float:
    """A share of the whole, up to 1, or bytes."""
    try:
        return _share(value)
    except ValueError:
        return float(_size(value))


def _capability(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    return (_count(value[0]), 0 if value[1] == 0 else _count(value[1]))


def _moment(value: Any) -> datetime:
    found = value.astimezone() if isinstance(value, datetime) else moment_of(_text(value))
    if found is None:
        raise ValueError
    return found


def _time_or_moment(value: Any) -> datetime | float | None:
    try:
        return _moment(value)
    except ValueError:
        return _time(value)


TIME = Kind(_time, "time", f"{AS_DURATION} none: there is none.")
TIME_OR_END = Kind(_time_or_moment, "time", "Write it as 10h, 90min, 1h30m, or as the end: 2026-11-20T10:00.")
START = Kind(_moment, "time", "Write it as 2026-11-20T10:00, or how long ago it was: 2h.")
SIZE = Kind(_size, "size", "Write it as 20 GB, 14.5 GiB, or in bytes.")
NUMBER = Kind(_number, "number", "Write it as 1.2, without a unit.", plain=True)
SWITCH = Kind(_switch, "yes or no", "Write it as true or false, without quotes.", plain=True)
COUNT = Kind(_count, "number of devices", "Write it as 2.", plain=True)
TEXT = Kind(_text, "text", 'Write it in quotes: "…".')
TEXTS = Kind(_texts, "list of texts", 'Write it as ["T4", "cpu"].')
DATE = Kind(_date, "date", "Write it as 2026-11-20.")
SHARE = Kind(_share, "share", "Write it as 95%, or 0.95.")
AMOUNT = Kind(_amount, "amount", "Write it as 95%, or as 10 GB.")
CAPABILITY = Kind(_capability, "compute capability", "Write it as [7, 5].")


@dataclass(frozen=True)
class Lines:
    """A TOML file: its values, and where each stands.

    Attributes
    ----------
    name : str
        How errors name the file.
    """

    name: str
    text: str

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """Its lines as TOML counts them; str.splitlines knows ends of lines that TOML takes for text."""
        lines = self.text.split("\n")
        return tuple(lines[:-1] if lines[-1] == "" else lines)

    @cached_property
    def values(self) -> dict[str, Any]:
        """What it holds.

        Raises
        ------
        ColabMagicsError
            It is no TOML; the error names the line.
        """
        try:
            return tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
            said = str(error)
            found = re.search(r"\(at (?:line (\d+)|(end of document))[^)]*\)", said)
            last = len(self.lines)
            at = min(int(found[1] or last), last) if found else last
            reason = re.sub(r"\s*\(at [^)]*\)", "", said)
            line = self.lines[at - 1].strip() if at else ""
            raise ColabMagicsError(
                f"line {at}: {line[:80]} cannot be read.",
                f"{self.name} is TOML: {reason[:1].lower()}{reason[1:]}.",
                'Texts stand in quotes: limit = "10h".',
            ) from None

    def span(self, path: Keys) -> tuple[int, int] | None:
        """First and last line of what defines `path`, from 1; None where nothing does.

        The parser itself is asked, with one line more each time: whatever it accepts is found, however it is written.
        """
        begin = 1
        for count in range(1, len(self.lines) + 1):
            try:
                values = tomllib.loads("\n".join(self.lines[:count]) + "\n")
            except (ValueError, RecursionError):
                continue  # in the middle of a value
            if holds(values, path):
                return begin, count
            begin = count + 1
        return None

    def wrong(self, path: Keys, said: str, why: str, *next_steps: str) -> ColabMagicsError:
        """An error about what stands at `path`."""
        span = self.span(path)
        return ColabMagicsError(f"line {span[0]}: {said}" if span else said, why, *next_steps)

    def read(self, path: Keys, value: Any, kind: Kind) -> Any:
        """The value at `path`, as it is used.

        Raises
        ------
        ColabMagicsError
            It is not what it must be.
        """
        try:
            return kind.read(value)
        except (ValueError, OverflowError):
            shown = repr(value) if not isinstance(value, date) else value.isoformat()
            raise self.wrong(
                path, f"{path[-1]} = {shown} is no {kind.noun}.", f"It stands in {self.name}.", kind.shape
            ) from None


def holds(values: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether there is something at `path`."""
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
