"""Who says what of QLoRA at 2,048 tokens on a T4, and what traces of each way say.

accelerate's own code is run, as `accelerate estimate-memory` runs it, on a folder with the config: only the question to
the Hub, whether there is such a model, is answered in its place. Unsloth's figure is by the formula that it documents
(unslothai/unsloth, studio/backend/utils/hardware/VRAM_ESTIMATION.md); TRL's is what its notebook says beside the model
(huggingface/trl, examples/notebooks/sft_trl_lora_qlora.ipynb: rank 32, 1,024 tokens).
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from cases import Case, gib, show_progress, table, traced
from models import config_of

from colab_magics.plan import ModelShape

MODELS = ("Qwen3-4B", "Qwen3-14B")
_SAID_BY_TRL = {"Qwen3-14B": 14.1}  # it divides by 1024³, and calls that GB
_WAYS = {
    "our way": {},
    "TRL 1.16's way": {"peer": "TRL 1.16"},
    "transformers Trainer's way, with checkpointing": {"peer": "transformers Trainer"},
}


def main() -> int:
    rows: list[tuple[str, ...]] = []
    columns = [dict(_said(model)) for model in MODELS]
    for source in columns[0]:
        rows.append((source, *(column[source] for column in columns)))
    for name, given in _WAYS.items():
        peaks = []
        for number, model in enumerate(MODELS, 1):
            show_progress(number, len(MODELS), f"{name}, {model}")
            peaks.append(gib(traced(Case(model, "qlora", 1, 2048, checkpointing=True, **given)).peak))
        rows.append((f"**traced, {name}**", *peaks))
    rows.append(("by our formula, our way", *(gib(_case(model).planned.parts.peak) for model in MODELS)))
    print(table(("GiB", *MODELS), rows))
    return 0


def _case(model: str) -> Case:
    return Case(model, "qlora", 1, 2048, checkpointing=True)


def _said(model: str) -> Iterator[tuple[str, str]]:
    found = of_accelerate(model)
    yield "accelerate estimate-memory, loading in int4", gib(found["int4"][0])
    yield "accelerate estimate-memory, training in int4", gib(found["int4"][1]) if found["int4"][1] else "N/A"
    yield "accelerate estimate-memory, training in float16", gib(found["float16"][1])
    yield "Unsloth Studio's formula, CUDA's 1.4 GB in it", gib(of_unsloth(_case(model).shape, 2048))
    said = _SAID_BY_TRL.get(model)
    yield "TRL's notebook, rank 32, 1,024 tokens", "nothing" if said is None else f"~{said:.1f}"


def of_accelerate(model: str) -> dict[str, tuple[int, int]]:
    """By dtype, bytes to load and to train with Adam (0 where it says N/A)."""
    from accelerate.commands import estimate

    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_of(model)), encoding="utf-8")
        there = SimpleNamespace(library_name="transformers", config={})
        asked = Namespace(
            model_name=folder, library_name="transformers", trust_remote_code=False, dtypes=["float16", "int4"]
        )
        with patch.object(estimate, "verify_on_hub", lambda *_: there), contextlib.redirect_stdout(io.StringIO()):
            rows = estimate.gather_data(asked)
    return {dtype: (round(total), max(0, *map(int, training.values()))) for dtype, _, total, training in rows}


def of_unsloth(shape: ModelShape, length: int, documents: int = 1) -> float:
    """Bytes by Unsloth's documented formula: QLoRA, its own checkpointing, adamw_8bit, scales not quantised again."""
    tokens = length * documents
    others = shape.parameters - shape.linear_parameters
    weights = shape.linear_parameters * 2 / 3.2 + others * 2
    activations = tokens * (shape.hidden + 2 * shape.key_value + 2 + 2 * shape.intermediate) * 2 * 1.25
    adapters, optimizer = shape.lora_parameters * 2, shape.lora_parameters * 4
    gradients = max(shape.lora_parameters * 2, min(weights * 0.15, max(activations, optimizer)))
    return weights + adapters + optimizer + gradients + activations + 1.4e9
