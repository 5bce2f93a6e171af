"""The words of `%vram estimate`: text in, a frozen value out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.recipe.fields import rules
from colab_magics.recipe.rules import Flag
from colab_magics.recipe.spellings import canonical, known_keys

HELP = """\
%vram estimate --model ID [--method qlora] [--max-length 2048] [--gpu T4]
                        what training it takes of a card, from its config alone: nothing else is downloaded
%vram estimate ID [...]  a model by its id or its folder alone
%vram estimate RUN      the same of a run, beside what its worker has measured
%vram estimate net --batch x [--optimizer opt] [--loss f] [--keep a,b]
                        any torch module of this notebook: by component, against each card; x is a tensor, a tuple
                        of arguments or a dict, f is called as f(output, x), opt holds an optimizer or is adamw, sgd
%%vram estimate         of the recipe below it, with its data

  --gpu T4,24GB           cards by name or by size; without it the one that is here, else a T4
  --batch N               documents at once (per_device_train_batch_size); any other key of the recipe is an option too
  --compare               what TRL and transformers' Trainer would take for the same
  --inference             generating instead of training: weights and KV cache, by context length
  --context N             with --inference: this context, in tokens
  --quick                 by formula alone, in milliseconds
  --root DIR              where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)\
"""
_VALUES = ("gpu", "batch", "optimizer", "keep", "context", "root")
_MAKERS = frozenset("nvidia geforce tesla quadro rtx gtx".split())  # words that a card's name begins with
_TRUTHS = frozenset("true false yes no on off".split())
_UNITS = frozenset("gib gb g mib mb".split())
_FLAGS = ("compare", "inference", "quick", "help")


@dataclass(frozen=True)
class Asked:
    """The line, read.

    Attributes
    ----------
    name : str, optional
        A run, or a variable that holds a torch module.
    gpus, keep : tuple of str
        Cards, and variables that stay on the card beside the module.
    batch : str, optional
        A number of documents, or (of a module) the variable of its input.
    recipe : dict
        Keys of the recipe that were given.
    """

    name: str | None = None
    gpus: tuple[str, ...] = ()
    batch: str | None = None
    optimizer: str | None = None
    keep: tuple[str, ...] = ()
    context: int | None = None
    root: str | None = None
    compare: bool = False
    inference: bool = False
    quick: bool = False
    help: bool = False
    recipe: dict[str, str | bool] = field(default_factory=dict)


def read(words: Sequence[str]) -> Asked:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named) or one that is there twice, a missing value, a second name, an
        impossible number.
    """
    asked, left = Asked(), list(words)
    options: set[str] = set()
    while left:
        word = left.pop(0)
        if word in ("-h", "-?", "help"):
            asked = replace(asked, help=True)
        elif word.startswith("--") and len(word) > 2:
            _once(word, options)
            asked = _option(asked, word, left)
        elif word.startswith("-"):
            raise _unknown(word)
        elif asked.name is not None:
            raise ColabMagicsError(
                f"%vram estimate takes one name, and there are {asked.name} and {word}.",
                "It is a run, a variable that holds a module, or a model's id or folder.",
                "Write one of them; what else there is goes with an option: --gpu, --batch, --max-length.",
            )
        else:
            asked = replace(asked, name=word)
    return asked


def _once(word: str, options: set[str]) -> None:
    name = canonical(word[2:].partition("=")[0].replace("-", "_"))
    if name in options:
        option = f"--{name.replace('_', '-')}"
        raise ColabMagicsError(
            f"{option} is there twice.",
            "Which of the two is meant cannot be told.",
            f"Write {option} once" + (", with a comma between: --gpu T4,L4." if name in ("gpu", "keep") else "."),
        )
    options.add(name)


def _option(asked: Asked, word: str, left: list[str]) -> Asked:
    written, equals, value = word[2:].partition("=")
    name = written.replace("-", "_")
    if name in _FLAGS:
        if equals:
            raise ColabMagicsError(
                f"--{written} takes no value.",
                "It is there or it is not.",
                f"Write --{written} alone, or leave it out.",
            )
        switched: dict[str, Any] = {name: True}
        return replace(asked, **switched)
    follows = bool(left) and not left[0].startswith("--")
    if name not in (*_VALUES, "loss") and name not in known_keys():
        raise _unknown(word)
    if not equals and name not in (*_VALUES, "loss") and isinstance(rules().get(canonical(name), Flag()), Flag):
        # what is no key of its own is a spelling of others, and may be a switch as well
        if follows and (left[0].lower() in _TRUTHS or name not in rules()):
            value, equals = left.pop(0), "="
        else:
            return replace(asked, recipe={**asked.recipe, name: True})
    if not equals and not follows:
        raise _no_value(written, "The line ends, or another option follows it.")
    value = value if equals else left.pop(0)
    if name == "gpu":
        while left and re.split(r"[ ,]", value.lower())[-1] in _MAKERS and not left[0].startswith("--"):
            value = f"{value} {left.pop(0)}"  # --gpu RTX 4090, as it is said
        if left and re.fullmatch(r".*\d", value) and left[0].lower().partition(",")[0] in _UNITS:
            value = f"{value} {left.pop(0)}"
    match name:
        case "gpu" | "keep":
            listed = tuple(part.strip() for part in value.split(",") if part.strip())
            if not listed:
                raise _no_value(written, "Nothing is listed there.")
            given: dict[str, Any] = {"gpus" if name == "gpu" else "keep": listed}
            return replace(asked, **given)
        case "context":
            return replace(asked, context=_whole(value, "--context"))
        case "batch" | "optimizer" | "root":
            given = {name: value}
            return replace(asked, **given)
    return replace(asked, recipe={**asked.recipe, name: value})


def _no_value(option: str, why: str) -> ColabMagicsError:
    return ColabMagicsError(f"--{option} needs a value.", why, f"Write --{option} VALUE.")


def _whole(value: str, option: str) -> int:
    times = 1024 if value[-1:] in ("k", "K") else 1
    try:
        number = int(value.rstrip("kK").replace("_", "").replace(",", "")) * times
    except ValueError:
        number = 0
    if number < 1:
        raise ColabMagicsError(
            f"{option} {value} is no number of tokens.", "It is a whole number above 0.", f"Write {option} 8192."
        )
    return number


def _unknown(word: str) -> ColabMagicsError:
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    close = nearest(name, (*_VALUES, *_FLAGS, *sorted(known_keys())))
    return ColabMagicsError(
        f"There is no option {word.partition('=')[0]}.",
        "An option is one of %vram estimate's own or a key of the recipe.",
        f"Did you mean --{close.replace('_', '-')}?" if close else "%vram estimate --help lists them.",
    )
