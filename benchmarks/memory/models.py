"""The models of these benchmarks: the sizes in their public config.json files, and nothing else of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("models.json")


@cache
def _all() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def names() -> list[str]:
    """Of the models that there are."""
    return list(_all())


def config_of(model: str) -> dict[str, Any]:
    """What its config.json says."""
    return dict(_all()[model]["config"])


def parameters_of(model: str) -> int:
    """How many its model page says it has."""
    return int(_all()[model]["parameters"])


@cache
def hf_config(model: str) -> Any:
    """The same as a transformers config."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**config_of(model))
