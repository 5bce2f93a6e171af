"""How an out-of-memory stands in the log, and what is said of one that ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.training.batches import Sample, tokens_at_once
from colab_magics.training.cap import capped
from colab_magics.training.oom import Arrangement, OutOfMemory

_DOCUMENTS = 64


@dataclass
class Flight:
    """The micro-batch at work, for whoever must explain a failure, and the most that was in memory at once."""

    samples: list[Sample] = field(default_factory=list)
    most: int = 0

    def takes(self, samples: list[Sample], *, packed: bool) -> None:
        self.samples = samples
        self.most = max(self.most, tokens_at_once(samples, packed=packed))


def told(
    failure: OutOfMemory,
    *,
    step: int | None = None,
    arrangement: Arrangement | None = None,
    samples: Sequence[Sample] = (),
    first: bool = True,
) -> dict[str, Any]:
    """The fields of an `oom` event; of a `failed` one they are its `oom`.

    Parameters
    ----------
    step : the one at work, from 1; None where there was none
    arrangement : how much of a step was to be in memory; None before the training
    samples : the documents that were in memory
    first : whether no step was done in this attempt before
    """
    packed = None if arrangement is None else arrangement.packed
    return {
        "step": step,
        "micro_batch": None if arrangement is None else arrangement.micro_batch,
        "documents": len(samples),
        "message": failure.message,
        "phase": failure.phase,
        "where": list(failure.where),
        "tokens": [sample.tokens for sample in samples[:_DOCUMENTS]],
        "in_memory": tokens_at_once(samples, packed=bool(packed)),
        "packed": packed,
        "gradient_checkpointing": None if arrangement is None else arrangement.gradient_checkpointing,
        "loss_chunk": None if arrangement is None else arrangement.loss_chunk,
        "first": first,
        "record": failure.record,
        "host": failure.host,
        "rss": failure.rss,
    }


def too_large(failure: OutOfMemory, sample: Sample, oom: dict[str, Any], *, chunked: bool) -> ColabMagicsError:
    """Nothing is left to be made smaller: one document alone does not fit."""
    head = "the loss is in its smallest chunks" if chunked else "this model's own head takes all of it at once"
    return ColabMagicsError(
        f"Out of memory at step {oom['step']}: document {sample.id} ({sample.tokens} tokens) does not fit alone.",
        f"Gradient checkpointing is on and {head}. {failure.first_line}",
        "Set a smaller max_length (it is never cut without your consent).",
        "Or use method: qlora, a smaller model, or a larger max_memory."
        if capped()
        else "Or use method: qlora, a smaller model, or a larger GPU.",
        facts={"oom": oom},
    )


def update_failed(failure: OutOfMemory, oom: dict[str, Any], *, fresh: bool, adapter: bool) -> ColabMagicsError:
    """The optimizer ran out: of a `fresh` one the states did not fit, and of an `adapter` fewer can be asked for."""
    narrow = "adamw_8bit" if capped() else "paged_adamw_8bit"  # there is nowhere else to page to
    return ColabMagicsError(
        f"Out of memory at step {oom['step']}: the optimizer's states do not fit beside the model."
        if fresh
        else f"Out of memory at step {oom['step']}, while the optimizer updated the weights.",
        failure.first_line,
        f"Use optim: {narrow}, or a smaller r or fewer target_modules."
        if adapter
        else f"Use method: lora or qlora, or optim: {narrow}.",
        "Or set a larger max_memory: %vram why says how much would be enough."
        if capped()
        else "Or end what else uses the device (a kernel holds its GPU memory until it is restarted).",
        facts={"oom": oom},
    )
