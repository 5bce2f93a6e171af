"""Tiny runs that compare answers, from rows to the end of TRL's trainer, with every event they told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import CPU, PLAIN

from colab_magics.checkpoints.interval import Every
from colab_magics.data import Prepared, Source, prepare
from colab_magics.memory.estimate import peak
from colab_magics.plan import Choice, DataFacts, Plan, make_plan
from colab_magics.recipe import Recipe
from colab_magics.training.loop import Outcome
from colab_magics.training.model import describe, load_model, load_reference
from colab_magics.training.preferences.compare import compare
from colab_magics.training.preferences.tuning import make_tuning
from colab_magics.training.saving import Saver
from colab_magics.training.source import ModelSource, load_tokenizer, open_model

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
RUN = "0123456789abcdef"
Rows = list[dict[str, Any]]


def rows(count: int = 16, seed: int = 0) -> Rows:
    """Preferences that can be learnt: whatever is asked, `one step` is liked and `the batch` is not.

    The prompts end in a line break, so that they are joined with their answers as they stand.
    """
    words, chosen = "takes effective step batch the one".split(), random.Random(seed)
    return [
        {
            "prompt": " ".join(chosen.choices(words, k=chosen.randint(1, 4))) + "\n",
            "chosen": "one step" + " one" * chosen.randint(0, 3),
            "rejected": "the batch" + " the" * chosen.randint(0, 3),
        }
        for _ in range(count)
    ]


def prepared(folder: Path, made: Rows, tokenizer: Any, recipe: Recipe, split: str = "train") -> Prepared:
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    source = Source("path", path.name, str(path))
    return prepare(source, tokenizer, recipe, split=split, cache=folder / "cache", now=NOW, progress=lambda *_: None)  # type: ignore[arg-type]


class Compared:
    """One tiny run by comparison."""

    def __init__(
        self, model: Path, folder: Path, made: Rows | None = None, held_out: Rows | None = None, **changes: Any
    ) -> None:
        keys = {
            "model": str(model),
            "data": "rows",
            "method": "lora",
            "objective": "dpo",
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "max_steps": 6,
            "effective_batch_size": 4,
            "per_device_train_batch_size": 2,
        }
        self.recipe = Recipe(**(keys | changes))
        self.source: ModelSource = open_model(self.recipe)
        self.tokenizer = load_tokenizer(self.source, self.recipe)
        folder.mkdir(parents=True, exist_ok=True)
        documents = prepared(folder, made or rows(), self.tokenizer, self.recipe).documents(64)
        held = prepared(folder, held_out, self.tokenizer, self.recipe, "eval").documents(64) if held_out else None
        facts = DataFacts(documents.samples, len(held.samples) if held else 0, Choice(64, "a test"))
        shape = describe(self.source, self.recipe)
        self.plan: Plan = make_plan(self.recipe, shape, CPU, facts, PLAIN, peak)
        device = torch.device("cpu")
        self.model = load_model(self.source, self.recipe, self.plan, device)
        reference = None
        if self.recipe.method == "full" and self.recipe.objective != "orpo":
            reference = load_reference(self.source, self.recipe, self.plan, device)
        self.task, self.progress = make_tuning(
            self.model, reference, self.tokenizer, self.recipe, self.plan, documents, held, device=device
        )
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.outcome: Outcome | None = None

    def run(self, control: Callable[[], str | None] = lambda: None, saver: Saver | None = None) -> Compared:
        keeper = {} if saver is None else {"keeper": saver}
        try:
            self.outcome = compare(self.task, self.progress, self.tell, control, **keeper)
        finally:
            if saver is not None:
                saver.wait()
        return self

    def saver(self, folder: Path, *, every: int = 10**9, attempt: int = 1) -> Saver:
        folder.mkdir(exist_ok=True)
        return Saver(
            folder=folder,
            task=self.task,
            progress=self.progress,
            run=RUN,
            attempt=attempt,
            every=Every(steps=every),
            limit=9,
            facts={"name": folder.name},
            state={},
            on_event=self.tell,
        )

    def tell(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    @property
    def losses(self) -> list[float]:
        return [fields["loss"] for fields in self.told("step")]

    def weights(self) -> dict[str, np.ndarray]:
        return {n: p.detach().numpy().copy() for n, p in self.model.named_parameters() if p.requires_grad}
