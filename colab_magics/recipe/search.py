"""What a cell tries: keys that hold a list or a range where a recipe has one value, and which combinations of them.

A recipe has one value a key, so a cell with lists is as many cells: each combination of values is put where its list
stood, and read as if a person had written it so. What follows from a value (lora_alpha from r) then follows each time.

No search library: with the three to ten trials of a short session the models of optuna have not begun (TPE draws its
first ten at random), and it would be one more package that Colab does not have. What remains is to spread few trials
evenly, which is ten lines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.recipe.fields import rules
from colab_magics.recipe.layer import show
from colab_magics.recipe.rules import Choice, Columns, Names, Number, Rule, Warmup
from colab_magics.recipe.spellings import canonical

if TYPE_CHECKING:
    from colab_magics.recipe.fields import Recipe
    from colab_magics.recipe.yaml_text import Entry

# What may differ between two trials: the losses of all others would not be those of the same model on the same tokens.
SEARCHED = frozenset(
    """
    method precision gradient_checkpointing r lora_alpha lora_dropout use_rslora use_dora effective_batch_size
    per_device_train_batch_size learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm optim
    adam_beta1 adam_beta2 adam_epsilon seed packing
    """.split()
)
MOST = 20  # trials: more take longer than the training that they are for, and their table and curves fill no output
SETTINGS: Mapping[str, Rule] = {
    "trials": Number(low=2, high=MOST, whole=True),
    "trial_steps": Number(low=2, whole=True),
    "trial_samples": Number(low=2, whole=True),
    "best_by": Choice(("auto", "eval_loss", "loss")),
}
_READS_LISTS = ("data", "eval_data", "loss_type")  # other trainers write one of these as a list
_ENDS = ("low", "high")
_LOG_FROM = 10  # times low: from there on the powers are what is to be spread evenly


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, of which as many are tried as there are trials."""

    low: float
    high: float
    log: bool
    whole: bool

    def values(self, count: int) -> tuple[float, ...]:
        """`count` numbers evenly over the range, both ends among them; fewer where no more whole ones are there."""
        shares = [place / (count - 1) for place in range(1, count - 1)]
        if self.log:
            between = [math.exp(math.log(self.low) + share * math.log(self.high / self.low)) for share in shares]
        else:
            between = [self.low + share * (self.high - self.low) for share in shares]
        # two figures: what a person writes into the recipe of the full run
        short = [round(one) if self.whole else float(f"{one:.2g}") for one in between]
        return tuple(dict.fromkeys([self.low, *(one for one in short if self.low < one < self.high), self.high]))

    def written(self) -> dict[str, Any]:
        """As it stands in a cell."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Axis:
    """One key of which several values are tried, and where they are written."""

    key: str
    entry: Entry
    values: tuple[Any, ...] | Range

    @property
    def is_one_value(self) -> bool:
        return not isinstance(self.values, Range) and len(self.values) == 1

    def placed(self, count: int) -> list[Entry]:
        """An entry for each value, which knows its place in the list."""
        values = self.values.values(count) if isinstance(self.values, Range) else self.values
        places = [f"value {place} of {len(values)}" for place in range(1, len(values) + 1)]
        return [
            replace(self.entry, value=value, text=value, place=place)
            for value, place in zip(values, places, strict=True)
        ]


@dataclass(frozen=True)
class Search:
    """The trials that a cell asks for.

    Attributes
    ----------
    varied : mapping
        The values that are tried, by key.
    recipes : tuple of Recipe
        One a trial: the full training that the trial stands for.
    steps, samples : int, optional
        How long a trial is, where the cell says it.
    best_by : str
        What the best is best in: eval_loss, or loss (of the training, smoothed).
    """

    varied: Mapping[str, tuple[Any, ...] | Range]
    recipes: tuple[Recipe, ...]
    steps: int | None = None
    samples: int | None = None
    best_by: str = "loss"

    def values(self, recipe: Recipe) -> dict[str, Any]:
        """What of `recipe` another trial has otherwise."""
        return {key: getattr(recipe, key) for key in self.varied}


def take_settings(layers: Sequence[list[Entry]]) -> tuple[list[list[Entry]], dict[str, Any]]:
    """The layers without the keys that are about trials, and what these say; an upper layer wins."""
    found: dict[str, Any] = {}
    left = []
    for layer in layers:
        left.append([entry for entry in layer if entry.key not in SETTINGS])
        for entry in layer:
            if entry.key not in SETTINGS or entry.value is None:
                continue
            try:
                found[entry.key] = SETTINGS[entry.key].read(entry.value)
            except (ValueError, OverflowError):
                raise ColabMagicsError(
                    f"{entry.key}: {show(entry.value)} cannot be used ({entry.where}).",
                    f"{entry.key} takes {SETTINGS[entry.key].says}.",
                    f"Correct {entry.key}, or leave it out.",
                ) from None
    if "trial_steps" in found and "trial_samples" in found:
        raise ColabMagicsError(
            "trial_steps and trial_samples are both given.", "Each says how long a trial is.", "Keep one of them."
        )
    return left, found


def axes_of(layers: Sequence[Sequence[Entry]]) -> dict[str, Axis]:
    """The keys that hold several values, with the uppermost layer's; one value above a list leaves no list.

    Raises
    ------
    ColabMagicsError
        A list where the trainings could not be compared, a list of lists, a range that is none.
    """
    axes: dict[str, Axis] = {}
    for layer in layers:
        here: dict[str, Axis] = {}
        for entry in layer:
            key = canonical(entry.key)
            axis = _axis(key, entry)
            if axis is None:
                axes.pop(key, None)
            elif key in here and here[key].values != axis.values:
                raise ColabMagicsError(
                    f"{here[key].entry.key} ({here[key].entry.where}) and {entry.key} ({entry.where}) are two lists.",
                    "They are of the same key.",
                    "Keep one of them.",
                )
            else:
                here[key] = axis
        axes |= here
    return axes


def _axis(key: str, entry: Entry) -> Axis | None:
    rule, value = rules().get(key), entry.value
    if rule is None or isinstance(rule, Names | Columns) or key in _READS_LISTS:
        return None
    if key in SEARCHED and isinstance(value, dict):
        return Axis(key, entry, _range(rule, entry))
    if not isinstance(value, list):
        return None
    if key not in SEARCHED:
        raise ColabMagicsError(
            f"{key}: {show(value)} cannot be used ({entry.where}).",
            f"{key} takes {rule.says}, and no list: trials are compared on the same model and the same tokens.",
            "A list may stand at learning_rate, r, effective_batch_size, weight_decay, …: docs/trials.md has them all.",
        )
    if not value:
        raise ColabMagicsError(
            f"{key}: the list is empty ({entry.where}).", "There is nothing to try.", f"{key}: [A, B]"
        )
    for place, one in enumerate(value, start=1):
        if isinstance(one, list | dict):
            raise ColabMagicsError(
                f"{key}: value {place} of the list is itself a {'list' if isinstance(one, list) else 'mapping'} "
                f"({entry.where}).",
                "A trial takes one value of each list.",
                f"Write them side by side: {key}: [A, B, C].",
            )
    return Axis(key, entry, tuple(dict.fromkeys(value)))


def _range(rule: Rule, entry: Entry) -> Range:
    key, given = entry.key, dict(entry.value)
    unknown = next((word for word in given if word not in (*_ENDS, "log")), None)
    numbers = isinstance(rule, Number | Warmup)
    if not numbers or unknown is not None or not all(end in given for end in _ENDS):
        close = nearest(str(unknown), (*_ENDS, "log")) if unknown is not None else None
        raise ColabMagicsError(
            f"{key}: {show(entry.value)} is no range ({entry.where}).",
            "A range has low and high, both numbers, and may say log: true."
            if numbers
            else f"{key} takes {rule.says}.",
            f"Did you mean {close}?" if close else "",
            f"{key}: {{low: 1e-5, high: 1e-3}}, or a list of values: {key}: [A, B]" if numbers else f"{key}: [A, B]",
        )
    for end in _ENDS:
        try:
            given[end] = rule.read(given[end])
            if isinstance(given[end], str | None):
                raise ValueError
        except (ValueError, OverflowError):
            raise ColabMagicsError(
                f"{key}: {end} of the range, {show(given[end])}, cannot be used ({entry.where}).",
                f"{key} takes {rule.says}.",
                f"Correct {end}.",
            ) from None
    low, high, log = given["low"], given["high"], given.get("log")
    if low >= high:
        raise ColabMagicsError(
            f"{key}: the range ends before it begins ({entry.where}).",
            f"low is {low:g}, high is {high:g}.",
            f"{key}: {{low: {high:g}, high: {low:g}}}" if low > high else f"{key}: {low:g} is one value.",
        )
    if log not in (None, True, False) or (log and low <= 0):
        raise ColabMagicsError(
            f"{key}: log: {show(log)} cannot be used ({entry.where}).",
            "It is true or false, and true only where low is above 0.",
            "Leave it out: it is true where high is ten times low or more.",
        )
    log = bool(low > 0 and high >= _LOG_FROM * low) if log is None else log
    return Range(low, high, log, getattr(rule, "whole", False))


def count_of(axes: Mapping[str, Axis], trials: int | None) -> int | None:
    """How many combinations there are; None where a range has no end of them.

    Raises
    ------
    ColabMagicsError
        More than are tried without a word, and `trials` is not given.
    """
    lists = {key: len(axis.values) for key, axis in axes.items() if not isinstance(axis.values, Range)}
    ranges = [key for key in axes if key not in lists]
    if ranges:
        if trials is None:
            raise ColabMagicsError(
                f"{ranges[0]} is a range, and nothing says how many values of it are tried.",
                "",
                "Add trials: 5",
            )
        return None
    there = math.prod(lists.values())
    if trials is None and there > MOST:
        shown = " x ".join(f"{count}" for count in lists.values())
        raise ColabMagicsError(
            f"{shown} = {there:,} combinations: {', '.join(lists)}.",
            f"All are tried where there are at most {MOST}.",
            "trials: 5 tries five of them, spread over all values; or shorten a list.",
        )
    return there


def combined(axes: Mapping[str, Axis], trials: int | None) -> list[dict[str, Entry]]:
    """The combinations that are tried, as entries by key: all of them, or `trials` spread evenly.

    Each value of a list is tried as often as any other of it, give or take one, in an order that is always the same.
    """
    columns = [axis.placed(trials or 0) for axis in axes.values()]
    there = math.prod(map(len, columns))
    if trials is None or there <= trials:
        chosen: Iterator[tuple[int, ...]] | list[tuple[int, ...]] = product(*(range(len(column)) for column in columns))
    else:
        chosen = _spread([len(column) for column in columns], trials)
    return [{key: column[place] for key, column, place in zip(axes, columns, places, strict=True)} for places in chosen]


def _spread(sizes: Sequence[int], count: int) -> list[tuple[int, ...]]:
    draw = random.Random(0)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:  # a second round only where two trials fell on the same values
        columns = []
        for size in sizes:
            column = [place for _ in range(-(-count // size)) for place in draw.sample(range(size), size)][:count]
            draw.shuffle(column)
            columns.append(column)
        found |= dict.fromkeys(zip(*columns, strict=True))
    return sorted(list(found)[:count])


def filled(layers: Sequence[Sequence[Entry]], combination: Mapping[str, Entry]) -> list[list[Entry]]:
    """The layers with one value in the place of each list."""

    def one_value(entry: Entry) -> Entry:
        if _axis(canonical(entry.key), entry) is None:
            return entry
        chosen = combination.get(canonical(entry.key))
        if chosen is None:  # one value of an upper layer holds
            value = entry.value["low"] if isinstance(entry.value, dict) else entry.value[0]
            return replace(entry, value=value, text=value)
        return replace(entry, value=chosen.value, text=chosen.text, place=chosen.place)

    return [[one_value(entry) for entry in layer] for layer in layers]
