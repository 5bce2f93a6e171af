"""What the worker's care for memory costs: `python benchmarks/oom.py`.

The record of an out-of-memory on a pretended allocator of 50,000 live blocks (our part alone: listing them is
torch's), what a step's event needs of the micro-batches, and how much longer a forward and backward takes under a CPU's
`max_memory`, whose malloc gives every large block back at once.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from colab_magics.training.batches import Sample
from colab_magics.training.cap import cap_host
from colab_magics.training.oom_record import Observer
from colab_magics.training.oom_told import Flight

BLOCKS = 50_000
ROUNDS = 15


def milliseconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """The median of this process's own time."""
    work()
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - begin))
    return statistics.median(taken)


def record() -> float:
    """An observer's call, with blocks of 4,000 sizes."""
    sizes = [512 * (1 + number % 4000) for number in range(BLOCKS)]
    blocks = [{"size": size, "requested_size": size, "state": "active_allocated", "frames": []} for size in sizes]
    counters = {"all": {"current": BLOCKS}}
    stats = dict.fromkeys(("active", "allocated_bytes", "reserved_bytes", "inactive_split_bytes"), counters)
    torch.cuda.memory.memory_stats_as_nested_dict = lambda _device: {**stats, "num_alloc_retries": 0}
    torch.cuda.memory_snapshot = lambda: [{"device": 0, "blocks": blocks}]
    return milliseconds(lambda: Observer()(0, 1, 1, 1))


def told() -> float:
    """The tokens in memory of a step of 64 documents, one at a time."""
    tokens = np.zeros(512, np.int32)
    samples = [Sample(number, tokens, tokens, tokens, 512) for number in range(64)]

    def step() -> None:
        flight = Flight()
        for sample in samples:
            flight.takes([sample], packed=False)

    return milliseconds(step, 200)


def layers(width: int) -> float:
    """Forward and backward of 1,024 tokens through four gated layers of that width and 2,048 inside."""
    torch.set_num_threads(1)
    start = torch.randn(1024, width, requires_grad=True)
    wide, narrow = torch.randn(2048, width), torch.randn(width, 2048)

    def step() -> None:
        hidden = start
        for _ in range(4):
            gate, up = torch.nn.functional.silu(hidden @ wide.T), hidden @ wide.T
            hidden = hidden + (gate * up) @ narrow.T * 1e-4
        hidden.sum().backward()

    return milliseconds(step)


def main() -> None:
    if sys.argv[1:]:
        way, width = sys.argv[1:]
        if way == "capped":
            cap_host(2**33).for_training(0)
        print(layers(int(width)))
        return
    print(f"the record of {BLOCKS:,} blocks: {record():.0f} ms")
    print(f"what a step of 64 micro-batches tells more: {told():.2f} ms")
    for width in ("128", "1024"):
        free, capped = (
            float(subprocess.run([sys.executable, __file__, way, width], check=True, stdout=subprocess.PIPE).stdout)
            for way in ("free", "capped")
        )
        times = f"{capped / free:.2f} times ({free:.0f} ms -> {capped:.0f} ms)"
        print(f"under max_memory on a CPU, layers of width {width}: {times}")


if __name__ == "__main__":
    main()
