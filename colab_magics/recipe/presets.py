"""Presets: recipes for known jobs, one YAML file each, inside the package."""

from __future__ import annotations

from importlib.resources import files

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.recipe.yaml_text import Entry, read_entries


def preset_names() -> list[str]:
    """The presets that exist, sorted."""
    folder = files("colab_magics") / "presets"
    return sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml"))


def read_preset(name: str) -> list[Entry]:
    """The entries of a preset.

    Raises
    ------
    ColabMagicsError
        When there is none of that name; lists those that exist.
    """
    names = preset_names()
    if name not in names:
        guess = nearest(name, names)
        raise ColabMagicsError(
            f"There is no preset {name}",
            f"The presets are {', '.join(names)}.",
            f"Did you mean --preset {guess}?" if guess else "Take one of them, or leave --preset out.",
        )
    text = (files("colab_magics") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return read_entries(text)
