"""One layer of a recipe (preset, body or line) while it is read: what was written, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.fields import check
from colab_magics.recipe.notes import Notes
from colab_magics.recipe.python_text import Expression
from colab_magics.recipe.rules import Flag, Number
from colab_magics.recipe.yaml_text import Entry


@dataclass
class Layer:
    """One layer's pairs (preset, body or line) while they are read: what was written, and what it means."""

    written: dict[str, Entry] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Entry] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    below: Mapping[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        return key in self.written and self.written[key].value is not None

    def get(self, key: str) -> Any:
        return self.written[key].value if key in self.written else None

    def flag(self, key: str) -> bool | None:
        """True or false as written; None where it is not given, auto, or only running it could tell."""
        if not self.has(key) or isinstance(self.get(key), Expression):
            return None
        try:
            read = Flag(auto=True).read(self.get(key))
        except ValueError:
            raise ColabMagicsError(
                f"{key}: {show(self.get(key))} cannot be used ({self.written[key].where})",
                f"{key} takes true or false.",
                f"Correct {key}, or leave it out.",
            ) from None
        return None if read == "auto" else bool(read)

    def whole(self, key: str) -> int | None:
        """A whole number of 1 or more, or None where the key is not given."""
        if not self.has(key):
            return None
        try:
            return int(Number(low=1, whole=True).read(self.get(key)))
        except ValueError:
            raise ColabMagicsError(
                f"{key}: {show(self.get(key))} cannot be used ({self.written[key].where})",
                f"{key} takes a whole number, 1 or more.",
                f"Correct {key}, or leave it out.",
            ) from None

    def put(self, key: str, value: Any, because: str, say: bool = True) -> None:
        """Set a recipe key from another trainer's key; the two must not contradict."""
        entry = self.written[because]
        value = check(key, value, entry.where)
        if key in self.values and self.values[key] != value:
            other = self.origin[key]
            raise ColabMagicsError(
                f"{other.key} ({other.where}) and {entry.key} ({entry.where}) contradict each other",
                f"{other.key} says {key}: {self.values[key]}, {entry.key} says {key}: {value}.",
                f"Keep one of them, or write {key} itself.",
            )
        news = key not in self.values
        self.values[key] = value
        self.origin[key] = entry
        if say and news:
            self.notes.say(f"{entry.key}: {show(entry.value)} → {key}: {show(value)}")


def show(value: Any) -> str:
    """A value as it stands in YAML, shortened."""
    words = {True: "true", False: "false", None: "nothing"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
