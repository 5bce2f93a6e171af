"""Weights go straight to their final form, one tensor at a time: no second copy of the model at any moment.

What torch's CPU allocator hands out while a model in several shards is loaded, added up from its own events. Mapped
files are none of it. `benchmarks/load_spike.py` looks at a whole process and a model of 1B parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_config

from colab_magics.plan import Choice, Plan
from colab_magics.recipe import Recipe
from colab_magics.training.model import load_model
from colab_magics.training.source import open_model

CPU = torch.device("cpu")
EMBEDDING = 4096 * 128  # the largest tensor


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 3 million parameters in fp16, in 7 files."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("sharded")
    sizes = {"vocab_size": 4096, "hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 6, "head_dim": 32}
    config = tiny_config(**sizes, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).half().save_pretrained(folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 4
    return folder


def allocated(load: Callable[[], Any], folder: Path) -> SimpleNamespace:
    """Bytes of torch's CPU allocator while `load` ran: the `peak`, and what was `held` at its end.

    A file that is mapped is told as well, as one piece of the file's size: it is left out.
    """
    files = {file.stat().st_size for file in folder.glob("*.safetensors")}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = load()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += 0 if abs(event.nbytes()) in files else event.nbytes()
        peak = max(peak, live)
    del kept
    return SimpleNamespace(peak=peak, held=live)


def loading(folder: Path, method: str, precision: str) -> Callable[[], Any]:
    recipe = Recipe(model=str(folder), data="rows", method=method)
    chosen = {"method": method, "precision": precision, "attention": "sdpa"}
    plan = Plan({key: Choice(value, "a test") for key, value in chosen.items()})
    return lambda: load_model(open_model(recipe), recipe, plan, CPU)


@pytest.fixture(autouse=True)
def _in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler sees this thread's memory; in four, transformers has four tensors under way instead of one."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")


@pytest.mark.colab
@pytest.mark.parametrize(
    ("method", "precision"), [("lora", "fp32"), ("lora", "bf16"), ("full", "fp32"), ("qlora", "fp16")]
)
def test_the_peak_of_loading_is_what_is_held_and_one_tensor(sharded: Path, method: str, precision: str) -> None:
    loading(sharded, method, precision)()  # caches and imports of the first time
    seen = allocated(loading(sharded, method, precision), sharded)
    assert seen.held > 10**6, "the weights are held"
    assert seen.peak <= 1.15 * seen.held + 4 * EMBEDDING


def test_a_second_copy_would_be_seen(sharded: Path) -> None:
    def as_a_state_dict() -> torch.nn.Module:
        model = loading(sharded, "lora", "bf16")()
        model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    seen = allocated(as_a_state_dict, sharded)
    assert seen.peak > 1.15 * seen.held + 4 * EMBEDDING


def test_weights_in_the_file_s_own_dtype_are_not_copied_at_all(sharded: Path) -> None:
    seen = allocated(loading(sharded, "lora", "fp16"), sharded)
    adapters = loading(sharded, "lora", "fp16")()
    trained = sum(4 * parameter.numel() for parameter in adapters.parameters() if parameter.requires_grad)
    assert seen.held <= 1.15 * trained, "the mapped file is the model"
