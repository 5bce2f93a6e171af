"""What of a failed cell's objects is dead in the very next cell, by what that cell does: the table of docs/memory.md.

    .venv/bin/python benchmarks/release.py          today's IPython
    .venv-colab/bin/python benchmarks/release.py    Colab's

Real kernels of the Python it is run with, one a recipe; each scenario makes one object, to which only a weak reference
is kept. The recipes are written after what their authors say of them: fastai's and minai's `clean_mem` clears the input
history, the frames of `sys.last_traceback` and `sys.last_*`, then collects; ipyexperiments' decorator clears the
frames of an error while it passes, so that it must stand on the function before it fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import IPython  # noqa: E402
from magics.conftest import Kernel  # noqa: E402
from magics.holders import SCENARIOS, SETUP, Scenario, lives, play  # noqa: E402

COLLECT = """
import gc, sys
gc.collect()
if 'torch' in sys.modules: sys.modules['torch'].cuda.empty_cache()
"""
CLEAN_MEM = """
import gc, sys, traceback

def clean_history():
    shell = get_ipython()
    names = shell.user_ns
    for number in range(shell.execution_count + 1):
        names.pop('_i' + repr(number), None)
    names.update(_i='', _ii='', _iii='')
    history = shell.history_manager
    history.input_hist_parsed[:] = [''] * len(history.input_hist_parsed)
    history.input_hist_raw[:] = [''] * len(history.input_hist_raw)
    history._i = history._ii = history._iii = history._i00 = ''

def clean_traceback():
    if hasattr(sys, 'last_traceback'):
        traceback.clear_frames(sys.last_traceback)
        del sys.last_traceback
    for name in ('last_type', 'last_value'):
        if hasattr(sys, name):
            delattr(sys, name)

clean_traceback()
clean_history()
gc.collect()
if 'torch' in sys.modules: sys.modules['torch'].cuda.empty_cache()
"""
CLEAR_FRAMES = """
import functools, sys, traceback

def guard(function):
    @functools.wraps(function)
    def guarded(*arguments, **options):
        try:
            return function(*arguments, **options)
        except BaseException as error:
            traceback.clear_frames(sys.exc_info()[2])
            raise error from None
    return guarded

train_step = guard(train_step)
"""


@dataclass(frozen=True)
class Recipe:
    """What a user does about it: once at the start, and in the cell after the failure."""

    name: str
    cell: Callable[[Scenario], str]
    before: str = ""


def with_del(recipe: str) -> Callable[[Scenario], str]:
    """A recipe, and `del` of the names that our line would have been given: it knows none itself."""
    return lambda one: "".join(f"del {name}\n" for name in one.free.split() if name != "Out") + recipe


RECIPES = (
    Recipe("nothing", with_del("")),
    Recipe("collect, empty_cache", with_del(COLLECT)),
    Recipe("clean_mem", with_del(CLEAN_MEM)),
    Recipe("clear_frames", with_del(COLLECT), before=CLEAR_FRAMES),
    Recipe("%vram free", lambda one: f"%vram free {one.free}"),
)


def column(recipe: Recipe) -> list[bool]:
    """Of each scenario, whether its object is dead at the end of the next cell."""
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "IPYTHONDIR": folder}
        kernel = Kernel(Path(folder), environment)
        try:
            kernel.run(SETUP)
            if recipe.before:
                kernel.run(recipe.before)
            dead = []
            for scenario in SCENARIOS:
                play(kernel, scenario)
                dead.append(not lives(kernel, recipe.cell(scenario)))
            return dead
        finally:
            kernel.close()


def main() -> None:
    how = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=how).parse_args()
    found = [column(recipe) for recipe in RECIPES]
    print(f"IPython {IPython.__version__}, Python {platform.python_version()}: dead in the very next cell\n")
    print(f"| what held the object | {' | '.join(recipe.name for recipe in RECIPES)} |")
    print("|---" * (len(RECIPES) + 1) + "|")
    for row, scenario in enumerate(SCENARIOS):
        print(f"| {scenario.name} | {' | '.join('dead' if dead[row] else 'lives' for dead in found)} |")
    print(f"| **dead of {len(SCENARIOS)}** | {' | '.join(str(sum(dead)) for dead in found)} |")
    if not all(found[-1]):
        raise SystemExit("%vram free has left something alive")


if __name__ == "__main__":
    main()
