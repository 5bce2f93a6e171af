"""The line of `%checkpoint`, and the words of `python -m colab_magics checkpoint`: text in, a frozen value out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics.line import split
from colab_magics.magics.options import PANELS
from colab_magics.session import times


@dataclass(frozen=True)
class Line:
    """One line, read.

    Attributes
    ----------
    run : str or None
        The run's name; of `import`, the name that the new run gets.
    step, attempt : int or None
        The checkpoint that is meant; an attempt only where it was named in full, as `00000040-a2`.
    source : str or None
        The replica that `fetch --from` names.
    deadline : float or None
        Seconds from now until the machine ends.
    """

    command: str | None = None
    run: str | None = None
    step: int | None = None
    attempt: int | None = None
    path: str | None = None
    source: str | None = None
    keep: int | None = None
    deadline: float | None = None
    out: str | None = None
    fork: str | None = None
    panel: str | None = None
    root: str | None = None
    background: bool = False
    quiet: bool = False
    traceback: bool = False
    full: bool = False
    dry_run: bool = False
    force: bool = False
    trust_pickle: bool = False
    help: bool = False


@dataclass(frozen=True)
class Grammar:
    """What a subcommand takes: words in their order (those that it needs first), and options with their values."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        return self.needs + self.may


# An option's value: "" for a switch, else what the value is.
COMMANDS: Mapping[str, Grammar] = {
    "list": Grammar(may=("RUN",)),
    "save": Grammar(may=("RUN",)),
    "resume": Grammar(
        may=("RUN",),
        options={
            "from": "STEP",
            "fork": "NAME",
            "out": "VAR",
            "panel": "KIND",
            "deadline": "TIME",
            "background": "",
            "quiet": "",
            "traceback": "",
        },
    ),
    "verify": Grammar(may=("RUN",), options={"full": ""}),
    "prune": Grammar(may=("RUN",), options={"keep": "N", "dry_run": ""}),
    "pin": Grammar(needs=("STEP",), may=("RUN",)),
    "unpin": Grammar(needs=("STEP",), may=("RUN",)),
    "show": Grammar(may=("RUN", "STEP")),
    "export": Grammar(needs=("PATH",), may=("RUN",), options={"step": "STEP", "force": ""}),
    "fetch": Grammar(may=("RUN",), options={"from": "WHERE"}),
    "import": Grammar(needs=("PATH", "NAME"), options={"trust_pickle": ""}),
}
ALWAYS: Mapping[str, str] = {"root": "DIR", "help": ""}

_CHECKPOINT = re.compile(r"(?P<step>[0-9]{1,8})(-a(?P<attempt>[0-9]{1,6}))?")


def read_line(line: str) -> Line:
    """What `line`, the text after the magic's name, asks for.

    Raises
    ------
    ColabMagicsError
        An unclosed quote, or whatever `read_words` does not understand.
    """
    return read_words(split(line))


def read_words(words: Sequence[str]) -> Line:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown subcommand or option (names the nearest), one that the subcommand does not take, a missing or a
        wrong value, too few words or too many.
    """
    if not words or words[0] in ("-h", "-?", "--help", "help"):
        return Line(help=True)
    command, *rest = words
    if command not in COMMANDS:
        raise _no_command(command)
    grammar, line, plain = COMMANDS[command], Line(command), []
    while rest:
        word = rest.pop(0)
        if word in ("-h", "-?", "-q"):
            word = "--quiet" if word == "-q" else "--help"
        if word.startswith("--") and len(word) > 2:
            line = _option(line, grammar, word, rest)
        elif word[0:1] == "-" and word[1:].isdecimal() and "STEP" in grammar.words:
            _step(word, command)
        elif word.startswith("-") and word != "-":
            raise _no_option(command, word)
        else:
            plain.append(word)
    return line if line.help else _placed(line, grammar, plain)


def usage(command: str) -> str:
    """How the subcommand is written."""
    grammar = COMMANDS[command]
    words = [*grammar.needs, *(f"[{word}]" for word in grammar.may)]
    options = [f"[--{_spelt(name)}{f' {value}' if value else ''}]" for name, value in grammar.options.items()]
    return " ".join([f"%checkpoint {command}", *words, *options])


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def _option(line: Line, grammar: Grammar, word: str, rest: list[str]) -> Line:
    written, equals, given = word[2:].partition("=")
    name = written.replace("-", "_")
    takes = {**grammar.options, **ALWAYS}
    if name not in takes:
        raise _no_option(str(line.command), word)
    kind = takes[name]
    if not kind:
        if equals:
            raise ColabMagicsError(
                f"--{written} takes no value.", f"It is on or off, and {given!r} is given.", f"Write --{written} alone."
            )
        switched: dict[str, Any] = {name: True}
        return replace(line, **switched)
    if not equals:
        if not rest or rest[0].startswith("--"):
            raise ColabMagicsError(
                f"--{written} needs a value.",
                "The line ends, or another option follows it.",
                f"Write --{written} {kind}.",
            )
        given = rest.pop(0)
    return replace(line, **_value(f"--{written}", name, kind, given))


def _value(option: str, name: str, kind: str, given: str) -> dict[str, Any]:
    """What the option's value sets in the line."""
    match kind:
        case "STEP":
            return _step(given, option)
        case "WHERE":
            return {"source": given}
        case "TIME":
            return {name: times.end(given, option)}
        case "N":
            if not given.isdecimal() or int(given) < 1:
                raise ColabMagicsError(
                    f"{option} {given} is no number of checkpoints.", "It is a whole number from 1 on.", "Try --keep 2."
                )
            return {name: int(given)}
        case "VAR" if not given.isidentifier():
            raise ColabMagicsError(
                f"{option} {given} is no variable name.",
                "The run is bound to a variable of the notebook.",
                "Use letters, digits and _, as in --out run.",
            )
        case "KIND" if given not in PANELS:
            close = nearest(given, PANELS)
            raise ColabMagicsError(
                f"{option} {given} is not known.",
                f"It can be {', '.join(PANELS)}.",
                f"Did you mean --panel {close}?" if close else "Leave --panel out, and the place decides.",
            )
    return {name: given}


def _step(word: str, option: str) -> dict[str, Any]:
    found = _CHECKPOINT.fullmatch(word.replace(",", "").replace("_", ""))
    if found is None:
        raise ColabMagicsError(
            f"{option} {word} is no step.",
            "A step is a whole number.",
            "%checkpoint list shows the steps that have a checkpoint.",
        )
    return {"step": int(found["step"]), "attempt": int(found["attempt"]) if found["attempt"] else None}


def _placed(line: Line, grammar: Grammar, plain: list[str]) -> Line:
    """The line with its plain words where they belong."""
    command, left = str(line.command), list(plain)
    if len(plain) > len(grammar.words):
        raise _too_many(command, grammar, plain)
    if "STEP" in grammar.words:
        # a step is known by its look, so that `pin kwanzaa 40` is read too; of two such words its place decides
        steps = [word for word in plain if _CHECKPOINT.fullmatch(word)]
        if steps:
            step = steps[0] if len(steps) == 1 else plain[grammar.words.index("STEP")]
            left.remove(step)
            line = replace(line, **_step(step, command))
        elif "STEP" in grammar.needs and plain:
            _step(plain[0], command)
    if "STEP" in grammar.needs and line.step is None:
        raise _missing(command, "STEP")
    places = [word for word in grammar.words if word != "STEP"]
    if len(left) > len(places):
        raise _too_many(command, grammar, left)
    for place, word in zip(places, left, strict=False):
        line = replace(line, path=word) if place == "PATH" else replace(line, run=word)
    for place in places[len(left) :]:
        if place in grammar.needs:
            raise _missing(command, place)
    return line


def _missing(command: str, place: str) -> ColabMagicsError:
    what = {"STEP": "a step", "PATH": "a path", "NAME": "a name for the new run"}[place]
    return ColabMagicsError(f"%checkpoint {command} needs {what}.", "", f"Write {usage(command)}.")


def _too_many(command: str, grammar: Grammar, plain: list[str]) -> ColabMagicsError:
    return ColabMagicsError(
        f"%checkpoint {command} does not take {len(plain)} words: {' '.join(plain)}.",
        f"It takes {' and '.join(word if word in grammar.needs else f'[{word}]' for word in grammar.words)}.",
        "Quote a path that has spaces." if "PATH" in grammar.words else "Name one run.",
    )


def _no_command(word: str) -> ColabMagicsError:
    close = nearest(word, COMMANDS)
    return ColabMagicsError(
        f"There is no subcommand {word}.",
        f"There is {', '.join(COMMANDS)}.",
        f"Did you mean %checkpoint {close}?" if close else f"%checkpoint list {word} shows a run's checkpoints.",
    )


def _no_option(command: str, word: str) -> ColabMagicsError:
    shown = word.partition("=")[0]
    name = shown.lstrip("-").replace("-", "_")
    takes = (*COMMANDS[command].options, *ALWAYS)
    others = [other for other, grammar in COMMANDS.items() if name in grammar.options]
    if others and shown.startswith("--"):
        return ColabMagicsError(
            f"%checkpoint {command} takes no {shown}.",
            f"{shown} belongs to {' and '.join(others)}.",
            f"Write {usage(command)}.",
        )
    close = nearest(name, takes)
    return ColabMagicsError(
        f"There is no option {shown}.",
        f"%checkpoint {command} takes {', '.join(f'--{_spelt(one)}' for one in takes)}.",
        f"Did you mean --{_spelt(close)}?" if close else f"Write {usage(command)}.",
    )
