"""A run with a result, and what is exported of it or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from colab_magics.checkpoints.tensors import laid_out
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.export import perform
from colab_magics.magics.export_line import read
from colab_magics.recipe import Recipe

from .checkpointed import Left, tensor, tree

TOKEN = "hf_" + "T" * 34
SECRETS = (
    ".env",
    "token",
    "credentials.json",
    "optimizer.pt",
    "training_args.bin",
    "events.jsonl",
    "id_rsa",
    "notes.md",
)


def weights(said: str = "") -> bytes:
    """A file of weights, with a text among its metadata."""
    return b"".join(laid_out({"layers.0.q_proj.lora_A.weight": tensor(1, 2)}, {"said": said}))


def a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """A run with a result beside which lies what is nobody's business."""
    left = Left(tmp_path / "runs", recipe=Recipe(model="demo", data="rows.jsonl"))
    left.tell("finished", step=40, reason="completed", path=str(left.folder / "adapter"))
    adapter = left.folder / "adapter"
    adapter.mkdir()
    (adapter / "README.md").write_text(f"---\nbase_model: demo\n---\n\n# demo, fine-tuned\n\ndata: s3://k:{TOKEN}\n")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": f"https://me:{TOKEN}@x/y"}))
    (adapter / "adapter_model.safetensors").write_bytes(weights(TOKEN))  # bytes are bytes
    (adapter / "tokenizer.json").write_text("{}")
    for name in SECRETS:
        (adapter / name).write_text(TOKEN)
    (adapter / "sub").mkdir()
    (adapter / "sub" / "config.json").write_text("{}")
    (adapter / "vocab.json").symlink_to(adapter / ".env")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    return left


def export(left: Left, *words: str, **how: Any) -> list[str]:
    return perform(read(words), left.root, **how)["text/plain"].splitlines()


def refused(left: Left, *words: str) -> str:
    """What is said of an export that must leave nothing behind."""
    before = tree(left.root.parent)
    with pytest.raises(ColabMagicsError) as raised:
        export(left, *words)
    assert tree(left.root.parent) == before
    assert raised.value.next_steps, "nothing says what to do next"
    return str(raised.value)
