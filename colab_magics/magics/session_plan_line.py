"""The words of `%session plan`: a run, hours, and names of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.session.duration import Duration
from colab_magics.session.table import Table

USAGE = "%session plan [RUN] [--hours 3] [--platform NAME] [--gpu NAME] [--markdown]"
_OPTIONS = ("hours", "platform", "gpu", "markdown", "root")


@dataclass(frozen=True)
class Line:
    """The line, read: names as they were written, hours in seconds."""

    run: str | None = None
    hours: Duration | None = None
    platforms: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    markdown: bool = False
    root: str | None = None


def read_words(words: Iterable[str], table: Table) -> Line:
    """The line's words, with the table's names checked.

    Raises
    ------
    ColabMagicsError
        An unknown option, platform or device (the nearest is named), a missing value, two runs.
    """
    line, rest = Line(), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if line.run is not None:
                raise ColabMagicsError(
                    f"%session plan takes one run, and there are {line.run} and {word}.", "", f"Write {USAGE}."
                )
            line = replace(line, run=word)
            continue
        option, equals, value = word.partition("=")
        name = option.lstrip("-")
        if name not in _OPTIONS or not option.startswith("--"):
            close = nearest(name, _OPTIONS)
            raise ColabMagicsError(
                f"There is no option {option}.",
                f"%session plan takes {', '.join(f'--{one}' for one in _OPTIONS)}.",
                f"Did you mean --{close}?" if close else f"Write {USAGE}.",
            )
        if name == "markdown":
            line = replace(line, markdown=True)
            continue
        if not equals and not rest:
            raise ColabMagicsError(f"--{name} needs a value.", "The line ends.", f"Write {USAGE}.")
        value = value if equals else rest.pop(0)
        if name == "root":
            line = replace(line, root=value)
        elif name == "hours":
            line = replace(line, hours=_hours(value))
        elif name == "platform":
            line = replace(line, platforms=line.platforms + _named(value, table.platforms, "platform"))
        else:
            line = replace(line, accelerators=line.accelerators + _named(value, table.accelerators, "device"))
    return line


def _hours(value: str) -> Duration:
    """`3`, `6-8`, `90min`: hours where no unit is given."""
    from colab_magics.session.times import duration

    ends = value.replace("–", "-").split("-")
    seconds = []
    if len(ends) <= 2 and all(end.strip() for end in ends):
        for end in ends:
            try:
                seconds.append(float(end) * 3600)
            except ValueError:
                seconds.append(duration(end, "--hours"))
    low, high = min(seconds, default=0.0), max(seconds, default=0.0)
    if not 0 < low <= high < 1e9:
        raise ColabMagicsError(
            f"--hours {value} is no time.", "It is how long a GPU is used.", "Write --hours 3, or --hours 6-8."
        )
    return Duration(low, (low + high) / 2, high)


def _named(value: str, known: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """The keys that are meant: each is a key, in any case, or what keys begin with (`colab`: all of Colab's)."""
    found: list[str] = []
    for written in filter(None, map(str.strip, value.split(","))):
        word = written.lower()
        exact = [key for key in known if key.lower() == word]
        begun = [key for key in known if key.lower().startswith(f"{word}-")]
        if not exact and not begun:
            close = nearest(word, [key.lower() for key in known])
            named = next((key for key in known if key.lower() == close), None)
            raise ColabMagicsError(
                f"There is no {what} {written}.",
                f"There is {', '.join(known)}.",
                f"Did you mean {named}?" if named else "Leave it out, and all are shown.",
            )
        found += [key for key in (*exact, *begun) if key not in found]
    return tuple(found)
