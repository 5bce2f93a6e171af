"""What one key of a recipe may hold. A rule turns what was written into the value that the recipe keeps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)
_STEPS = re.compile(r"\s*(\d+)\s*steps?\s*", re.IGNORECASE)


class Rule(Protocol):
    """`read` returns the value to keep, or raises ValueError; `says` completes "it takes ..."."""

    @property
    def says(self) -> str: ...

    def read(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Text:
    says: str = "text"
    optional: bool = True

    def read(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise ValueError
        return str(value)


@dataclass(frozen=True)
class Number:
    """A number in [low, high], or one of a few words; `above` leaves `low` itself out."""

    low: float = 0
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False
    words: tuple[str | None, ...] = ()

    @property
    def says(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        high = "" if self.high == math.inf else f", {'below' if self.below else 'at most'} {self.high:.15g}"
        words = "".join(f", or {word or 'nothing'}" for word in self.words)
        return f"a {'whole ' if self.whole else ''}number, {low}{high}{words}"

    def read(self, value: Any) -> Any:
        if value in self.words and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in self.words:
            return value.strip().lower()
        number = self._number(value)
        too_low = number <= self.low if self.above else number < self.low
        too_high = number >= self.high if self.below else number > self.high
        if too_low or too_high:
            raise ValueError
        return number

    def _number(self, value: Any) -> float | int:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        if not self.whole:
            return number
        if number != int(number):
            raise ValueError
        # int(value) and not int(number): a seed of 17 digits must not pass through a float
        return int(value) if isinstance(value, int) else int(number)


@dataclass(frozen=True)
class Warmup:
    """Steps (whole), a fraction of all steps (below 1), or auto: an int and a float mean different things."""

    says: str = "a number of steps, a fraction of them below 1, or auto"

    def read(self, value: Any) -> Any:
        read = Number(words=("auto",)).read(value)
        if read == "auto" or read < 1:
            return read if read != 0 else 0
        return Number(whole=True).read(value)


@dataclass(frozen=True)
class Flag:
    auto: bool = False

    @property
    def says(self) -> str:
        return "true, false or auto" if self.auto else "true or false"

    def read(self, value: Any) -> Any:
        word = str(value).strip().lower() if isinstance(value, str) else value
        if self.auto and word == "auto":
            return "auto"
        if isinstance(word, bool):
            return word
        if word in _YES:
            return True
        if word in _NO:
            return False
        raise ValueError


@dataclass(frozen=True)
class Choice:
    """One of a few words; `read_as` are others that a cell may hold, which are read as another key."""

    among: tuple[str, ...]
    read_as: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        return "one of " + ", ".join((*self.among, *self.read_as))

    def read(self, value: Any) -> Any:
        if not isinstance(value, str) or value.strip().lower() not in self.among:
            raise ValueError
        return value.strip().lower()


@dataclass(frozen=True)
class Names:
    """A list of names, or one of a few words; a text with commas is a list. `among`: no others are known."""

    words: tuple[str, ...] = ()
    optional: bool = False
    what: str = "names"
    among: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        known = f" ({', '.join(self.among)})" if self.among else ""
        return " or ".join([*self.words, f"a list of {self.what}{known}"])

    def read(self, value: Any) -> Any:
        if (value is None and self.optional) or value in self.words:
            return value
        if isinstance(value, str):
            value = [part.strip() for part in value.strip().strip("[]").split(",")]
            value = [part.strip("'\"") for part in value]
        if not isinstance(value, Sequence) or not value:
            raise ValueError
        if not all(isinstance(name, str) and name for name in value):
            raise ValueError
        if self.among and not set(value) <= set(self.among):
            raise ValueError
        return list(dict.fromkeys(value))


@dataclass(frozen=True)
class Columns:
    says: str = "pairs of a role and a column, as in {prompt: question, completion: answer}"

    def read(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not value:
            raise ValueError
        if not all(isinstance(part, str) and part for pair in value.items() for part in pair):
            raise ValueError
        return dict(value)


@dataclass(frozen=True)
class Memory:
    """A size, kept as it was written; a bare number counts GB."""

    says: str = "a size such as 14GB or 14GiB"

    def read(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}GB"
        if not isinstance(value, str) or not memory_bytes(value):
            raise ValueError
        text = value.strip()
        return text if text[-1].isalpha() else f"{text}GB"


def memory_bytes(text: str) -> int:
    """Bytes of a size such as `14GB` (10⁹) or `14GiB` (2³⁰); 0 where it is none."""
    found = _MEMORY.fullmatch(text)
    if not found:
        return 0
    number, unit = float(found[1]), (found[2] or "g").lower()
    power = "kmgt".index(unit[0]) + 1
    return int(number * (1024 if unit.endswith("i") else 1000) ** power)


@dataclass(frozen=True)
class Every:
    """How often: `auto`, "25 steps", nothing, or a bare number, which counts `bare` (steps or seconds)."""

    bare: str
    optional: bool = False

    @property
    def says(self) -> str:
        return f'auto, "25 steps", {"nothing, " if self.optional else ""}or a number of {self.bare}'

    def read(self, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if isinstance(value, str):
            if value.strip().lower() == "auto":
                return "auto"
            found = _STEPS.fullmatch(value)
            if found and int(found[1]) > 0:
                return int(found[1]) if self.bare == "steps" else f"{int(found[1])} steps"
        return Number(whole=True, low=1).read(value)


def holds_a_key(place: str) -> bool:
    """Whether an address has a user and password, or what follows a question mark: credentials are written so."""
    _, scheme, rest = place.partition("://")
    return bool(scheme) and ("@" in rest.partition("/")[0] or "?" in rest)
