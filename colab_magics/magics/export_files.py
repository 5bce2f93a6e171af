"""What may leave in an export: our own list of files. Whatever else lies beside them stays where it is."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.errors import redact
from colab_magics.magics.export_card import without_folders
from colab_magics.magics.parcel import MARK, README, Part

# a loader reads these; nothing else of a folder is asked for, and nothing else can be secret by accident
_ALLOWED = re.compile(
    r"adapter_config\.json|adapter_model\.safetensors|config\.json|generation_config\.json"
    r"|model(-[0-9]{5}-of-[0-9]{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer_config\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|chat_template\.(jinja|json)|README\.md"
)
# written by libraries and by us from what the user has written: a token in a path or a recipe would be here
_TEXTS = ("adapter_config.json", "config.json", "generation_config.json", "tokenizer_config.json", README)
_INDEX = "model.safetensors.index.json"
_MOST_TEXT = 8 * 2**20
TOKENIZER = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|.*\.model|chat_template\..*"
)


def allowed(name: str) -> bool:
    """Whether a file of that name may leave."""
    return _ALLOWED.fullmatch(name) is not None


def files_of(folder: Path) -> list[Part]:
    """The files of a folder that may leave; links and folders are no files of ours. README.md comes last."""
    found = sorted(folder.iterdir(), key=lambda path: (path.name == README, path.name))
    return allowed_of(Part(path.name, path) for path in found if stat.S_ISREG(path.lstat().st_mode))


def allowed_of(parts: Iterable[Part]) -> list[Part]:
    """Those that may leave, without what looks like a secret in texts."""
    return [_redacted(part) for part in parts if allowed(part.name)]


def _redacted(part: Part) -> Part:
    if part.name not in _TEXTS or part.size > _MOST_TEXT:
        return part
    data = part.text if part.source is None else part.source.read_bytes()
    text = data.decode("utf-8", errors="replace")
    clean = redact(text)
    return part if clean == text else replace(part, source=None, text=clean.encode(), hash="")


def broken_weights(parts: Sequence[Part]) -> str | None:
    """Why the weights among the parts would not load; None where they would. Headers are read against the lengths."""
    files = {part.name: part.source for part in parts if part.source is not None}
    index = files.get(_INDEX)
    try:
        if any(part.name == "adapter_config.json" for part in parts):
            named = {"adapter_model.safetensors"}
        elif index is not None:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        else:
            named = {"model.safetensors"}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return f"{_INDEX} cannot be read"
    for name in sorted(named):
        path = files.get(name)
        if path is None:
            return f"{name} is missing"
        try:
            if not read_tensors(path):
                return f"{name} holds no tensor"
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
    return None


def carded(parts: Sequence[Part]) -> list[Part]:
    """The parts, their README without paths of this machine, and with the mark by which --force knows an export."""
    return [
        replace(part, source=None, text=without_folders(_marked(part)).encode()) if part.name == README else part
        for part in parts
    ]


def _marked(part: Part) -> str:
    text = (part.text if part.source is None else part.source.read_bytes()).decode("utf-8", errors="replace")
    if MARK in text:
        return text
    head = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    end = head.end() if head else 0
    return f"{text[:end]}\n{MARK}\n{text[end:]}"
