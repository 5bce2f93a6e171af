"""The line of `%report`, and the words of `python -m colab_magics report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest

OPTIONS = {"run": "RUN", "to": "PATH", "root": "DIR"}
ENDINGS = (".html", ".md")


@dataclass(frozen=True)
class Line:
    """One line, read; without `to` both forms are written, under names in the working directory."""

    run: str | None = None
    to: str | None = None
    root: str | None = None
    help: bool = False


def read(words: Sequence[str]) -> Line:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named), a missing value, a path of another kind, two runs.
    """
    line, rest = Line(), list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("#"):
            break
        if word in ("-h", "-?", "--help", "help"):
            return Line(help=True)
        option, equals, value = word.partition("=")
        name = option.removeprefix("--")
        if option.startswith("-"):
            if not option.startswith("--") or name not in OPTIONS:
                close = nearest(name.lstrip("-"), OPTIONS)
                raise ColabMagicsError(
                    f"There is no option {option}.",
                    f"%report takes {', '.join(f'--{one}' for one in OPTIONS)}.",
                    f"Did you mean --{close}?" if close else "%report --help shows what they do.",
                )
            if not equals and (not rest or rest[0].startswith("--")):
                raise ColabMagicsError(
                    f"--{name} needs a value.", "The line ends there.", f"Write --{name} {OPTIONS[name]}."
                )
            given: dict[str, Any] = {name: value if equals else rest.pop(0)}
            if name == "run" and line.run is not None:
                raise _two(line.run, given["run"])
            line = replace(line, **given)
        elif line.run is not None:
            raise _two(line.run, word)
        else:
            line = replace(line, run=word)
    if line.to is not None and not line.to.endswith(ENDINGS):
        raise ColabMagicsError(
            f"--to {line.to} ends in neither .html nor .md.",
            "A report is one of the two.",
            f"Write --to {line.to.rpartition('.')[0] or line.to}.html.",
        )
    return line


def _two(one: str, other: str) -> ColabMagicsError:
    return ColabMagicsError("%report takes one run.", f"{one} and {other} are two.", "Name one of them, or one a line.")
