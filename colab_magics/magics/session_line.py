"""The line of `%session`, and the words of `python -m colab_magics session`: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from colab_magics.errors import ColabMagicsError, nearest

# subcommand -> how it is written
COMMANDS = {
    "set": "%session set KEY VALUE",
    "unset": "%session unset KEY",
    "setup": "%session setup [--out VAR]",
    "plan": "%session plan [RUN] [options]",
    "cost": "%session cost [RUN]",
    "table": "%session table",
}
BODY = ("plan",)
# What a word processor makes of quotes, and what a page of instructions puts around them.
_QUOTES = "“”„‟‘’‚‛«»`"
_HELP = ("-h", "-?", "--help", "help")


@dataclass(frozen=True)
class Line:
    """One line, read.

    Attributes
    ----------
    command : str or None
        None shows the session.
    words : tuple of str
        What follows the subcommand: of `set` the key and the value, of `plan` and `cost` whatever they read.
    out : str or None
        The variable to which `setup` binds the paths.
    """

    command: str | None = None
    words: tuple[str, ...] = ()
    out: str | None = None
    help: bool = False


def read(words: Sequence[str]) -> Line:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown subcommand or option (the nearest is named), a missing word or one too many.
    """
    # a comment behind the line, as people write it in a cell
    words = list(takewhile(lambda word: not word.startswith("#"), words))
    if not words:
        return Line()
    command, *rest = words
    if command in _HELP:
        return Line(help=True)
    if command not in COMMANDS:
        raise _no_command(command)
    if command not in ("plan", "cost") and any(word in _HELP[:3] for word in rest):
        return Line(command, help=True)
    match command:
        case "set":
            return Line(command, _key_and_value(rest))
        case "unset":
            return Line(command, _exactly(command, [word.strip(_QUOTES) for word in rest], 1))
        case "setup":
            return _setup(rest)
        case "table":
            return Line(command, _exactly(command, rest, 0))
        case _:
            return Line(command, tuple(rest))


def _key_and_value(rest: Sequence[str]) -> tuple[str, str]:
    """`limit 10h`, `limit 90 min`, `limit=10h` and `limit = 10h` are all meant alike."""
    key, *value = [word.strip(_QUOTES) for word in rest] or [""]
    if "=" in key:
        key, _, first = key.partition("=")
        value = [first, *value] if first else value
    elif value and value[0].startswith("="):
        value = [value[0][1:], *value[1:]] if value[0] != "=" else value[1:]
    if not key or not value:
        raise ColabMagicsError(
            f"%session set needs {'a value' if key else 'a key and a value'}.",
            f"{key} is given nothing." if key else "",
            f"Write %session set {key or 'limit'} VALUE, as in %session set limit 10h.",
        )
    return key, " ".join(value)


def _exactly(command: str, rest: Sequence[str], count: int) -> tuple[str, ...]:
    if len(rest) != count:
        what = "a key" if len(rest) < count else f"no {' '.join(rest[count:])}"
        raise ColabMagicsError(
            f"%session {command} {'needs' if len(rest) < count else 'takes'} {what}.", "", f"Write {COMMANDS[command]}."
        )
    return tuple(rest)


def _setup(rest: Sequence[str]) -> Line:
    left, out = list(rest), None
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name != "--out":
            close = nearest(name, ("--out",))
            raise ColabMagicsError(
                f"%session setup takes no {word}.",
                "Where the folders are is found by platform.",
                f"Did you mean {close}?" if close else f"Write {COMMANDS['setup']}.",
            )
        if not equals and not left:
            raise ColabMagicsError("--out needs a variable's name.", "The line ends.", "Write --out paths.")
        out = value if equals else left.pop(0)
        if not out.isidentifier():
            raise ColabMagicsError(
                f"--out {out} is no variable name.",
                "The paths are bound to a variable of the notebook.",
                "Use letters, digits and _, as in --out paths.",
            )
    return Line("setup", out=out)


def _no_command(word: str) -> ColabMagicsError:
    close = nearest(word, COMMANDS)
    return ColabMagicsError(
        f"There is no subcommand {word}.",
        f"There is {', '.join(COMMANDS)}; without one, %session shows this session.",
        f"Did you mean %session {close}?" if close else "%session --help tells what each does.",
    )
