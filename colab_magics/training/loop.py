"""The training loop, from top to bottom.

A step takes `effective_batch` documents, splits them into micro-batches, adds up the gradients of the *summed* loss
divided by the labelled tokens of the whole step, clips, and updates. So every labelled token weighs the same,
whatever the micro-batch. The host waits for the device once a step, to read the loss and the gradient norm together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.training.attention import packed_documents
from colab_magics.training.batches import Documents, Order, Sample, collate, group, read_samples
from colab_magics.training.evaluate import evaluate
from colab_magics.training.loss import Loss
from colab_magics.training.model import set_gradient_checkpointing
from colab_magics.training.oom import Arrangement, OutOfMemory, attempt, release
from colab_magics.training.oom_told import Flight, told, too_large, update_failed
from colab_magics.training.watch import allocator, forget_peak

OnEvent = Callable[..., None]
Control = Callable[[], str | None]
RandomState = tuple[torch.Tensor, torch.Tensor | None]

INITIAL_SCALE = 2.0**12  # torch's 2**16 overflows for the first three steps on a T4 (finetune notes of many projects)


@dataclass
class Progress:
    """Where a run is.

    With the weights, the optimizer, the schedule, the scaler and torch's random state, all that a resume needs.
    """

    arrangement: Arrangement
    step: int = 0
    samples: int = 0
    tokens: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float = math.inf
    evaluations_without_gain: int = 0
    evaluated: int = 0  # the last step after which the held-out documents were scored


class Trainee(Protocol):
    """What a checkpoint holds of a training, whoever steps it."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def schedule(self) -> torch.optim.lr_scheduler.LRScheduler: ...
    @property
    def scaler(self) -> torch.amp.GradScaler | None: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def total_steps(self) -> int: ...


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how. Nothing here changes but what torch changes in place."""

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler | None
    device: torch.device
    autocast: torch.dtype | None
    documents: Documents
    eval_documents: Documents | None
    order: Order
    total_steps: int
    max_grad_norm: float
    eval_steps: int | None
    early_stopping: int | None

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: reason is "completed", "early_stopping" or "stopped"; seconds are this attempt's.

    `own_seconds` is the time spent in our bookkeeping (order, events, control), outside of the model's work; `figures`
    are those of the last step besides its loss, for the result's card.
    """

    reason: str
    progress: Progress
    seconds: float
    own_seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


class _Abandoned(Exception):
    """The order to stop now came in the middle of a step; the step is as if it had never begun."""


class Keeper(Protocol):
    """Takes checkpoints while the loop runs (`saving.Saver`)."""

    def rests(self, drawn: RandomState | None) -> None: ...
    def after_step(self, *, best: bool) -> None: ...
    def now(self, reason: Literal["stop", "failed"], drawn: RandomState | None = None) -> None: ...


class _KeepsNothing:
    def rests(self, drawn: RandomState | None) -> None: ...
    def after_step(self, *, best: bool) -> None: ...
    def now(self, reason: Literal["stop", "failed"], drawn: RandomState | None = None) -> None: ...


KEEPS_NOTHING = _KeepsNothing()


def train(
    task: Task, progress: Progress, on_event: OnEvent, control: Control, keeper: Keeper = KEEPS_NOTHING
) -> Outcome:
    """Run until the last step, an order, or early stopping.

    Parameters
    ----------
    progress : where to start; it is kept up to date, also when this raises
    on_event : called as on_event(kind, **fields) with step, eval, oom, recovered, stopping, warning
    control : looked at before every micro-batch; "stop" and "deadline" end after the step, "stop-now" drops it
    keeper : told where a checkpoint may be taken

    Raises
    ------
    ColabMagicsError
        When the loss or the gradients are not finite, or one document alone does not fit into memory.
    """
    started = time.perf_counter()
    own = 0.0
    task.model.train()
    set_gradient_checkpointing(task.model, progress.arrangement.gradient_checkpointing)
    task.loss.chunk = progress.arrangement.loss_chunk
    trainable = task.trainable

    def ended(reason: str) -> Outcome:
        return Outcome(reason, progress, time.perf_counter() - started, own)

    def obeyed(order: str) -> Outcome:
        on_event("stopping", reason="deadline" if order == "deadline" else "stop", step=progress.step)
        keeper.now("stop")
        return ended("deadline" if order == "deadline" else "stopped")

    if _evaluation_is_due(task, progress):  # the attempt before was stopped between a step and its evaluation
        best = _evaluate(task, progress, on_event, control, keeper)
        if isinstance(best, str):
            return obeyed(best)
        keeper.after_step(best=best)
    if _has_converged(task, progress):
        on_event("stopping", reason="early_stopping", step=progress.step)
        return ended("early_stopping")
    begun = progress.step
    for step, ids in task.order.steps(begun, task.total_steps, progress.samples):
        begin = time.perf_counter()
        samples = read_samples(task.documents, ids)
        drawn = random_state(task.device)
        keeper.rests(drawn)
        try:
            loss, grad_norm, in_memory = _finished_step(
                task, progress, trainable, samples, step + 1, drawn, on_event, control, first=step == begun
            )
        except _Abandoned:
            on_event("stopping", reason="stop", step=step)
            keeper.now("stop", drawn)
            return ended("stopped")
        except ColabMagicsError:
            keeper.now("failed", drawn)  # no weight was touched: a smaller learning_rate may go on from here
            raise
        finally:
            keeper.rests(None)
        rate = task.schedule.get_last_lr()[0]
        _update(task, progress.arrangement, step + 1, first=step == begun)
        if task.scaler is not None:
            task.scaler.update()
        task.schedule.step()
        task.optimizer.zero_grad(set_to_none=True)

        end = time.perf_counter()
        tokens = sum(sample.tokens for sample in samples)
        progress.step = step + 1
        progress.samples += len(ids)
        progress.tokens += tokens
        progress.last_loss = loss
        if progress.first_loss is None:
            progress.first_loss = loss
        on_event(
            "step",
            step=progress.step,
            total_steps=task.total_steps,
            epoch=progress.samples / task.order.documents,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens=progress.tokens,
            tokens_per_second=tokens / (end - begin),
            samples=progress.samples,
            seconds=end - begin,
            in_memory=in_memory,
            **allocator(task.device),
        )
        order = control()
        own += time.perf_counter() - end
        if order is not None:
            return obeyed(order)
        best = _evaluation_is_due(task, progress) and _evaluate(task, progress, on_event, control, keeper)
        if isinstance(best, str):
            return obeyed(best)
        if _has_converged(task, progress):
            on_event("stopping", reason="early_stopping", step=progress.step)
            return ended("early_stopping")
        keeper.after_step(best=best)
    return ended("completed")


def _evaluation_is_due(task: Task, progress: Progress) -> bool:
    if task.eval_documents is None or progress.evaluated == progress.step:
        return False
    return progress.step == task.total_steps or bool(task.eval_steps and progress.step % task.eval_steps == 0)


def _has_converged(task: Task, progress: Progress) -> bool:
    patience = task.early_stopping
    return patience is not None and progress.evaluations_without_gain >= patience and progress.step < task.total_steps


def _finished_step(
    task: Task,
    progress: Progress,
    trainable: list[nn.Parameter],
    samples: list[Sample],
    step: int,
    random: RandomState,
    on_event: OnEvent,
    control: Control,
    *,
    first: bool,
) -> tuple[float, float, int]:
    """Leave the step's clipped gradients on the parameters, whatever retries that takes.

    A retry starts from `random`, the random state of the step's start, so that dropout falls as it would have fallen.

    Returns
    -------
    The loss, the gradient norm, and the tokens of the largest micro-batch.
    """
    ran_out = False
    while True:
        flight = Flight()
        outcome: Any = attempt(lambda flight=flight: _gradients(task, progress.arrangement, samples, flight, control))  # type: ignore[misc]
        if not isinstance(outcome, OutOfMemory):
            outcome = attempt(lambda total=outcome: _clipped(task, trainable, total), "clipping")  # type: ignore[misc]
            if isinstance(outcome, OutOfMemory) and task.scaler is not None:
                task.scaler.update(task.scaler.get_scale())  # it must forget that these gradients were unscaled
        if isinstance(outcome, OutOfMemory):
            ran_out = True
            oom = told(outcome, step=step, arrangement=progress.arrangement, samples=flight.samples, first=first)
            on_event("oom", **oom)
            task.optimizer.zero_grad(set_to_none=True)
            release()
            smaller = progress.arrangement.smaller(len(flight.samples), chunked=task.loss.chunked)
            if smaller is None:
                raise too_large(outcome, flight.samples[0], oom, chunked=task.loss.chunked)
            forget_peak(task.device)  # the next ones are those of what then fits
            progress.arrangement = smaller
            set_gradient_checkpointing(task.model, smaller.gradient_checkpointing)
            task.loss.chunk = smaller.loss_chunk
            restore_random_state(random, task.device)
            continue
        loss, grad_norm = outcome
        if math.isfinite(loss) and math.isfinite(grad_norm):
            break
        task.optimizer.zero_grad(set_to_none=True)
        if task.scaler is None or not math.isfinite(loss) or task.scaler.get_scale() <= 1.0:
            raise _not_finite(step, samples, loss, task.scaler)
        # fp16 overflowed in the backward: the same step again at half the scale, so that no update is lost.
        task.scaler.update(task.scaler.get_scale() / 2)
        restore_random_state(random, task.device)
    if ran_out:
        settled = progress.arrangement
        on_event(
            "recovered",
            step=step,
            micro_batch=settled.micro_batch,
            gradient_checkpointing=settled.gradient_checkpointing,
            loss_chunk=settled.loss_chunk,
        )
    return loss, grad_norm, flight.most


def _gradients(
    task: Task, arrangement: Arrangement, samples: list[Sample], flight: Flight, control: Control
) -> torch.Tensor:
    """Forward and backward of every micro-batch; returns the mean loss over the step's labelled tokens (0-dim)."""
    labelled = max(1, sum(len(sample.targets) for sample in samples))
    total = torch.zeros((), device=task.device)
    for part in group(samples, arrangement.micro_batch, arrangement.token_budget, packed=arrangement.packed):
        flight.takes(part, packed=arrangement.packed)
        if control() == "stop-now":
            task.optimizer.zero_grad(set_to_none=True)
            raise _Abandoned
        total += micro_batch_gradients(task, part, arrangement.packed, labelled)
    return total


def _clipped(task: Task, trainable: list[nn.Parameter], total: torch.Tensor) -> list[float]:
    """Unscale and clip the gradients in place; returns [loss, norm before]."""
    if task.scaler is not None:
        task.scaler.unscale_(task.optimizer)
    norm = nn.utils.clip_grad_norm_(trainable, task.max_grad_norm or math.inf)
    figures: list[float] = torch.stack([total, norm.float()]).tolist()  # the step's one wait for the device
    return figures


def _counted(optimizer: torch.optim.Optimizer) -> bool:
    return any(float(state.get("step", 0)) > 0 for state in optimizer.state.values())


def _update(task: Task, arrangement: Arrangement, step: int, *, first: bool) -> None:
    """The optimizer's step. Where it runs out of memory it is tried once more, if it has surely done nothing yet.

    An optimizer allocates its states at its first step. torch's AdamW counts a weight's step, in every one of its
    implementations, before it writes to the weight: where it had no states before and has counted nothing, it is as
    it was once the states are dropped. bitsandbytes' allocate and write weight by weight, and are never asked again.
    """
    fresh = isinstance(task.optimizer, torch.optim.AdamW) and not task.optimizer.state
    outcome = attempt(task.optimizer.step, "optimizer")
    if isinstance(outcome, OutOfMemory) and fresh and not _counted(task.optimizer):
        task.optimizer.state.clear()
        release()
        outcome = attempt(task.optimizer.step, "optimizer")
    if isinstance(outcome, OutOfMemory):
        oom = told(outcome, step=step, arrangement=arrangement, first=first)
        raise update_failed(outcome, oom, fresh=fresh, adapter=hasattr(task.model, "peft_config"))


def micro_batch_gradients(task: Task, part: list[Sample], packed: bool, labelled: int) -> torch.Tensor:
    """Add one micro-batch's gradients to the parameters'; returns its share of the step's mean loss (0-dim)."""
    batch = collate(part, task.device, packed=packed)
    with packed_documents(batch.packed):
        with torch.autocast(task.device.type, task.autocast, enabled=task.autocast is not None):
            loss = task.loss(batch) / labelled
        (loss if task.scaler is None else task.scaler.scale(loss)).backward()
    return loss.detach()


def _evaluate(task: Task, progress: Progress, on_event: OnEvent, control: Control, keeper: Keeper) -> bool | str:
    """Score the held-out documents; whether that was the best so far, or the order that broke it off."""
    assert task.eval_documents is not None
    keeper.rests(random_state(task.device))
    begin = time.perf_counter()
    flight = Flight()
    score = evaluate(
        task.model, task.loss, task.eval_documents, progress.arrangement, task.device, task.autocast, control, flight
    )
    keeper.rests(None)
    if isinstance(score, str):
        return score
    if isinstance(score, OutOfMemory):
        said = f"evaluation at step {progress.step} ran out of memory: {score.first_line}"
        alone = replace(progress.arrangement, micro_batch=1)  # it gives up on one document alone
        oom = told(score, step=progress.step, arrangement=alone, samples=flight.samples, first=progress.step == 0)
        on_event("warning", message=said, oom=oom)
        return False
    progress.eval_loss, progress.evaluated = score.loss, progress.step
    best = score.loss < progress.best_eval_loss
    if best:
        progress.best_eval_loss, progress.evaluations_without_gain = score.loss, 0
    else:
        progress.evaluations_without_gain += 1
    on_event(
        "eval",
        step=progress.step,
        loss=score.loss,
        perplexity=score.perplexity,
        token_accuracy=score.token_accuracy,
        seconds=time.perf_counter() - begin,
    )
    return best


def random_state(device: torch.device) -> RandomState:
    """torch's random state, the CPU's and (on a GPU) the device's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Make torch draw what it drew from `state` on; a GPU's is left where there is none."""
    host, gpu = state
    torch.set_rng_state(host)
    if gpu is not None and device.type == "cuda":
        torch.cuda.set_rng_state(gpu, device)


def _not_finite(step: int, samples: list[Sample], loss: float, scaler: Any) -> ColabMagicsError:
    what = "loss" if not math.isfinite(loss) else "gradient"
    ids = [str(sample.id) for sample in samples]
    shown = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
    return ColabMagicsError(
        f"The {what} is not a finite number at step {step}; the weights were not touched by it.",
        f"Its samples: {shown}.",
        "Use a smaller learning_rate." if scaler is None else "Use precision: fp32, or a smaller learning_rate.",
    )
