"""A tiny model that has read Python's documentation, and a pirate's answers to fine-tune it on.

``scripts/make_demo_model.py`` made both. ``model: demo`` in a recipe is the folder `model_path` names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """Return the folder of the demo model: a Qwen3 of 1.8 million parameters with tokenizer and chat template."""
    return _HERE / "model"


def data_path() -> Path:
    """Return the JSONL file of the demo data: one conversation a line, under ``messages``."""
    return _HERE / "pirate.jsonl"


def rows() -> list[dict[str, Any]]:
    """Return the demo data as a list of dicts, as one would hand it to ``data:``."""
    return [json.loads(line) for line in data_path().read_text(encoding="utf-8").splitlines()]
