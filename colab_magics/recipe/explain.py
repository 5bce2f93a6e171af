"""The complete recipe as YAML, with the reason of each `auto` and the defaults told apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from colab_magics.errors import clean
from colab_magics.recipe.fields import Recipe, defaults
from colab_magics.recipe.search import Range
from colab_magics.recipe.yaml_text import dump, flow

if TYPE_CHECKING:
    from colab_magics.recipe.search import Search

# what decides, where no plan has decided yet
_DECIDED_BY = {
    "max_length": "the 99th percentile of the data's lengths, at most 2048 tokens",
    "packing": "packed where the model passes the probe and it is faster; else sorted by length",
    "method": "16-bit LoRA where it fits the memory, else QLoRA",
    "loss_type": "sigmoid for dpo, kto for kto, orpo for orpo",
    "precision": "bf16 from compute capability 8.0 on, fp16 below, fp32 on a CPU",
    "gradient_checkpointing": "on where the estimate does not fit without it",
    "effective_batch_size": "16 documents",
    "per_device_train_batch_size": "the largest micro-batch that fits the memory",
    "learning_rate": "2e-4 for LoRA; 2e-5 for full, 5e-5 up to 0.5 B parameters; 1e-5 for dpo and kto, 8e-5 for orpo",
    "warmup_steps": "3 % of the steps, at least 5",
    "optim": "fused AdamW; 8-bit where full fine-tuning does not fit with it",
    "eval_every": "ten times over the run, where there is eval_data",
    "save_every": "every 1 to 15 minutes, by what a save is measured to cost",
}
_CHOSEN_AS = {"per_device_train_batch_size": "micro_batch", "effective_batch_size": "effective_batch"}


def explain(recipe: Recipe, choices: Mapping[str, Mapping[str, Any]], given: Collection[str] | None) -> str:
    """See `Recipe.explain`."""
    values, default = recipe.values(), defaults()
    if given is None:
        given = {key for key in values if values[key] != default[key]}
    lines: list[str] = []
    told: set[str] = set()
    for one in fields(Recipe):
        if one.metadata["group"]:
            lines += ["", f"# {one.metadata['group']}"]
        key, value = one.name, values[one.name]
        choice = _CHOSEN_AS.get(key, key)
        comment = _comment(value, default[key], key in given, choices.get(choice), key)
        told.add(choice)
        lines += _line(key, value, comment)
    others = [key for key in choices if key not in told]
    if others:
        lines += ["", "# the plan"]
        lines += [f"# {key}: {flow_text(choices[key].get('value'))}: {_reason(choices[key])}" for key in others]
    return "\n".join(lines).strip() + "\n"


def with_trials(explained: str, search: Search) -> str:
    """The recipe of the first trial as it was explained, with the lists in their places and what else is about trials.

    Read as a cell, it asks for the same trials.
    """
    lines, first = explained.splitlines(), search.recipes[0]
    for key, values in search.varied.items():
        written = values.written() if isinstance(values, Range) else list(values)
        of = "low" if isinstance(values, Range) else "first"
        at = next(place for place, line in enumerate(lines) if line.startswith(f"{key}: "))
        lines[at] = f"{key}: {flow(written)}  # tried one after another; the plan is of the {of}"
    for key in first.KEYS:
        values_of = list(dict.fromkeys(str(getattr(recipe, key)) for recipe in search.recipes))
        if key not in search.varied and len(values_of) > 1:  # written out, it would hold for every trial
            at = next(place for place, line in enumerate(lines) if line.startswith(f"{key}: "))
            lines[at] = f"# {key}: {' or '.join(values_of)}, by what is tried"
    said = {"trials": len(search.recipes), "trial_steps": search.steps, "trial_samples": search.samples}
    given = {key: value for key, value in said.items() if value is not None}
    return "\n".join([*lines, "", "# trials", *dump({**given, "best_by": search.best_by}).splitlines()]) + "\n"


def _comment(value: Any, default: Any, given: bool, choice: Mapping[str, Any] | None, key: str) -> str:
    parts = [] if given else ["default"]
    if value == "auto":
        parts.append(f"{flow_text(choice.get('value'))}: {_reason(choice)}" if choice else _DECIDED_BY[key])
    elif choice and choice.get("value") != value:
        parts.append(f"the plan takes {flow_text(choice.get('value'))}: {_reason(choice)}")
    elif given and value != default and not isinstance(default, str | None):
        parts.append(f"the default is {flow_text(default)}")
    return "; ".join(parts)


def _line(key: str, value: Any, comment: str) -> list[str]:
    written = dump({key: value}).rstrip("\n").split("\n")
    if comment and len(written) > 1:
        return [f"# {comment}", *written]  # a comment inside of a block would be text
    return [f"{written[0]}  # {comment}" if comment else written[0], *written[1:]]


def _reason(choice: Mapping[str, Any]) -> str:
    return " ".join(clean(choice.get("reason", "")).split())


def flow_text(value: Any) -> str:
    """A value on one line, as YAML writes it."""
    return flow(value).removesuffix("\n...") if not isinstance(value, str) else clean(value)
