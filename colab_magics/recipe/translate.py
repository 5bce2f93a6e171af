"""From what a cell, a line or a preset gives to keys of the recipe, saying what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from colab_magics.errors import ColabMagicsError, redact
from colab_magics.recipe.fields import check, defaults, rules, takes_text, unknown_key
from colab_magics.recipe.layer import Layer, show
from colab_magics.recipe.notes import Notes
from colab_magics.recipe.python_text import Expression, Name
from colab_magics.recipe.spellings import NO_EFFECT, SECRETS, SPELLINGS, WRAPPERS, known_keys
from colab_magics.recipe.together import TOGETHER
from colab_magics.recipe.values import READERS, as_it_is
from colab_magics.recipe.variables import KEEP_THE_NAME
from colab_magics.recipe.yaml_text import Entry

_SECRET_REASON = (
    "a token in a cell is saved with the notebook: set HF_TOKEN in the environment, or in Colab's or Kaggle's secrets"
)


def translate(entries: Iterable[Entry], below: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Recipe keys and checked values of one layer.

    Parameters
    ----------
    below : mapping
        What the layers below gave already: a lone `gradient_accumulation_steps` needs their micro-batch.

    Raises
    ------
    ColabMagicsError
        For a key that nobody knows, a key given twice, spellings that contradict, a value that cannot be used.
    """
    layer = Layer(notes=notes, below=below)
    for entry in _flat(entries):
        _sort(layer, entry)
    for key, entry in list(layer.written.items()):
        if key in rules():
            _take(layer, key, entry)
    for step in TOGETHER:
        step(layer)
    return layer.values


def _flat(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, with the contents of `peft_config: {...}` and its like standing beside the others."""
    for entry in entries:
        if entry.key in WRAPPERS and isinstance(entry.value, dict):
            yield from _flat(Entry(str(key), value, entry.line, value) for key, value in entry.value.items())
        elif entry.key not in WRAPPERS or (entry.value is not None and not isinstance(entry.value, Expression)):
            yield entry


def _sort(layer: Layer, entry: Entry) -> None:
    """File an entry under its canonical key, or as one without effect."""
    key = SPELLINGS.get(entry.key, entry.key)
    if key in WRAPPERS or key not in known_keys():
        raise unknown_key(entry.key, known_keys() - WRAPPERS, entry.where)
    if key in SECRETS:
        if entry.value is not None:
            layer.notes.ignore(entry.key, _SECRET_REASON)
        return
    if key in NO_EFFECT:
        if entry.value is not None:
            layer.notes.ignore(entry.key, NO_EFFECT[key])
        return
    if key == "model" and isinstance(entry.value, Expression):
        return  # SFTTrainer(model=model): the loaded model, not its name
    if key in layer.written:
        first = layer.written[key]
        if isinstance(entry.value, Expression) and first.value is not None:
            return  # `data: rows.jsonl` above a pasted train_dataset=dataset: what can be read holds
        if not isinstance(first.value, Expression):
            _refuse_a_contradiction(first, entry)
        if entry.value is None:
            return
    if key != entry.key and key in rules() and entry.value is not None:
        layer.notes.rename(entry.key, key)
    layer.written[key] = entry


def _refuse_a_contradiction(first: Entry, second: Entry) -> None:
    if first.key == second.key and not second.repeatable:
        raise ColabMagicsError(
            f"{first.key} is given twice ({first.where} and {second.where})",
            "Only one of them can hold.",
            "Delete one of the two lines.",
        )
    if first.value is not None and second.value is not None and first.value != second.value:
        same = (
            f"{first.key} is given twice"
            if first.key == second.key
            else f"{first.key} and {second.key} are the same key"
        )
        raise ColabMagicsError(
            f"{same}, and contradict each other",
            f"{first.key}: {show(first.value)} ({first.where}); {second.key}: {show(second.value)} ({second.where}).",
            "Keep one of them.",
        )


def _take(layer: Layer, key: str, entry: Entry) -> None:
    """A key of the recipe, under this or another name, with the values that other trainers write for it."""
    value = entry.text if takes_text(key) and isinstance(entry.value, str | int | float) else entry.value
    if isinstance(value, Name) and key in KEEP_THE_NAME:
        value = str(value)
    elif isinstance(value, Expression):
        if key in {"packing", "gradient_checkpointing", "precision", "max_length"}:
            layer.notes.say(f"{entry.key}: {value} is an expression → {key}: auto")
            value = "auto"
        else:
            raise ColabMagicsError(
                f"{entry.key}: {value} is an expression ({entry.where})",
                "A cell is read, never run.",
                f"Write the value, or put it into a variable and write {key}: {{name}}.",
            )
    value = READERS.get(key, as_it_is)(layer, entry, value)
    if value is None and defaults()[key] is not None and key != "eval_every":
        return  # `adapter:` with nothing behind it: not given
    layer.values[key] = check(key, value, entry.where)
    layer.origin[key] = entry
    if layer.values[key] != value and redact(str(value)) != str(value):
        layer.notes.say(f"{entry.key}: the token in it was cut out ({_SECRET_REASON})")
