"""The line of `%generate` and `%compare`: options anywhere, and the rest of it is the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.inference.sampling import FLAGS, OPTIONS, Sampling, value_of

# A quote counts only at the beginning of a word and where it is closed: people write "What's a list?"
_WORD = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*')(?=\s|$)|\S+""")
_OPTION = re.compile(r"--(?P<name>[A-Za-z][\w-]*)(?:=(?P<value>.*))?", re.DOTALL)

Read = Callable[[str], Any]


def asked_words(line: str) -> list[str]:
    """The words of a line; one in quotes is a word, and no quote has to be closed, unlike in `line.split`."""
    return [_bare(found[0]) for found in _WORD.finditer(line)]


def read_words(
    magic: str, given_words: Sequence[str], values: Mapping[str, tuple[str, Read]], flags: Mapping[str, str]
) -> tuple[dict[str, Any], Sampling, str]:
    """The options, how to draw, and the prompt that stands on the line.

    Parameters
    ----------
    magic : %generate or %compare
    values : option -> what stands for its value in the help, and what reads it
    flags : options without a value

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named), a missing value, a value that cannot be used.
    """
    given: dict[str, Any] = {}
    drawing: dict[str, Any] = {}
    said: list[str] = []
    words = list(given_words)
    while words:
        word = words.pop(0)
        option = _OPTION.fullmatch(word)
        if word in ("-h", "-?"):
            given["help"] = True
        elif option is None:
            said.append(word)
        else:
            name = option["name"].replace("-", "_")
            if name in flags or name in FLAGS or name == "help":
                if option["value"] is not None:
                    raise ColabMagicsError(f"--{option['name']} takes no value.", "", f"Write --{option['name']}.")
                (drawing if name in FLAGS else given)[name] = True
            elif name in values or name in OPTIONS:
                shape, read = values[name] if name in values else ("N", _number(name))
                value = option["value"] if option["value"] is not None else _next(option["name"], shape, words)
                (given if name in values else drawing)[name] = read(value)
            else:
                raise _unknown(magic, option["name"], [*values, *flags, *OPTIONS, *FLAGS, "help"])
    do_sample = bool(drawing.pop("do_sample", False))
    return given, Sampling(drawing, do_sample), " ".join(said)


def whole(option: str, lowest: int = 0) -> Read:
    """Reads a whole number, `lowest` or more."""

    def read(text: str) -> int:
        digits = text.replace(",", "")
        if not digits.isdigit():
            raise ColabMagicsError(
                f"--{option} {text} is no number.", "It takes a whole number.", f"Write it as --{option} 20."
            )
        if int(digits) < lowest:
            raise ColabMagicsError(
                f"--{option} {text} cannot be used.",
                f"It takes a whole number from {lowest} on.",
                f"Write it as --{option} 20, or leave it out.",
            )
        return int(digits)

    return read


def numbers(option: str) -> Read:
    """Reads whole numbers from 1 on, with commas between them."""

    def read(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isdigit() and int(part) for part in parts):
            raise ColabMagicsError(
                f"--{option} {text} cannot be read.",
                "It takes whole numbers from 1 on, with commas between them.",
                f"Write it as --{option} 8.",
            )
        return tuple(map(int, parts))

    return read


def one_of(option: str, among: tuple[str, ...]) -> Read:
    """Reads one of a few words."""

    def read(text: str) -> str:
        if text not in among:
            close = nearest(text, among)
            raise ColabMagicsError(
                f"--{option} {text} cannot be used.",
                f"It takes {' or '.join(among)}.",
                f"Did you mean --{option} {close}?" if close else "",
            )
        return text

    return read


def variable(option: str) -> Read:
    """Reads the name of a notebook variable."""

    def read(text: str) -> str:
        if not text.isidentifier():
            raise ColabMagicsError(
                f"--{option} {text} is no variable's name.", "", f"Write --{option} with a name, such as answers."
            )
        return text

    return read


def _number(name: str) -> Read:
    return lambda text: value_of(name, text)


def _next(option: str, shape: str, words: list[str]) -> str:
    if not words or _OPTION.fullmatch(words[0]):
        raise ColabMagicsError(
            f"--{option} needs a value.", "The line ends, or another option follows it.", f"Write --{option} {shape}."
        )
    return words.pop(0)


def _bare(word: str) -> str:
    """Without the quotes around it."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        inside = word[1:-1]
        return re.sub(r"\\(.)", r"\1", inside) if word[0] == '"' else inside
    return word


def _unknown(magic: str, option: str, known: list[str]) -> ColabMagicsError:
    spelt = [name.replace("_", "-") for name in known]
    close = nearest(option.replace("_", "-"), spelt)
    return ColabMagicsError(
        f"{magic} has no option --{option}.",
        "Options of transformers' generation are called as there, and begin with --.",
        f"Did you mean --{close}?" if close else f"{magic} --help shows them all.",
    )
