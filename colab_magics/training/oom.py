"""What to do when memory runs out in the middle of a step."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import torch

from colab_magics.memory.host import host_memory
from colab_magics.memory.messages import in_words, tells_of_memory
from colab_magics.training import cap, oom_record
from colab_magics.training.attention import forget_masks

T = TypeVar("T")

_LONGEST_MESSAGE = 2000
_FRAMES = 12
_LIBRARIES = ("colab_magics", "transformers", "peft", "bitsandbytes", "torch")
_BETWEEN = frozenset({"_wrapped_call_impl", "_call_impl"})  # of every torch module: they would fill the list


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and tells_of_memory(str(error))


@dataclass(frozen=True)
class OutOfMemory:
    """That it happened and what was seen then, without the exception: its traceback would keep every tensor alive.

    Attributes
    ----------
    message : str
        The library's own, whole.
    phase : str
        What was under way: forward, backward, clipping, optimizer, evaluation, loading, writing the result.
    where : tuple of str
        "module.function:line", innermost last, of our own frames and those of the libraries that train.
    record : dict, optional
        What the allocator held (`oom_record.py`), or a capped CPU (`cap.py`).
    host : dict, optional
        Bytes of the machine's memory: `total`, `free`.
    rss : int, optional
        Bytes of it that this process had.
    """

    message: str
    phase: str = "forward"
    where: tuple[str, ...] = ()
    record: dict[str, Any] | None = None
    host: dict[str, int] | None = None
    rss: int | None = None

    @property
    def first_line(self) -> str:
        """What people read of the message."""
        return in_words(self.message.partition("\n")[0])


def attempt(work: Callable[[], T], phase: str = "forward") -> T | OutOfMemory:
    """Run `work`; an out-of-memory comes back as a value, after the except block (and so the frames) are gone."""
    try:
        return work()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        failure = seen(error, phase)
    return failure


def seen(error: BaseException, phase: str) -> OutOfMemory:
    """What there is to tell of an out-of-memory while its frames, and so its tensors, are still there."""
    message = (str(error) or type(error).__name__)[:_LONGEST_MESSAGE]
    where, backward = _where(error.__traceback__)
    host = rss = None
    with suppress(Exception):  # the machine itself may be full: what cannot be looked at is left out
        import psutil

        rss = int(psutil.Process().memory_info().rss)
        memory = host_memory()
        host = {"total": memory.total, "free": memory.free}
    record = oom_record.taken() or cap.record(message)
    return OutOfMemory(message, "backward" if backward and phase == "forward" else phase, where, record, host, rss)


def _where(traceback: TracebackType | None) -> tuple[tuple[str, ...], bool]:
    """The frames that are worth telling, and whether a backward was under way; a recomputed forward is part of one."""
    frames: list[str] = []
    backward = False
    while traceback is not None:
        code, module = traceback.tb_frame.f_code, str(traceback.tb_frame.f_globals.get("__name__", ""))
        backward = backward or code.co_name == "_engine_run_backward"
        if module.partition(".")[0] in _LIBRARIES and code.co_name not in _BETWEEN:
            frames.append(f"{module}.{code.co_qualname}:{traceback.tb_lineno}"[-200:])
        traceback = traceback.tb_next
    return tuple(frames[-_FRAMES:]), backward


def _finish_the_backward() -> None:
    """Let go of a backward that failed: on a CPU its other branches wait in autograd's queue until the next one.

    They hold the whole graph below them, and the next forward may never get so far for want of that memory.
    """
    with suppress(RuntimeError, MemoryError):
        torch.zeros((), requires_grad=True).mul(1.0).backward()


def release() -> None:
    """Give cached memory back, so that the retry starts from what is really free."""
    forget_masks()
    _finish_the_backward()
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
