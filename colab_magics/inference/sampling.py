"""How a text is drawn: the options of transformers' generation, by their own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from colab_magics.errors import ColabMagicsError

MAX_NEW_TOKENS = 256
# name -> (type, lowest, highest); what transformers itself says of a value is told in its own words
OPTIONS: Mapping[str, tuple[type, float, float]] = {
    "max_new_tokens": (int, 1, 2**20),
    "min_new_tokens": (int, 0, 2**20),
    "temperature": (float, 0, 100),
    "top_k": (int, 0, 2**20),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "typical_p": (float, 0, 1),
    "repetition_penalty": (float, 0.01, 100),
    "no_repeat_ngram_size": (int, 0, 2**20),
    "num_beams": (int, 1, 64),
    "length_penalty": (float, -100, 100),
    "num_return_sequences": (int, 1, 64),
    "seed": (int, 0, 2**63 - 1),
}
FLAGS = ("do_sample",)
_EXAMPLES: Mapping[str, str] = {
    "max_new_tokens": "64",
    "min_new_tokens": "16",
    "temperature": "0.8",
    "top_k": "50",
    "top_p": "0.9",
    "min_p": "0.05",
    "typical_p": "0.9",
    "repetition_penalty": "1.1",
    "length_penalty": "1.0",
    "seed": "7",
}  # of the others 3
# Each of them says something about a draw: whoever gives one wants to draw.
_DRAW = ("temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclass(frozen=True)
class Sampling:
    """What was asked for.

    Attributes
    ----------
    given : Mapping
        Of `OPTIONS`, what the line has given.
    do_sample : bool
        Draw; otherwise the likeliest token is taken, and the same prompt gives the same text.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    do_sample: bool = False

    def __post_init__(self) -> None:
        given = dict(self.given)
        if given.get("temperature") == 0:  # as other servers read it: no draw
            object.__setattr__(self, "given", {name: given[name] for name in given if name not in _DRAW})
            object.__setattr__(self, "do_sample", False)
        elif any(name in given for name in _DRAW):
            object.__setattr__(self, "do_sample", True)
        if self.copies > max(self.beams, 1) and not self.do_sample:
            raise ColabMagicsError(
                f"--num-return-sequences {self.copies} would give the same text {self.copies} times.",
                "Nothing is drawn: the likeliest token is taken each time.",
                "Add --do-sample or --temperature 0.8.",
            )

    @property
    def new_tokens(self) -> int:
        return int(self.given.get("max_new_tokens", MAX_NEW_TOKENS))

    @property
    def copies(self) -> int:
        return int(self.given.get("num_return_sequences", 1))

    @property
    def beams(self) -> int:
        return int(self.given.get("num_beams", 1))

    @property
    def seed(self) -> int | None:
        return self.given.get("seed")

    def config(self, model: Any, *, new_tokens: int, stops: set[int], pad: int) -> Any:
        """transformers' GenerationConfig: the model's own, with what was given in its place."""
        import copy

        config = copy.deepcopy(model.generation_config)
        ends = config.eos_token_id
        known = {*(ends if isinstance(ends, list) else [ends]), *stops} - {None}
        values = {name: value for name, value in self.given.items() if name != "seed"}
        values |= {"max_length": None, "max_new_tokens": new_tokens, "do_sample": self.do_sample}
        values |= {"eos_token_id": sorted(known) or None, "pad_token_id": pad}
        if "min_new_tokens" in values:  # where the context leaves less
            values["min_new_tokens"] = min(values["min_new_tokens"], new_tokens)
        if not self.do_sample:
            values |= dict.fromkeys(_DRAW)
        for name, value in values.items():
            setattr(config, name, value)
        return config


def value_of(name: str, text: str) -> int | float:
    """An option's value.

    Raises
    ------
    ColabMagicsError
        It is no number, or out of range.
    """
    kind, low, high = OPTIONS[name]
    try:
        value: int | float = kind(text)
        if not low <= value <= high:
            raise ValueError
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        between = f" from {low:g}" + (f" to {high:g}" if high < 2**20 else "")
        raise ColabMagicsError(
            f"--{name.replace('_', '-')} {text} cannot be used.",
            f"It takes {noun}{between}.",
            f"Write it as --{name.replace('_', '-')} {_EXAMPLES.get(name, '3')}.",
        ) from None
    return value
