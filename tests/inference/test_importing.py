"""What comes into the process with the first question."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.colab

INTERRUPTED = """
import os, signal, sys, threading, time
from colab_magics.inference.importing import import_torch

def press():
    while "torch" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
    while "torch.autograd" not in sys.modules:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
try:
    import_torch(print)
except KeyboardInterrupt:
    print("interrupted")
import torch
print(import_torch(print) is torch, hasattr(torch, "autograd"), "peft" in sys.modules)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_an_interrupt_waits_until_torch_is_whole_and_the_next_line_has_it() -> None:
    """In a terminal, where there is no %vram to speak of."""
    made = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300, check=False)
    assert made.stdout.splitlines() == [
        "torch and the model come into this process now.",
        "interrupted",
        "True True True",
        "True",
    ], made.stderr
