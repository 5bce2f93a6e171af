"""How long an answer takes: a trace from its process's start to its answer, and the formula."""

from __future__ import annotations

import json
import os
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cases import Case, show_progress, table
from models import config_of

from colab_magics.hub import read_config
from colab_magics.memory.architecture import shape_of
from colab_magics.memory.estimate import estimate
from colab_magics.memory.prediction import fixed_lengths
from colab_magics.memory.traced import traces

BAR = 20.0  # seconds, for Qwen3-14B
MODELS = ("gpt2", "Llama-3.2-1B", "Qwen3-4B", "Qwen3-14B")
_CALLS = 2000


def main(*, times: int) -> int:
    cases = {model: Case(model, "qlora", 1, 1024 if model == "gpt2" else 2048, checkpointing=True) for model in MODELS}
    waited: dict[str, list[float]] = {model: [] for model in MODELS}
    worked: dict[str, list[float]] = {model: [] for model in MODELS}
    formula: dict[str, list[float]] = {model: [] for model in MODELS}
    for turn in range(times):  # by turns, so that a busy minute of the machine hits all of them
        for number, (model, case) in enumerate(cases.items(), 1):
            show_progress(turn * len(cases) + number, times * len(cases), model)
            wall, cpu = _trace(case)
            waited[model].append(wall)
            worked[model].append(cpu)
            formula[model].append(_formula(case))
    rows = [
        (model, f"{statistics.median(waited[model]):.1f}", f"{max(waited[model]):.1f}",
         f"{statistics.median(worked[model]):.1f}",
         f"{statistics.median(formula[model]) * 1e6:.0f}")
        for model in MODELS
    ]  # fmt: skip
    print(
        table(
            ("QLoRA, 2,048 tokens (gpt2: 1,024)", "traced, s (median)", "(longest)", "CPU, s", "by formula, µs"), rows
        )
    )
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{times} times each, by turns; {len(os.sched_getaffinity(0))} cores, load {load} over 1, 5 and 15 minutes")
    found = statistics.median(waited["Qwen3-14B"])
    print(f"\nbar: Qwen3-14B within {BAR:.0f} s: {'met' if found <= BAR else 'missed'}")
    return int(found > BAR)


def _trace(case: Case) -> tuple[float, float]:
    """(seconds, CPU seconds) as `%vram estimate` asks: a new process, nothing kept from before."""
    with tempfile.TemporaryDirectory(prefix="seconds-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_of(case.model)), encoding="utf-8")
        model = read_config(folder)
        recipe = replace(case.recipe, model=folder)
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        traces(model, recipe, [case.on], fixed_lengths(case.length))
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _formula(case: Case) -> float:
    """Seconds of one call, from a config to a peak."""
    config, setup = config_of(case.model), case.planned.setup
    begin = time.perf_counter()
    for _ in range(_CALLS):
        estimate(shape_of(config), setup)
    return (time.perf_counter() - begin) / _CALLS
