"""Notebook variables in a recipe: a scalar that is exactly `{name}` or `$name`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest

_VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)")

# `{instruction}` in a template is a column, never a variable
NEVER_LOOKED_UP = frozenset({"prompt_template"})
KEEP_THE_NAME = frozenset({"data", "eval_data", "format"})


def variable_name(value: Any) -> str | None:
    """`name` where `value` is exactly `{name}` or `$name`."""
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return (found[1] or found[2]) if found else None


def look_up(key: str, value: Any, namespace: Mapping[str, Any] | None, used: dict[str, Any]) -> Any:
    """`value` with its variables replaced; rows and functions stay in the notebook, their name is kept.

    Parameters
    ----------
    used : dict
        Gets every variable that was looked up, by name.

    Raises
    ------
    ColabMagicsError
        When the notebook has no such variable; names the nearest one.
    """
    if key in NEVER_LOOKED_UP:
        return value
    if isinstance(value, list):
        return [look_up(key, part, namespace, used) for part in value]
    if isinstance(value, dict):
        return {name: look_up(key, part, namespace, used) for name, part in value.items()}
    name = variable_name(value)
    if name is None:
        return value
    found = find(key, name, namespace)
    used[name] = found
    return plain(key, name, found)


def find(key: str, name: str, namespace: Mapping[str, Any] | None) -> Any:
    """The notebook's variable `name`, wanted by `key`."""
    if namespace is None:
        raise ColabMagicsError(
            f"{key}: {{{name}}} is a notebook variable, and there is no notebook here.",
            "A terminal has no variables.",
            "Write the value itself.",
        )
    if name not in namespace:
        guess = nearest(name, [other for other in namespace if not other.startswith("_")])
        raise ColabMagicsError(
            f"{key}: this notebook has no variable {name}",
            "It must be a function that takes one row and returns one."
            if key == "format"
            else f"{{{name}}} and ${name} stand for a notebook variable.",
            f"Did you mean {{{guess}}}?" if guess else f"Define {name} in a cell above, and run it.",
        )
    return namespace[name]


def plain(key: str, name: str, value: Any) -> Any:
    """What the recipe keeps of a variable's value: text, numbers and lists; a name for rows and functions."""
    if isinstance(value, PurePath):
        return str(value)
    if key in KEEP_THE_NAME:
        return value if isinstance(value, str) else name
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    # a numpy scalar is a number
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value
