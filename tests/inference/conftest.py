"""Runs as a worker leaves them, made in a second: the demo model, with an adapter of random numbers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_magics import demo
from colab_magics.checkpoints.linked import commit_linked
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.events import EventLog
from colab_magics.inference import loaded
from colab_magics.recipe import Recipe

RUN = "0123456789abcdef"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    yield
    loaded.forget()


def write_adapter(folder: Path, seed: int, base: str, *, r: int = 4) -> Path:
    """An adapter that changes what the demo model says, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=r, target_modules=["q_proj", "v_proj"], lora_alpha=32, init_lora_weights=False
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(demo.model_path()), config)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The adapter of a seed; each is made once."""
    root, made = tmp_path_factory.mktemp("adapters"), dict[int, Path]()

    def adapter(seed: int) -> Path:
        if seed not in made:
            made[seed] = write_adapter(root / str(seed), seed, str(demo.model_path()))
        return made[seed]

    return adapter


@pytest.fixture
def a_run(tmp_path: Path, adapters: Callable[[int], Path]) -> Callable[..., Path]:
    """Leaves a finished run in the root `tmp_path`, with checkpoints of the given steps; its folder."""

    def leave(
        name: str = "pirate", *, seed: int = 1, steps: tuple[int, ...] = (), result: bool = True, **keys: Any
    ) -> Path:
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "recipe.yaml").write_text(Recipe(**{"model": "demo", "data": "demo", **keys}).to_yaml())
        log = EventLog(folder / "events.jsonl", 1)
        log.append("started", name=name, run=RUN)
        log.append("data", split="train", format="messages")
        log.append("model", method="lora", revision=None)
        log.close()
        (folder / "tokenizer").mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / "tokenizer" / file).write_bytes((demo.model_path() / file).read_bytes())
        if result:
            (folder / "adapter").mkdir()
            for file in adapters(seed).iterdir():
                (folder / "adapter" / file.name).write_bytes(file.read_bytes())
        for step in steps:
            files = [file for file in adapters(seed + step).iterdir() if file.suffix != ".md"]
            target = folder / "checkpoints" / folder_name(step, 1)
            commit_linked(target, sorted(files), Manifest("checkpoint", RUN, {}, step, 1))
        return folder

    return leave
