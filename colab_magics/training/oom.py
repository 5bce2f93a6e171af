"""What to do when memory runs out in the middle of a step."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from colab_magics.memory.messages import tells_of_memory
from colab_magics.training.attention import forget_masks

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and tells_of_memory(str(error))


@dataclass(frozen=True)
class OutOfMemory:
    """That it happened, without the exception: its traceback would keep every tensor of the step alive."""

    message: str


def attempt(work: Callable[[], T]) -> T | OutOfMemory:
    """Run `work`; an out-of-memory comes back as a value, after the except block (and so the frames) are gone."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0]
    return OutOfMemory(message)


def release() -> None:
    """Give cached memory back, so that the retry starts from what is really free."""
    forget_masks()
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Arrangement:
    """How much of a step is in memory at once. It is part of a run's state: a resume keeps what was settled."""

    micro_batch: int
    packed: bool
    gradient_checkpointing: bool
    loss_chunk: int
    token_budget: int | None = None

    def smaller(self, documents: int, *, chunked: bool = True) -> Arrangement | None:
        """The next thing to try after running out with `documents` in one micro-batch; None when nothing is left.

        Halving keeps the effective batch and costs little; checkpointing costs a third more compute; smaller loss
        chunks help only where the head is the peak, and a loss that is not `chunked` has none. The order is that of
        their price.
        """
        if documents > 1:
            return replace(self, micro_batch=max(1, documents // 2))
        if not self.gradient_checkpointing:
            return replace(self, micro_batch=1, gradient_checkpointing=True)
        if chunked and self.loss_chunk > MINIMUM_LOSS_CHUNK:
            return replace(self, micro_batch=1, loss_chunk=max(MINIMUM_LOSS_CHUNK, self.loss_chunk // 4))
        return None


MINIMUM_LOSS_CHUNK = 64
