"""TRL's trainer, with the parts taken off that this worker has itself: data, saving, telemetry."""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colab_magics.plan import Plan
from colab_magics.recipe import Recipe
from colab_magics.training.batches import Order
from colab_magics.training.loop import INITIAL_SCALE, Progress
from colab_magics.training.preferences.library import settings, trainer_of
from colab_magics.training.preferences.rows import Batch
from colab_magics.training.quiet import quiet_libraries

Parts = list[list[int]]
_PLACEHOLDERS: dict[str, list[dict[str, Any]]] = {
    "pairs": [{"prompt": "one", "chosen": " step", "rejected": " the"}] * 2,
    "judged": [
        {"prompt": "one", "completion": " step", "label": True},
        {"prompt": "one", "completion": " the", "label": False},
    ],
}


class Abandoned(Exception):
    """The order to stop now came in the middle of a step; the step is as if it had never begun."""


@dataclass
class Steps:
    """What the trainer iterates over: the samples of one optimizer step at a time, from where the run is.

    To transformers each is one batch, so that it accumulates nothing itself, skips nothing on a resume, and the last
    step of an epoch may be smaller than the others.
    """

    order: Order
    progress: Progress
    total: int
    micro_batch: int

    def __len__(self) -> int:
        return max(0, self.total - self.progress.step)

    def __iter__(self) -> Iterator[Parts]:
        for _, ids in self.order.steps(self.progress.step, self.total, self.progress.samples):
            yield parts_of(ids, self.micro_batch)


def parts_of(samples: list[int], micro_batch: int) -> Parts:
    """Micro-batches of nearly one size, none larger than `micro_batch`, in order."""
    count = -(-len(samples) // micro_batch)
    ends = [len(samples) * part // count for part in range(count + 1)]
    return [samples[start:end] for start, end in pairwise(ends)]


def make_trainer(
    model: nn.Module, reference: nn.Module | None, tokenizer: Any, recipe: Recipe, plan: Plan, *, device: torch.device
) -> Any:
    """TRL's trainer for the recipe's objective, with no data yet; `feed` gives it some.

    Parameters
    ----------
    reference : the untouched model, where all weights are trained; with an adapter it is switched off instead
    """
    from datasets import Dataset, disable_progress_bars
    from transformers.trainer_callback import PrinterCallback

    base, config = trainer_of(recipe.objective)
    disable_progress_bars()
    scratch = Path(tempfile.mkdtemp(prefix="colab_magics-trl-"))  # nothing is written there
    arguments = settings(recipe, plan, config, device=device, scratch=scratch)
    rows = _PLACEHOLDERS["judged" if recipe.objective == "kto" else "pairs"]
    options: dict[str, Any] = {} if recipe.objective == "orpo" else {"ref_model": reference}
    processing = copy.deepcopy(tokenizer)  # TRL sets its padding token, which is not to go into the result
    if processing.pad_token is None:
        processing.pad_token = processing.eos_token
    with warnings.catch_warnings(), quiet_libraries():
        warnings.simplefilter("ignore", FutureWarning)
        trainer = driven(base)(
            model=model,
            args=arguments,
            # its own tokenising is tried on two rows, and what comes of it is never read
            train_dataset=Dataset.from_list(rows),
            processing_class=processing,
            **options,
        )
    shutil.rmtree(scratch, ignore_errors=True)
    trainer.remove_callback(PrinterCallback)
    _undo(trainer, model, device)
    return trainer


def _undo(trainer: Any, model: nn.Module, device: torch.device) -> None:
    """Take back what TRL's trainers do to a model that is made as this worker makes it."""
    if "ref" in getattr(model, "peft_config", {}):
        # a copy of the adapter as it is now; ours begins as nothing, so that the base model is the same reference
        model.delete_adapter("ref")
        model.set_adapter("default")
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # adapters on a 4-bit model are cast to bf16, also on a T4
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE)


def feed(trainer: Any, steps: Steps, batch: Callable[[list[int]], Batch], control: Callable[[], str | None]) -> None:
    """Give a trainer its data, and whom to ask between two micro-batches."""
    trainer.steps, trainer.batch, trainer.ask = steps, batch, control


def driven(base: Any) -> Any:
    """A subclass of TRL's trainer `base` whose data comes from `feed`, and that writes and sends nothing."""

    class Driven(base):  # type: ignore[misc]
        steps: Steps
        batch: Callable[[list[int]], Batch]
        ask: Callable[[], str | None]
        step_loss: torch.Tensor | None = None

        def get_train_dataloader(self) -> Any:
            return self.steps

        def training_step(self, model: nn.Module, inputs: Parts, *_: Any, **__: Any) -> torch.Tensor:
            """All micro-batches of a step; each sample weighs the same, however many are in its micro-batch."""
            total = torch.zeros((), device=self.args.device)
            samples = sum(map(len, inputs))
            for part in inputs:
                if self.ask() == "stop-now":
                    raise Abandoned
                self.part = part
                self.current_gradient_accumulation_steps = samples / len(part)
                total = total + super().training_step(model, self.batch(part), None)
            self.step_loss = total
            return total

        def floating_point_ops(self, _inputs: Any) -> int:
            return 0

        def _save_checkpoint(self, *_: Any, **__: Any) -> None:
            raise AssertionError("checkpoints are this worker's")

        def _send_telemetry(self) -> None: ...

    return Driven
