"""Real tokenizers and templates, and a short way to prepare rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from colab_magics.data import Prepared, Source, prepare
from colab_magics.recipe import Recipe

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


@pytest.fixture(scope="session")
def gpt2(shared_data: Path) -> Callable[[], Any]:
    """Gives GPT-2's tokenizer as it was shipped: no chat template, no begin-of-text token of its own accord."""
    return _as_shipped(shared_data / "tokenizers" / "gpt2")


@pytest.fixture(scope="session")
def phi3(shared_data: Path) -> Callable[[], Any]:
    """Gives Phi-3's tokenizer (a SentencePiece model) as it was shipped, with its chat template."""
    return _as_shipped(shared_data / "tokenizers" / "phi3")


def _as_shipped(folder: Path) -> Callable[[], Any]:
    """One tokenizer for all tests, for loading one takes a quarter of a second; what tests change is put back."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    template, padding = tokenizer.chat_template, tokenizer.pad_token

    def again() -> Any:
        tokenizer.chat_template, tokenizer.pad_token = template, padding
        return tokenizer

    return again


@pytest.fixture(scope="session")
def known_templates() -> dict[str, str]:
    """Chat templates of well-known models as TRL ships them, and its own with generation markers (`*_training`)."""
    trl = pytest.importorskip("trl", reason="TRL, which carries the models' chat templates, is not installed")
    folder = Path(trl.__file__).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare rows (written to a JSONL file) or a file that is there, with a recipe of the given keys."""

    def make(rows: Sequence[Any] | Path, tokenizer: Any, *, limit: int | None = None, **keys: Any) -> Prepared:
        path = rows if isinstance(rows, Path) else write_jsonl(tmp_path / "rows.jsonl", rows)
        recipe = Recipe(model="demo", data=str(path), **keys)
        source = Source("path", path.name, str(path))
        cache = tmp_path / "cache"
        return prepare(source, tokenizer, recipe, split="train", cache=cache, now=NOW, progress=unseen, limit=limit)

    return make


def unseen(phase: str, done: int, total: int | None, unit: str) -> None:
    """A progress bar nobody looks at."""


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def trained_texts(prepared: Prepared, tokenizer: Any, index: int = 0, max_length: int = 100_000) -> list[str]:
    """The trained parts of one document, decoded from its tokens."""
    return [text for text, trained in prepared.documents(max_length).sample(tokenizer, index) if trained]


def whole_text(prepared: Prepared, tokenizer: Any, index: int = 0) -> str:
    return "".join(text for text, _ in prepared.documents(100_000).sample(tokenizer, index))
