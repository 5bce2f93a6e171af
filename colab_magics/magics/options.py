"""The line of `%finetune` and `%%finetune`: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics.line import split
from colab_magics.session import times

# subcommand -> may it have a cell body
SUBCOMMANDS = {
    "recipe": True,
    "data": True,
    "status": False,
    "attach": False,
    "detach": False,
    "save": False,
    "stop": False,
    "list": False,
    "best": False,
}
# No run may be called so: these words are, or will be, subcommands.
RESERVED = frozenset({*SUBCOMMANDS, "help"})
PANELS = ("auto", "widget", "html", "text", "off")
_WITH_VALUE = ("preset", "out", "fork", "root", "panel", "deadline", "called")
_REPORTS = frozenset({"preset", "root", "quiet", "traceback"})
# subcommand -> the magic's own options that it takes, apart from --help; None stands for training
TAKES: dict[str | None, frozenset[str]] = {
    "recipe": _REPORTS,
    "data": _REPORTS,
    "status": frozenset({"root", "panel", "quiet"}),
    "attach": frozenset({"root", "panel", "quiet", "out", "traceback"}),
    "detach": frozenset({"root"}),
    "save": frozenset({"root"}),
    "stop": frozenset({"root", "now"}),
    "list": frozenset({"root"}),
    "best": frozenset(
        {"root", "panel", "quiet", "out", "traceback", "background", "again", "override", "deadline", "called"}
    ),
}
_FLAGS = ("background", "again", "override", "quiet", "traceback", "now", "help")


@dataclass(frozen=True)
class Options:
    """One line, read. `recipe` holds the options that are keys of the recipe."""

    command: str | None = None
    name: str | None = None
    preset: str | None = None
    out: str | None = None
    fork: str | None = None
    root: str | None = None
    panel: str | None = None
    called: str | None = None
    background: bool = False
    again: bool = False
    override: bool = False
    quiet: bool = False
    traceback: bool = False
    now: bool = False
    deadline: float | None = None
    help: bool = False
    recipe: dict[str, str | bool] = field(default_factory=dict)


OWN = tuple(option.name for option in fields(Options) if option.name in (*_WITH_VALUE, *_FLAGS))


def read_line(line: str, recipe_keys: Callable[[], frozenset[str]]) -> Options:
    """The options that `line` holds.

    Parameters
    ----------
    line : str
        What follows the magic's name.
    recipe_keys : function
        Gives the recipe's keys, known spellings included; called only where one is needed.

    Raises
    ------
    ColabMagicsError
        Unclosed quote, unknown option (names the nearest), missing value, more than one name.
    """
    words = split(line)
    options = Options()
    if words and words[0] in SUBCOMMANDS:
        options = replace(options, command=words.pop(0))
    while words:
        word = words.pop(0)
        if word in ("-h", "-?"):
            options = replace(options, help=True)
        elif word == "-q":
            options = replace(options, quiet=True)
        elif word.startswith("--") and len(word) > 2:
            options = _option(options, word, words, recipe_keys)
        elif word.startswith("-"):
            raise _unknown(word, recipe_keys)
        elif options.name is None:
            options = replace(options, name=word)
        else:
            raise _second_name(options, word)
    return _checked(options)


def _option(options: Options, word: str, words: list[str], recipe_keys: Callable[[], frozenset[str]]) -> Options:
    written, equals, value = word[2:].partition("=")
    name = written.replace("-", "_")
    if name in _FLAGS:
        if equals:
            raise ColabMagicsError(
                f"--{written} takes no value.", f"It is on or off, and {value!r} is given.", f"Write --{written} alone."
            )
        switched: dict[str, Any] = {name: True}
        return replace(options, **switched)
    follows = bool(words) and not words[0].startswith("--")
    if name in _WITH_VALUE:
        if not equals and not follows:
            raise ColabMagicsError(
                f"--{written} needs a value.",
                "The line ends, or another option follows it.",
                f"Write --{written} VALUE.",
            )
        given_value: dict[str, Any] = {name: value if equals else words.pop(0)}
        if name == "deadline":
            given_value[name] = times.end(str(given_value[name]), "--deadline")
        return replace(options, **given_value)
    if name not in recipe_keys():
        raise _unknown(word, recipe_keys)
    # A key without a value is a switch: --allow-pickle, --packing
    given: str | bool = value if equals else words.pop(0) if follows and name not in _SWITCHES else True
    return replace(options, recipe={**options.recipe, name: given})


_SWITCHES = ("allow_pickle", "trust_remote_code")
_BELONGS = {"now": "--now belongs to %finetune stop.", "called": "--called belongs to %finetune best."}


def _checked(options: Options) -> Options:
    takes = TAKES.get(options.command, frozenset(OWN) - {"now", "called"}) | {"help"}
    given = [name for name in OWN if name not in takes and getattr(options, name) not in (None, False)]
    if options.command not in (None, "recipe", "data"):
        given += options.recipe
    if given:
        what = f"%finetune {options.command}" if options.command else "A cell that trains"
        raise ColabMagicsError(
            f"{what} takes no --{given[0].replace('_', '-')}.",
            "It would have no effect there.",
            _BELONGS.get(given[0], "Leave it out."),
        )
    if options.panel is not None:
        check_panel(options.panel)
    if options.out is not None and not options.out.isidentifier():
        raise ColabMagicsError(
            f"--out {options.out} is no variable name.",
            "The run is bound to a variable of the notebook.",
            "Use letters, digits and _, as in --out run.",
        )
    return options


def check_panel(kind: str, said: str = "--panel") -> str:
    """`kind` if a panel may be so; `said` is where it was asked for."""
    if kind in PANELS:
        return kind
    close = nearest(kind, PANELS)
    raise ColabMagicsError(
        f"{said} {kind} is not known.",
        f"It can be {', '.join(PANELS)}.",
        f"Did you mean {said} {close}?" if close else f"With {said} auto the place decides.",
    )


def _unknown(word: str, recipe_keys: Callable[[], frozenset[str]]) -> ColabMagicsError:
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    close = nearest(name, (*OWN, *sorted(recipe_keys())))
    return ColabMagicsError(
        f"There is no option {word.partition('=')[0]}.",
        "An option is one of the magic's own or a key of the recipe.",
        f"Did you mean --{close.replace('_', '-')}?" if close else "%finetune --help lists the options.",
    )


def _second_name(options: Options, word: str) -> ColabMagicsError:
    if options.command is None:
        close = nearest(str(options.name), SUBCOMMANDS)
        return ColabMagicsError(
            f"There are two names on the line: {options.name} and {word}.",
            "A run has one name; every other word belongs to an option.",
            f"Did you mean %finetune {close} {word}?" if close else f"Quote a value that has spaces: --key '… {word}'.",
        )
    return ColabMagicsError(
        f"%finetune {options.command} takes one run.", f"{options.name} and {word} are two runs.", "Name one of them."
    )
