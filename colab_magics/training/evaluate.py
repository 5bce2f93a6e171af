"""Loss, perplexity and token accuracy over held-out documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from colab_magics.training.attention import packed_documents
from colab_magics.training.batches import Documents, Sample, collate, group, read_samples
from colab_magics.training.loss import Loss
from colab_magics.training.oom import Arrangement, OutOfMemory, attempt, release
from colab_magics.training.oom_told import Flight

_DOCUMENTS_AT_A_TIME = 64


@dataclass(frozen=True)
class Score:
    """Means over the labelled tokens; accuracy is the share that is the model's first choice."""

    loss: float
    perplexity: float
    token_accuracy: float


def evaluate(
    model: nn.Module,
    loss: Loss,
    documents: Documents,
    arrangement: Arrangement,
    device: torch.device,
    autocast: torch.dtype | None,
    control: Callable[[], str | None] = lambda: None,
    flight: Flight | None = None,
) -> Score | OutOfMemory | str:
    """Score the model; the weights, the gradients and the random state are left as they are.

    Runs out of memory only where one document alone does not fit; it then says so, and training may go on. An order
    that `control` gives breaks it off and is returned: it may take longer than a session has left. `flight` is told
    what is in memory.
    """
    flight = Flight() if flight is None else flight
    was_training = model.training
    model.eval()
    try:
        total, correct, labelled = 0.0, 0, 0
        for start in range(0, len(documents), _DOCUMENTS_AT_A_TIME):
            if (order := control()) is not None:
                return order
            stop = min(start + _DOCUMENTS_AT_A_TIME, len(documents))
            samples = read_samples(documents, range(start, stop))
            figures = attempt(partial(_score, samples, arrangement, loss, device, autocast, flight), "evaluation")
            while isinstance(figures, OutOfMemory) and arrangement.micro_batch > 1:
                release()
                arrangement = replace(arrangement, micro_batch=max(1, min(arrangement.micro_batch, len(samples)) // 2))
                figures = attempt(partial(_score, samples, arrangement, loss, device, autocast, flight), "evaluation")
            if isinstance(figures, OutOfMemory):
                release()
                return figures
            total += figures[0]
            correct += int(figures[1])
            labelled += sum(len(sample.targets) for sample in samples)
    finally:
        model.train(was_training)
    mean = total / max(1, labelled)
    return Score(mean, math.exp(min(mean, 700.0)), correct / max(1, labelled))


def _score(
    samples: list[Sample],
    arrangement: Arrangement,
    loss: Loss,
    device: torch.device,
    autocast: torch.dtype | None,
    flight: Flight,
) -> list[float]:
    """[summed loss, labelled tokens predicted rightly]"""
    figures = torch.zeros(2, dtype=torch.float64, device=device)
    for part in group(samples, arrangement.micro_batch, arrangement.token_budget, packed=arrangement.packed):
        flight.takes(part, packed=arrangement.packed)
        batch = collate(part, device, packed=arrangement.packed)
        with (
            torch.no_grad(),
            packed_documents(batch.packed),
            torch.autocast(device.type, autocast, enabled=autocast is not None),
        ):
            figures += torch.stack(list(loss.score(batch)))
    values: list[float] = figures.tolist()
    return values
