"""What keeps an object alive in a notebook after the cell that made it: each as cells that anybody writes.

`tests/magics/test_vram_free.py` and `benchmarks/release.py` run them in real kernels. `SETUP` comes first; each
scenario makes one `Held()`, to which the kernel keeps a weak reference only, and then `ALIVE` tells whether it lives.
"""

from __future__ import annotations

from dataclasses import dataclass

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


FAILED = "train_step()"
SCENARIOS = (
    Scenario("a failed cell: sys.last_*, InteractiveTB, last_execution_result", (FAILED,)),
    Scenario("a failed cell, two cells later", (FAILED, "1 + 1")),
    Scenario("two failed cells in a row", (FAILED, FAILED)),
    Scenario(
        "raise ... from ... in an except block",
        ("try:\n    train_step()\nexcept RuntimeError as error:\n    raise ValueError('step 3') from error",),
    ),
    Scenario(
        "an error inside the handling of an error",
        ("def handle():\n    try:\n        train_step()\n    except RuntimeError:\n        1 / 0\nhandle()",),
    ),
    Scenario(
        "an ExceptionGroup",
        (
            "errors = []\ntry:\n    train_step()\nexcept RuntimeError as error:\n    group = [error]\n"
            "held_by_group, group = group, None\nraise ExceptionGroup('two', [held_by_group.pop(), ValueError()])",
        ),
    ),
    Scenario(
        "a reference cycle in the failed frame",
        (
            "def cyclic():\n    held = Held()\n    held.me = held\n    held.step = lambda: held\n    1 / 0\n"
            "guard(cyclic)()",
        ),
    ),
    Scenario(
        "a generator that the error ended half-way",
        (
            "def batches():\n    held = Held()\n    yield held\n    yield held\n"
            "def loop():\n    source = batches()\n    for one in source:\n        innermost(one)\n"
            "guard(loop)()",
        ),
    ),
    Scenario("%debug, left with q", (FAILED, "%debug"), typed=("up", "up", "p held", "q")),
    Scenario("a failed cell that was interrupted", ("def stopped():\n    held = Held()\n    raise KeyboardInterrupt\n"
             "guard(stopped)()",)),
    Scenario("Out[N], after del", ("model = Held()\nmodel", "del model"), free="Out"),
    Scenario("_, __ and _N of a value without a name", ("Held()", "1", "2"), free="Out"),
    Scenario("a variable, shown", ("model = Held()\nmodel", "1"), free="model"),
    Scenario("two variables and a container", ("model = Held()\nagain = model\nbox = {'model': [model]}",),
             free="model again box"),
    Scenario("err = e, by the user's own code",
             ("err = None\ntry:\n    train_step()\nexcept RuntimeError as e:\n    err = e",), free="err"),
)  # fmt: skip
