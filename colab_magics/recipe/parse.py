"""The text of a cell, the options of its line and a preset, read into a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.fields import Recipe, defaults, rules, takes_text
from colab_magics.recipe.notes import Notes
from colab_magics.recipe.rules import Flag

if TYPE_CHECKING:
    from colab_magics.recipe.search import Axis, Search
    from colab_magics.recipe.yaml_text import Entry

# What the recipe keeps for parts of the package that this version does not have.
_KEPT = {
    "gpus": "this version trains on one GPU",
}
_TWO_LINES = ("model: Qwen/Qwen3-0.6B", "data: rows.jsonl")


@dataclass(frozen=True)
class Parsed:
    """A recipe, and how it came about.

    Attributes
    ----------
    recipe : Recipe
    notes : tuple of str
        What the keys of the cell became, one line each.
    variables : dict
        The notebook variables that were used, by name.
    given : frozenset of str
        The recipe keys that the preset, the cell or the line gave.
    search : Search, optional
        Where keys hold lists or ranges: the trials. `recipe` is then the first one's.
    """

    recipe: Recipe
    notes: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    search: Search | None = None


def parse(
    body: str,
    options: Mapping[str, str | bool] | None = None,
    *,
    preset: str | None = None,
    namespace: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> Parsed:
    """Read a cell: the line's options override the body, the body overrides the preset.

    Parameters
    ----------
    body : str
        YAML, `key=value,` lines as in a Python call, or both.
    options : mapping
        Options of the line, by key; True for a bare flag.
    preset : str, optional
        The name of a preset below both.
    namespace : mapping, optional
        The notebook's variables, for `{name}` and `$name`.
    data : str, optional
        What stands for the data where nothing names any.

    Raises
    ------
    ColabMagicsError
        For everything that cannot be read or used, before anything is started.
    """
    # PyYAML costs 15 ms: %load_ext does without it
    from colab_magics.recipe.layer import show
    from colab_magics.recipe.presets import read_preset
    from colab_magics.recipe.python_text import read_python, split
    from colab_magics.recipe.search import axes_of, filled, take_settings
    from colab_magics.recipe.translate import translate
    from colab_magics.recipe.yaml_text import read_entries

    options = options or {}
    notes = Notes()
    variables: dict[str, Any] = {}
    yaml_part, python_part = split(body)
    written = sorted([*read_entries(yaml_part), *read_python(python_part, namespace)], key=lambda one: one.line)
    if not written and not options and preset is None:
        raise ColabMagicsError("The cell is empty.", "Fine-tuning needs a model and data, two lines:", *_TWO_LINES)

    layers = [
        read_preset(preset) if preset is not None else [],
        written,
        [_option(key, value) for key, value in options.items()],
    ]
    layers, settings = take_settings([_with_variables(layer, namespace, variables) for layer in layers])

    def read(combination: Mapping[str, Entry], notes: Notes) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for layer in filled(layers, combination):
            values |= translate(layer, values, notes)
        if data is not None:
            values.setdefault("data", data)
        _require_model_and_data(values)
        _settle(values, notes)
        _check_the_format(values, namespace, variables)
        return values

    axes = axes_of(layers)
    alone = {key: axis.placed(1)[0] for key, axis in axes.items() if axis.is_one_value}
    for key, entry in alone.items():
        times = len(axes.pop(key).entry.value)
        notes.say(f"{key} is a list of one value{f', {times} times over' if times > 1 else ''}: {show(entry.value)}")
    if not axes:
        _check_nothing_is_tried(settings)
        values = read(alone, notes)
        return Parsed(Recipe(**values), notes.lines(), variables, frozenset(values))
    search = _search(axes, settings, lambda combination, notes: read({**alone, **combination}, notes), notes)
    return Parsed(search.recipes[0], notes.lines(), variables, frozenset(read(alone, Notes())), search)


def _search(
    axes: Mapping[str, Axis],
    settings: Mapping[str, Any],
    read: Callable[[Mapping[str, Entry], Notes], dict[str, Any]],
    notes: Notes,
) -> Search:
    """The trials that the lists make; every value is checked, also those that no trial takes."""
    from colab_magics.recipe.search import Search, combined, count_of

    trials = settings.get("trials")
    combinations = count_of(axes, trials)
    chosen = combined(axes, trials)
    for key, axis in axes.items():
        for entry in axis.placed(trials or 0):
            read({**chosen[0], key: entry}, Notes())
    recipes = [Recipe(**read(combination, notes)) for combination in chosen]
    if len(objectives := list(dict.fromkeys(recipe.objective for recipe in recipes))) > 1:
        raise ColabMagicsError(
            f"method: the trials would learn by {' and by '.join(objectives)}.",
            "Their losses are not of one kind, and the lowest is not the best.",
            "Keep one of them, and try learning_rate or r.",
        )
    different = tuple({recipe.fingerprint(): recipe for recipe in recipes}.values())
    if len(different) < len(recipes):
        notes.say(f"{len(recipes) - len(different)} of the combinations train the same as another, and are left out")
    if combinations is not None and trials is not None and trials > combinations:
        notes.say(f"trials: {trials}, and there are {combinations} combinations: all are tried")
    return Search(
        {key: axis.values for key, axis in axes.items()},
        different,
        settings.get("trial_steps"),
        settings.get("trial_samples"),
        _best_by(settings, different[0]),
    )


def _best_by(settings: Mapping[str, Any], recipe: Recipe) -> str:
    """What the best is best in: the evaluation's loss where there is one."""
    said = str(settings.get("best_by", "auto"))
    if said == "eval_loss" and recipe.eval_data is None:
        raise ColabMagicsError(
            "best_by: eval_loss, and the recipe names no eval_data.",
            "Nothing would be evaluated.",
            "Add eval_data: held_out.jsonl, or leave best_by out: the training loss then counts.",
        )
    if said != "auto":
        return said
    return "loss" if recipe.eval_data is None else "eval_loss"


def _check_nothing_is_tried(settings: Mapping[str, Any]) -> None:
    if settings:
        key, value = next(iter(settings.items()))
        raise ColabMagicsError(
            f"{key}: {value} is given, and no key holds several values.",
            "There is nothing to try.",
            "Write a list, as in learning_rate: [1e-4, 2e-4, 5e-4], or leave it out.",
        )


def _option(name: str, value: str | bool) -> Entry:
    """One option of the line, as an entry; a bare flag says true."""
    from colab_magics.recipe.spellings import canonical
    from colab_magics.recipe.yaml_text import Entry, read_scalar

    key = name.lstrip("-").replace("-", "_")
    if isinstance(value, bool):
        if key in rules() and not isinstance(rules()[key], Flag):
            raise ColabMagicsError(
                f"--{key.replace('_', '-')} needs a value.",
                f"{key} takes {rules()[key].says}.",
                f"Write --{key.replace('_', '-')} VALUE.",
            )
        return Entry(key, value, 0, value)
    return Entry(key, value if takes_text(canonical(key)) else read_scalar(value), 0, value)


def _with_variables(entries: Iterable[Entry], namespace: Mapping[str, Any] | None, used: dict[str, Any]) -> list[Entry]:
    """The entries with every `{name}` and `$name` looked up, and the bare names of pasted calls."""
    from colab_magics.recipe.python_text import Name
    from colab_magics.recipe.spellings import canonical, known_keys
    from colab_magics.recipe.variables import KEEP_THE_NAME, look_up
    from colab_magics.recipe.yaml_text import Entry

    read = []
    for entry in entries:
        key = entry.key.strip().replace("-", "_")
        key = key.lower() if key not in known_keys() and key.lower() in known_keys() else key
        value, text = entry.value, entry.text
        if isinstance(value, Name):
            if canonical(key) in KEEP_THE_NAME and namespace is not None and value in namespace:
                used[str(value)] = namespace[value]
        else:
            value = look_up(canonical(key), value, namespace, used)
            text = text if value is entry.value or value == entry.value else value
        read.append(Entry(key, value, entry.line, text, entry.repeatable))
    return read


def _require_model_and_data(values: Mapping[str, Any]) -> None:
    missing = [line for line in _TWO_LINES if not values.get(line.partition(":")[0])]
    if missing:
        keys = " and no ".join(line.partition(":")[0] for line in missing)
        raise ColabMagicsError(
            f"The recipe names no {keys}.",
            "Fine-tuning needs a model (a Hub id, a folder, or demo) and data (a path, a Hub id, or a variable).",
            *(f"Add a line such as {line}" for line in missing),
        )


def _settle(values: dict[str, Any], notes: Notes) -> None:
    """What the layers say together."""
    for key, reason in _KEPT.items():
        if values.get(key, defaults()[key]) != defaults()[key]:
            notes.ignore(key, reason)
    if values.get("early_stopping") is not None and values.get("eval_data") is None:
        notes.say("early_stopping needs eval_data: without it nothing is evaluated, and the run goes to its end")
        values["early_stopping"] = None
    if values.get("early_stopping") is not None and values.get("eval_every", "auto") is None:
        notes.say("early_stopping evaluates: eval_every → auto")
        values["eval_every"] = "auto"


def _check_the_format(values: dict[str, Any], namespace: Mapping[str, Any] | None, used: dict[str, Any]) -> None:
    """`format:` names a function of the notebook."""
    from colab_magics.recipe.variables import find

    name = values.get("format")
    if name is None or namespace is None:
        return
    function = find("format", name, namespace)
    if not callable(function):
        raise ColabMagicsError(
            f"format: {name} is no function (its type is {type(function).__name__}).",
            "It is called with each row, and returns the row to train on.",
            "Name a function that a cell above defines: def shape(row): …, then format: shape.",
        )
    used[name] = function
