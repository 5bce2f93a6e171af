"""Traces (tier 1) against what torch's CPU allocator gives out in trainings that really happen, of small models.

Two micro-batches with an optimizer step between them: the run's own loading, adapter, loss, clipping and optimizer,
random weights. The peak is taken from the profiler's memory events, each in steps of 512 bytes as a GPU's allocator has
them, on top of the model's tensors. The trace is told that the device is a CPU: nothing of `tracing/cuda.py` is in it.

bf16 is shown apart: to add a bf16 tensor to an fp32 one a CPU first makes an fp32 copy of it, inside of `aten::add_`,
where a GPU's loop casts number by number. A trace sees no such copy. No plan takes bf16 on a CPU by itself.
"""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from cases import CPU, show_progress, table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from colab_magics.memory.prediction import fixed_lengths, predict
from colab_magics.plan import Choice, Plan, Setup, Verdict
from colab_magics.recipe import Recipe, parse
from colab_magics.training.batches import Sample
from colab_magics.training.loop import Task, micro_batch_gradients
from colab_magics.training.model import describe, load_model, set_gradient_checkpointing
from colab_magics.training.probe import probe
from colab_magics.training.source import ModelSource
from colab_magics.training.task import make_task
from colab_magics.training.tracing.extrapolate import peak_of, whole
from colab_magics.training.tracing.ledger import STEP
from colab_magics.training.tracing.scene import Case, trace

BAR = 0.01
APART = "bf16"
_LLAMA = {
    "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
_PLAIN = {key: value for key, value in _LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}
_MOE = {**_LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 192}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "tie_word_embeddings": True},
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 8192, "n_positions": 1024, "n_embd": 256, "n_layer": 4, "n_head": 8,
        "bos_token_id": 0, "eos_token_id": 0, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1,
    },
    "gpt_neox": {"model_type": "gpt_neox", **_PLAIN, "hidden_dropout": 0.1},
    "opt": {"model_type": "opt", **_PLAIN, "ffn_dim": 704, "word_embed_proj_dim": 256, "dropout": 0.1},
    "gemma2": {"model_type": "gemma2", **_LLAMA, "sliding_window": 64, "query_pre_attn_scalar": 32},
    "gemma3": {
        "model_type": "gemma3_text", **_LLAMA, "num_hidden_layers": 6, "sliding_window": 64,
        "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2, "query_pre_attn_scalar": 32,
    },
    "phi3": {"model_type": "phi3", **{key: value for key, value in _LLAMA.items() if key != "head_dim"}},
    "mixtral": {"model_type": "mixtral", **_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"model_type": "qwen3_moe", **_MOE, "num_experts": 4},
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """One that is done, and traced: `documents` of `length` tokens at once."""

    model: str
    method: str
    checkpointing: bool
    packed: bool
    precision: str = "fp32"
    documents: int = 3
    length: int = 128

    @property
    def recipe(self) -> Recipe:
        given = {"data": "none", "method": self.method, "precision": self.precision, "max_length": str(self.length)}
        given["gradient_checkpointing"] = str(self.checkpointing).lower()
        return parse("", {"model": self.model, **given}).recipe


def trainings(*, quick: bool) -> Iterator[Training]:
    models = ("llama", "gpt2") if quick else tuple(CONFIGS)
    for model, method, checkpointing, packed in product(models, ("lora", "full"), (True, False), (False, True)):
        yield Training(model, method, checkpointing, packed)
    for model, checkpointing in product(models if quick else ("llama", "qwen3", "gpt2"), (True, False)):
        yield Training(model, "qlora", checkpointing, packed=False)
    for method in () if quick else ("lora", "full"):  # a CPU is slow at it
        yield Training("llama", method, checkpointing=True, packed=False, precision=APART, length=64)


@dataclass(frozen=True)
class _Prepared:
    training: Training
    source: ModelSource
    verdict: Verdict
    plan: Plan
    setup: Setup


def prepare(training: Training, folder: Path) -> _Prepared | None:
    """Write a random model, and plan its training; None where its documents cannot be packed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(CONFIGS[training.model])
    config = AutoConfig.for_model(given.pop("model_type"), **given)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    source = ModelSource(training.model, folder, None, config, 0)
    verdict = probe(config)
    if training.packed and not verdict.packing:
        return None
    shape = describe(source, training.recipe)
    made = predict(shape, verdict, training.recipe, CPU, fixed_lengths(training.length))
    setup = replace(made.setup, documents=training.documents, packed=training.packed)
    plan = made.plan.choosing(packing=Choice(training.packed, "as is asked"))
    return _Prepared(training, source, verdict, plan, setup)


def predicted(ready: _Prepared) -> int:
    """The peak of the trace."""
    scene = Case(ready.source.config, ready.training.recipe, ready.setup, ready.plan["attention"], "cpu", None)
    return sum(peak_of(whole(ready.source.config, lambda layers: trace(scene, layers)))[1].values())


def measured(ready: _Prepared) -> int:
    """The peak of the training."""
    import numpy as np

    recipe, size = ready.training.recipe, ready.training.length
    device = torch.device("cpu")
    model = load_model(ready.source, recipe, ready.plan, device)
    ids, where, targets = np.zeros(size, np.int32), np.arange(size, dtype=np.int64), np.zeros(size, np.int64)
    samples = [Sample(number, ids, where, targets, size) for number in range(ready.training.documents)]
    documents: Any = [(ids, np.ones(size, bool))] * 16
    task, _ = make_task(model, recipe, ready.plan, documents, None, device=device)
    task.model.train()
    set_gradient_checkpointing(task.model, ready.training.checkpointing)
    before = _bytes_of(model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _step(task, samples, packed=ready.training.packed)
    live = highest = before
    for event in memory_events(profiled):
        live += event
        highest = max(highest, live)
    return highest


def _step(task: Task, samples: list[Sample], *, packed: bool) -> None:
    labelled = sum(len(sample.targets) for sample in samples)
    micro_batch_gradients(task, samples, packed, labelled)
    nn.utils.clip_grad_norm_(task.trainable, 1.0)
    task.optimizer.step()
    micro_batch_gradients(task, samples, packed, labelled)


def memory_events(profiled: Any) -> list[int]:
    """What was taken and given back, one after the other, in whole steps."""
    found = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [_stepped(event.nbytes()) for event in sorted(found, key=lambda event: event.start_ns())]


def _stepped(size: int) -> int:
    whole_steps = -(-abs(size) // STEP) * STEP
    return whole_steps if size >= 0 else -whole_steps


def _bytes_of(model: nn.Module) -> int:
    """Of weights and buffers, shared storage once; of quantised ones with their scales and tables."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for parameter in list(tensors):
        state = getattr(parameter, "quant_state", None)
        for part in filter(None, (state, getattr(state, "state2", None))):
            tensors += [one for one in (part.absmax, part.code, part.offset) if isinstance(one, torch.Tensor)]
    return sum({one.untyped_storage().data_ptr(): _stepped(one.untyped_storage().nbytes()) for one in tensors}.values())


def main(*, quick: bool, only: str) -> int:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = [one for one in trainings(quick=quick) if only in (one.model, "")]
    errors: dict[Training, float] = {}
    peaks: dict[Training, int] = {}
    untraced: dict[str, str] = {}
    for number, training in enumerate(wanted, 1):
        show_progress(number, len(wanted), str(training))
        with tempfile.TemporaryDirectory(prefix="allocator-") as folder:
            ready = prepare(training, Path(folder))
            if ready is None:
                continue
            try:
                traced = predicted(ready)
            except Exception as error:
                untraced[training.model] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}"
                continue
            peaks[training] = measured(ready)
            errors[training] = traced / peaks[training] - 1
    rows = [_row(name, part, errors, peaks) for name, part in _groups(list(errors))]
    print(table(("traced, against the CPU allocator", "trainings", "median error", "worst", "where", "bar"), rows))
    for model, why in untraced.items():
        print(f"{model} could not be traced: {why}")
    missed = [row[0] for row in rows if row[-1] == "missed"]
    print(f"\nbar: at most {BAR:.0%}: {'missed by ' + ', '.join(missed) if missed else 'met'}")
    return 1 if missed else 0


def _groups(done: list[Training]) -> Iterator[tuple[str, list[Training]]]:
    """fp32 model by model; what a CPU does in another way than a GPU, apart."""
    for model in CONFIGS:
        part = [one for one in done if one.model == model and (one.method, one.precision) in _FP32]
        if part:
            yield model, part
    for name, part in (
        ("qlora, bitsandbytes on a CPU", [one for one in done if one.method == "qlora"]),
        ("bf16 under autocast", [one for one in done if one.precision == APART]),
    ):
        if part:
            yield name, part


_FP32 = (("lora", "fp32"), ("full", "fp32"))


def _row(
    name: str, part: Sequence[Training], errors: dict[Training, float], peaks: dict[Training, int]
) -> tuple[str, ...]:
    worst = max(part, key=lambda one: abs(errors[one]))
    how = ", ".join(
        [worst.model, worst.method]
        + ["checkpointing"] * worst.checkpointing
        + ["packed"] * worst.packed
        + [f"{peaks[worst] / 2**20:.1f} MiB"]
    )
    median = statistics.median(abs(errors[one]) for one in part)
    verdict = "apart" if worst.precision == APART else "missed" if abs(errors[worst]) > BAR else "met"
    return name, str(len(part)), f"{median:.3%}", f"{errors[worst]:+.3%}", how, verdict
