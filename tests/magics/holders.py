"""What keeps an object alive in a notebook after the cell that made it: each as cells that anybody writes.

`tests/magics/test_vram_free.py` and `benchmarks/release.py` run them in real kernels. `SETUP` comes first; each
scenario makes one `Held()`, to which the kernel keeps a weak reference only, and then `ALIVE` tells whether it lives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

SETUP = """
import weakref

class Held:
    '''Stands for a model: an object that can tell when it is gone.'''
    seen = []
    def __init__(self):
        Held.seen.append(weakref.ref(self))

def identity(function):
    return function

guard = identity

def innermost(held):
    activations = [held]
    raise RuntimeError("CUDA out of memory (pretended)")

@guard
def train_step():
    held = Held()
    innermost(held)
"""
ALIVE = "print('alive' if Held.seen[-1]() is not None else 'dead')"


@dataclass(frozen=True)
class Scenario:
    """One way to keep an object.

    Attributes
    ----------
    name : str
        What holds it, in words.
    cells : tuple of str
        What the user runs; the last one ends, with or without an error.
    free : str
        What he writes after `%vram free`.
    typed : tuple of str
        What he types into the debugger's prompt.
    """

    name: str
    cells: tuple[str, ...]
    free: str = ""
    typed: tuple[str, ...] = ()


def play(kernel: Any, scenario: Scenario) -> None:
    """Run its cells, and type what is to be typed."""
    for cell in scenario.cells:
        if cell == "%debug":
            time.sleep(0.3)  # for a moment after an error what comes is dropped, and would be waited for in vain
            sent = kernel.send(cell)
            for word in scenario.typed:
                kernel.client.get_stdin_msg(timeout=20)
                kernel.client.input(word)
            kernel.reply(sent)
        else:
            kernel.run(cell)


def lives(kernel: Any, cell: str = "") -> bool:
    """Whether the last scenario's object lives after `cell`, which is the one that follows."""
    reply = kernel.run(f"{cell}\n{ALIVE}")
    assert reply.status == "ok", reply.traceback
    return bool(reply.text.splitlines()[-1] == "alive")


FAILED = "train_step()"
CHAINED = """
try:
    train_step()
except RuntimeError as error:
    raise ValueError('step 3') from error
"""
WHILE_HANDLING = """
def handle():
    try:
        train_step()
    except RuntimeError:
        1 / 0
handle()
"""
GROUP = """
def grouped():
    try:
        train_step()
    except RuntimeError as error:
        raise ExceptionGroup('two', [error, ValueError()]) from None
grouped()
"""
CYCLE = """
def cyclic():
    held = Held()
    held.me, held.step = held, lambda: held
    1 / 0
guard(cyclic)()
"""
GENERATOR = """
def batches():
    held = Held()
    yield held
    yield held
def loop():
    source = batches()
    for one in source:
        innermost(one)
guard(loop)()
"""
INTERRUPTED = """
def stopped():
    held = Held()
    raise KeyboardInterrupt
guard(stopped)()
"""
KEPT = """
err = None
try:
    train_step()
except RuntimeError as e:
    err = e
"""
FINETUNE = """%%finetune nobody
model: demo
data: rows
max_length: none at all
"""
SCENARIOS = (
    Scenario("a failed cell", (FAILED,)),
    Scenario("a failed cell, another cell later", (FAILED, "1 + 1")),
    Scenario("two failed cells in a row", (FAILED, FAILED)),
    Scenario("raise ... from an error", (CHAINED,)),
    Scenario("an error in the handling of an error", (WHILE_HANDLING,)),
    Scenario("an ExceptionGroup", (GROUP,)),
    Scenario("a reference cycle in the failed frame", (CYCLE,)),
    Scenario("a generator, left half-way by the error", (GENERATOR,)),
    Scenario("%debug, left with q", (FAILED, "%debug"), typed=("up", "up", "p held", "q")),
    Scenario("an interrupted cell", (INTERRUPTED,)),
    Scenario("a failed %%finetune, and its data", ("rows = Held()", FINETUNE), free="rows"),
    Scenario("Out[N] of a deleted variable", ("model = Held()\nmodel", "del model"), free="Out"),
    Scenario("_, __, ___ of a value without a name", ("Held()", "1", "2"), free="Out"),
    Scenario("a variable that was shown", ("model = Held()\nmodel", "1"), free="model"),
    Scenario("two names and a container", ("model = Held()\nagain = model\nbox = [model]",), free="model again box"),
    Scenario("err = e, in the user's own code", (KEPT,), free="err"),
)
