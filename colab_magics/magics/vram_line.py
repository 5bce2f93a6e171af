"""The line of `%vram`, and the words of `python -m colab_magics vram`: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from colab_magics.errors import ColabMagicsError, nearest

# subcommand -> how it is written
COMMANDS = {
    "why": "%vram why [RUN]",
    "free": "%vram free [NAME ...] [--all]",
    "estimate": "%vram estimate [RUN] [options]",
}
BODY = ("estimate",)
_OPTIONS = ("--watch", "--help")
_HELP = ("-h", "-?", "--help", "help")


@dataclass(frozen=True)
class Line:
    """One line, read.

    Attributes
    ----------
    command : str or None
        None shows the report.
    words : tuple of str
        What follows the subcommand: of `free` the names, of `why` and `estimate` whatever they read.
    all : bool
        Of `free`: all that hold memory, after they have been listed.
    watch : {"on", "off"}, optional
        Switches the line after each cell.
    """

    command: str | None = None
    words: tuple[str, ...] = ()
    all: bool = False
    watch: Literal["on", "off"] | None = None
    help: bool = False


def read(words: Sequence[str]) -> Line:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown subcommand or option (the nearest is named), or a word too many.
    """
    # a comment behind the line, as people write it in a cell
    words = list(takewhile(lambda word: not word.startswith("#"), words))
    if not words:
        return Line()
    first, *rest = words
    if first in _HELP:
        return Line(help=True)
    if first == "--watch" or first.startswith("--watch="):
        return _watch([*filter(None, [first.partition("=")[2]]), *rest])
    if first not in COMMANDS:
        raise _no_command(first)
    if first != "estimate" and any(word in _HELP[:3] for word in rest):  # which has a help of its own
        return Line(first, help=True)
    return _free(rest) if first == "free" else Line(first, tuple(rest))


def _watch(rest: Sequence[str]) -> Line:
    match list(rest):
        case [] | ["on"]:
            return Line(watch="on")
        case ["off"]:
            return Line(watch="off")
    raise ColabMagicsError(
        f"%vram --watch takes no {' '.join(rest)}.",
        "It adds a line of memory to each cell, until it is switched off.",
        "Write %vram --watch, or %vram --watch off.",
    )


def _free(rest: Sequence[str]) -> Line:
    names: list[str] = []
    everything = False
    for word in rest:
        if word == "--all":
            everything = True
        elif word.startswith("-"):
            close = nearest(word, ("--all", "--help"))
            raise ColabMagicsError(
                f"%vram free takes no {word}; nothing was removed.",
                "Its option is --all: list all variables that hold memory, and remove them.",
                f"Did you mean {close}?" if close else f"Write {COMMANDS['free']}.",
            )
        else:
            names += [name for name in word.split(",") if name]  # as in Python's del
    if everything and names:
        raise ColabMagicsError(
            "%vram free takes names or --all; nothing was removed.",
            f"--all removes {', '.join(names)} too.",
            "Write one of them.",
        )
    return Line("free", tuple(names), everything)


def _no_command(word: str) -> ColabMagicsError:
    close = nearest(word, (*COMMANDS, *_OPTIONS))
    return ColabMagicsError(
        f"There is no {'option' if word.startswith('-') else 'subcommand'} {word}.",
        f"There is {', '.join(COMMANDS)}, and --watch; without one, %vram shows what fills the memory.",
        f"Did you mean %vram {close}?" if close else "%vram --help tells what each does.",
    )
