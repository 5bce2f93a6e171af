"""torch and what stands on it come into this process once, and whole."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def import_torch(say: Callable[[str], None]) -> Any:
    """torch, in this process from now on; said once."""
    if "torch" in sys.modules:
        import torch

        return torch
    from IPython import get_ipython  # type: ignore[attr-defined]

    free = "; %vram free gives the model's memory back" if get_ipython() is not None else ""
    say(f"torch and the model come into this process now{free}.")
    # Half imported, torch cannot be imported again before the kernel is restarted: it registers its operators once.
    with _interrupt_waits():
        import peft  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    return torch


@contextmanager
def _interrupt_waits() -> Iterator[None]:
    """An interrupt in here comes right after it. Outside the main thread none comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before: Any = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *press: came.append(press))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])
