"""The line of `%export`, and the words of `python -m colab_magics export`: text in, a frozen value out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest

OPTIONS = {
    "run": "RUN",
    "to": "PATH",
    "zip": "",
    "checkpoint": "STEP",
    "merge": "",
    "dtype": "KIND",
    "base": "MODEL",
    "base-revision": "COMMIT",
    "gguf": "[KIND]",
    "public": "",
    "force": "",
    "root": "DIR",
}
"""Option -> its value: "" for a switch."""
DTYPES = ("fp16", "bf16", "fp32")
GGUF = ("q8_0", "f16")
HUB = "hub://"
_KIND = re.compile(r"[it]?q\d_\w+|b?f(16|32)", re.IGNORECASE)
_ONLY_WITH_A_MERGE = ("dtype", "base", "base_revision")


@dataclass(frozen=True)
class Line:
    """One line, read.

    Attributes
    ----------
    to : str, optional
        A path; without one it is a name in the working directory.
    hub : str, optional
        The Hub id that `--to hub://ID` names.
    gguf : str, optional
        One of `GGUF`; it is made of a merged model.
    """

    run: str | None = None
    to: str | None = None
    hub: str | None = None
    zip: bool = False
    checkpoint: int | None = None
    merge: bool = False
    dtype: str | None = None
    base: str | None = None
    base_revision: str | None = None
    gguf: str | None = None
    public: bool = False
    force: bool = False
    root: str | None = None
    help: bool = False


def read(words: Sequence[str]) -> Line:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named), a missing or a wrong value, two runs, options that exclude each other.
    """
    line, rest = Line(), list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("#"):
            break  # a comment behind the line, as people write it in a cell
        if word in ("-h", "-?", "--help", "help"):
            return Line(help=True)
        line = _option(line, word, rest) if word.startswith("-") else replace(line, run=_one_run(line, word))
    _check(line)
    return line


def _option(line: Line, word: str, rest: list[str]) -> Line:
    option, equals, value = word.partition("=")
    name = option.removeprefix("--").replace("_", "-")
    if not option.startswith("--") or name not in OPTIONS:
        close = nearest(name.lstrip("-"), OPTIONS)
        raise ColabMagicsError(
            f"There is no option {option}.",
            f"%export takes {', '.join(f'--{one}' for one in OPTIONS)}.",
            f"Did you mean --{close}?" if close else "%export --help shows what they do.",
        )
    kind = OPTIONS[name]
    if kind == "[KIND]":
        if not equals and rest and _is_kind(rest[0], line):
            value = rest.pop(0)
        value = value or GGUF[0]
    elif kind and not equals:
        if not rest or rest[0].startswith("--"):
            raise ColabMagicsError(
                f"--{name} needs a value.", "The line ends, or another option follows it.", f"Write --{name} {kind}."
            )
        value = rest.pop(0)
    elif equals and not kind:
        raise ColabMagicsError(f"--{name} takes no value.", "It is on or off.", f"Write --{name} alone.")
    if name == "run":
        return replace(line, run=_one_run(line, value))
    return replace(line, **_value(name, value if kind else ""))


def _is_kind(word: str, line: Line) -> bool:
    """Whether the word behind --gguf is meant as its kind, known or not, and not as the run."""
    if word.startswith(("-", "#")):
        return False
    return line.run is not None or word in GGUF or _KIND.fullmatch(word) is not None


def _one_run(line: Line, name: str) -> str:
    if line.run is not None:
        raise ColabMagicsError(
            "%export takes one run.", f"{line.run} and {name} are two.", "Quote a path that has spaces."
        )
    return name


def _value(name: str, value: str) -> dict[str, Any]:
    """What an option sets in the line."""
    if name == "to" and value.startswith(HUB):
        return {"hub": _hub_id(value.removeprefix(HUB))}
    if name == "checkpoint":
        step = value.replace(",", "").replace("_", "")
        if not step.isdecimal():
            raise ColabMagicsError(
                f"--checkpoint {value} is no step.", "A step is a whole number.", "%checkpoint list shows those saved."
            )
        return {name: int(step)}
    known = {"dtype": DTYPES, "gguf": GGUF}.get(name)
    if known is not None and value not in known:
        close = nearest(value, known)
        raise ColabMagicsError(
            f"--{name} {value} is not known.",
            f"It can be {', '.join(known)}.",
            f"Did you mean --{name} {close}?" if close else f"Write --{name} {known[0]}.",
        )
    return {name.replace("-", "_"): value if OPTIONS[name] else True}


def _hub_id(name: str) -> str:
    if name.count("/") != 1 or not all(name.split("/")):
        raise ColabMagicsError(
            f"{HUB}{name} names no repository.",
            "It is made of an owner and a name.",
            f"Write --to {HUB}your-name/{name.strip('/').rpartition('/')[2] or 'my-adapter'}.",
        )
    return name


def _check(line: Line) -> None:
    """Refuse options that say two things."""
    given = [option for option in _ONLY_WITH_A_MERGE if getattr(line, option) is not None]
    if given and not line.merge and line.gguf is None:
        raise ColabMagicsError(
            f"--{given[0].replace('_', '-')} goes with --merge.",
            "An adapter alone has no base in it.",
            "Add --merge, or leave it out.",
        )
    if line.hub is not None and (line.zip or line.gguf is not None):
        what = "--zip" if line.zip else "--gguf"
        raise ColabMagicsError(
            f"{what} makes one file, and the Hub takes a model's files as they are.",
            "There they are loaded by the repository's name.",
            f"Leave {what} out, or name a path: --to PATH.",
        )
    if line.public and line.hub is None:
        raise ColabMagicsError(
            "--public goes with --to hub://owner/name.", "A file here is nobody's but yours.", "Leave it out."
        )
    if line.gguf is not None and line.zip:
        raise ColabMagicsError("--gguf makes one file already.", "An archive would be as large.", "Leave --zip out.")
    if line.gguf is not None and line.to is not None and not line.to.endswith(".gguf"):
        raise ColabMagicsError(
            f"--to {line.to} does not end in .gguf.", "--gguf makes one file of that kind.", f"Write {line.to}.gguf."
        )
