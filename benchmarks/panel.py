"""What watching costs the training: the worker's half of the panel, `make bench`. The kernel's is panel_kernel.py.

The figures are time on the processor in our own code, by the thread's own clock: on a busy machine the difference of
two runs says more about the machine. The driver is pretended, one GPU whose questions keep the processor (and the
interpreter, which a real one would let go) for as long as they were measured on an RTX 4090; the host's memory and
the process are asked for real. Then the demo model is trained with and without, in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

SAMPLING_BAR = 0.002  # of the time, for looking at memory
WORKER_BAR = 0.005  # of the time, for all that the worker does for whoever follows it
LOOKS = 300
BLOCK, BLOCKS = 60, 4  # steps in a turn, turns of each kind
# Seconds a question takes: the first two were measured (MangoHud pull request 2104); the others are taken to be ten
# times the slower of these.
CALLS = {
    "nvmlDeviceGetMemoryInfo": 11.6e-6,
    "nvmlDeviceGetUtilizationRates": 2.5e-6,
    "nvmlDeviceGetTemperature": 116e-6,
    "nvmlDeviceGetPowerUsage": 116e-6,
}
ALLOCATOR = 125e-6  # what torch's flat statistics take; the nested ones that are read take less


def told(name: str, share: float, bar: float) -> bool:
    """Print one share beside its bar; whether it is met."""
    print(f"  {name:54s}{share:8.3%}  bar {bar:.1%}: {'met' if share <= bar else 'missed'}")
    return share <= bar


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def pretended_allocator() -> dict[str, int]:
    busy(ALLOCATOR)
    return {"allocated": 3 << 30, "reserved": 4 << 30, "peak": 5 << 30}


def look(folder: Path, *, gpu: bool) -> float:
    """Seconds on the processor that one look at memory takes, its share of written events included."""
    from memory.pretended import one_t4

    from colab_magics.events import EventLog
    from colab_magics.memory.nvml import Cards
    from colab_magics.memory.sampling import Sampler

    seconds = 0.0

    def clock() -> float:
        return seconds

    path = folder / f"looks-{gpu}.jsonl"
    path.touch()
    log = EventLog(path, 1)
    devices = Cards(one_t4(CALLS), {}).read if gpu else list
    sampler = Sampler(log.append, devices, pretended_allocator if gpu else dict, clock=clock)
    sampler.sample()
    before = sampler.own_seconds
    for _ in range(LOOKS):
        seconds += 1.0
        sampler.sample()
    return (sampler.own_seconds - before) / LOOKS


class Trial:
    """The demo model at work, in turns of `BLOCK` steps."""

    def __init__(self, folder: Path) -> None:
        import numpy as np
        import torch

        from colab_magics.demo import model_path
        from colab_magics.events import EventLog
        from colab_magics.memory.estimate import peak
        from colab_magics.plan import Choice, DataFacts, Device, Verdict, make_plan
        from colab_magics.recipe import Recipe
        from colab_magics.training import attention
        from colab_magics.training.model import describe, load_model
        from colab_magics.training.quiet import quiet_libraries
        from colab_magics.training.source import open_model
        from colab_magics.training.task import make_task

        attention.register()
        random = np.random.default_rng(0)
        lengths = random.integers(16, 64, 400)
        documents = [(random.integers(10, 500, n).astype(np.int32), np.arange(n) >= n // 3) for n in map(int, lengths)]
        steps = 2 * BLOCK * BLOCKS + BLOCK
        recipe = Recipe(
            model=str(model_path()),
            data="rows.jsonl",
            method="lora",
            packing=False,
            max_steps=steps,
            learning_rate=1e-4,
        )
        source = open_model(recipe)
        facts = DataFacts(lengths.astype(np.int32), 0, Choice(256, "a benchmark"))
        verdict = Verdict("colab_magics", "probed", True, "probed", True, "probed")
        cpu = Device("cpu", "this CPU", 2**34, 2**33, 2**33)
        plan = make_plan(recipe, describe(source, recipe), cpu, facts, verdict, peak)
        device = torch.device("cpu")
        with quiet_libraries():
            model = load_model(source, recipe, plan, device)
        self.task, self.progress = make_task(model, recipe, plan, documents, None, device=device)
        (folder / "events.jsonl").touch()
        self.log = EventLog(folder / "events.jsonl", 1)
        self.path = folder / "events.jsonl"

    def turn(self) -> tuple[list[float], Any]:
        """Seconds of each step of the next turn, and what the loop says of it."""
        from colab_magics.training.loop import train

        times: list[float] = []

        def tell(kind: str, **fields: Any) -> None:
            if kind == "step":
                times.append(fields["seconds"])
            self.log.append(kind, **fields)

        end = self.progress.step + BLOCK
        outcome = train(self.task, self.progress, tell, lambda: "stop" if self.progress.step >= end else None)
        return times, outcome


@contextmanager
def watching(trial: Trial) -> Iterator[Any]:
    """A sampler as a worker with one GPU has it."""
    from memory.pretended import one_t4

    from colab_magics.memory.nvml import Cards
    from colab_magics.memory.sampling import Sampler

    sampler = Sampler(trial.log.append, Cards(one_t4(CALLS), {}).read, pretended_allocator)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def step_cost() -> float:
    """Seconds that the allocator's numbers add to a step of a CPU."""
    import torch

    from colab_magics.training.watch import allocator

    device = torch.device("cpu")
    begin = time.perf_counter()
    for _ in range(100_000):
        allocator(device)
    return (time.perf_counter() - begin) / 100_000


def main() -> None:
    met = True
    with tempfile.TemporaryDirectory(prefix="panel-") as name:
        folder = Path(name)
        print(f"looking at memory once a second ({LOOKS} looks; time on the processor)")
        for title, gpu in (("no GPU: host and process", False), ("one GPU (pretended driver), host and process", True)):
            seconds = look(folder, gpu=gpu)
            met &= told(f"{title}, {seconds * 1e3:.2f} ms a look", seconds, SAMPLING_BAR)
        print(f"  torch's numbers in a step event on a CPU: {step_cost() * 1e6:.2f} µs")

        trial = Trial(folder)
        trial.turn()  # the first steps are slower
        without: list[float] = []
        watched: list[float] = []
        own, elapsed, loop = 0.0, 0.0, 0.0
        for _ in range(BLOCKS):
            without += trial.turn()[0]
            with watching(trial) as sampler:
                times, outcome = trial.turn()
            watched += times
            own += sampler.own_seconds
            elapsed += outcome.seconds
            loop += outcome.own_seconds
    print(f"the demo model, {BLOCK * BLOCKS} steps with and {BLOCK * BLOCKS} without, in turns of {BLOCK}")
    before, after = statistics.median(without), statistics.median(watched)
    spread = statistics.quantiles(without, n=4)
    print(f"  a step: {before * 1e3:.1f} ms without, {after * 1e3:.1f} ms with (medians: {after / before - 1:+.1%};")
    print(f"  half of those without lie between {spread[0] * 1e3:.1f} and {spread[2] * 1e3:.1f} ms)")
    met &= told("sampling, of the time of the steps", own / elapsed, SAMPLING_BAR)
    met &= told("with the events and the orders of each step", (own + loop) / elapsed, WORKER_BAR)
    print(f"  (load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    if not met:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
