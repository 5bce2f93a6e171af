"""The figures of docs/memory.md on `%vram estimate`: `python benchmarks/memory COMMAND`. No GPU is needed, or used.

grid       the closed formula against traces
allocator  traces against what torch's CPU allocator gives out in real trainings
modules    traces of modules that are no language model, against the same allocator
layers     traces of a few layers against traces of all
seconds    how long an answer takes
published  predictions against what others have measured on GPUs
peers      beside accelerate estimate-memory, TRL and Unsloth
notes      beside the traces that the first formula was fitted to
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib import import_module
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false", KINETO_LOG_LEVEL="99"
)  # read by torch
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # a checkout that is not installed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/memory", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    grid = commands.add_parser("grid")
    grid.add_argument("--processes", type=int, default=1)
    grid.add_argument("--only", default="", help="a part of a group's name")
    grid.add_argument("--verbose", action="store_true", help="every case")
    grid.add_argument("--quick", action="store_true", help="the two small models, up to 2,048 tokens")
    allocator = commands.add_parser("allocator")
    allocator.add_argument("--quick", action="store_true", help="two models")
    allocator.add_argument("--only", default="", help="one model")
    commands.add_parser("modules")
    layers = commands.add_parser("layers")
    layers.add_argument("--quick", action="store_true", help="one model")
    seconds = commands.add_parser("seconds")
    seconds.add_argument("--times", type=int, default=3)
    commands.add_parser("published")
    commands.add_parser("peers")
    commands.add_parser("notes")
    options = vars(parser.parse_args())
    begin = time.monotonic()
    missed = import_module(options.pop("command")).main(**options)
    print(f"{time.monotonic() - begin:.0f} s")
    return missed


if __name__ == "__main__":
    sys.exit(main())
