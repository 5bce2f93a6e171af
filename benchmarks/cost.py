"""What checkpoints cost, and what they are worth: `python benchmarks/cost.py`.

Stalls are measured on the training thread while the checkpoint before is still being written, as in a run that saves
too often; the share is that of the automatic interval for the p99 of these stalls. Seconds from `resume` to the first
new step are those of a real worker. Goodput is computed from measured stalls, for sessions that end without a word.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from colab_magics import worker
from colab_magics.checkpoints.interval import best_interval
from colab_magics.checkpoints.verify import entries, verify
from colab_magics.magics.starting import write_inputs
from colab_magics.recipe import parse
from colab_magics.run import Run
from colab_magics.training.batches import Order
from colab_magics.training.loop import Progress, Task
from colab_magics.training.oom import Arrangement
from colab_magics.training.saving import Every, Saver
from colab_magics.training.state import put_back, read_saved

HOURS = 3600.0


class AdapterOfQwen3With4B(nn.Module):
    """The weights of a LoRA adapter (r 16, all projections) in the shapes of Qwen3-4B: 33 million numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = GPT2Config()
        sizes = [(2560, 4096), (2560, 1024), (2560, 1024), (4096, 2560), (2560, 9728), (2560, 9728), (9728, 2560)]
        for layer in range(36):
            for number, (into, out) in enumerate(sizes):
                self.register_parameter(f"l{layer}_{number}_A", nn.Parameter(torch.randn(16, into)))
                self.register_parameter(f"l{layer}_{number}_B", nn.Parameter(torch.zeros(out, 16)))


def task_of(model: nn.Module) -> tuple[Task, Progress]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    task: Any = Task(
        model=model,
        loss=lambda batch: batch,  # type: ignore[arg-type]
        optimizer=optimizer,
        schedule=schedule,
        scaler=None,
        device=torch.device("cpu"),
        autocast=None,
        documents=[],
        eval_documents=None,
        order=Order(1000, 8, 0),
        total_steps=1000,
        max_grad_norm=1.0,
        eval_steps=None,
        early_stopping=None,
    )
    return task, Progress(Arrangement(1, False, False, 64))


def saves(name: str, model: nn.Module, count: int, folder: Path) -> tuple[float, float]:
    """Take `count` checkpoints one after the other; prints what they cost and returns (p99 stall, write seconds)."""
    task, progress = task_of(model)
    told: list[dict[str, Any]] = []
    saver = Saver(
        folder=folder,
        task=task,
        progress=progress,
        run="cost",
        attempt=1,
        every=Every(steps=1),
        limit=1,
        facts={},
        state={},
        on_event=lambda kind, **fields: told.append({"kind": kind, **fields}),
    )
    stalls = []
    for step in range(1, count + 1):
        progress.step = step
        saver.wait()  # in a run the interval is longer than a write: waiting for the last one is no part of a stall
        begin = time.perf_counter()
        saver.now("steps")
        stalls.append(time.perf_counter() - begin)
    saver.wait()
    written = [event for event in told if event.get("action") == "saved"]
    assert len(written) == count, told
    size, seconds = written[-1]["bytes"], statistics.median(event["seconds"] for event in written)
    later = sorted(stalls[1:])  # the first one makes the host's memory
    p50, p99 = statistics.median(later), later[min(len(later) - 1, int(0.99 * len(later)))]
    newest = next(entry for entry in entries(folder / "checkpoints"))
    begin = time.perf_counter()
    verify(newest.folder, disk_cache=False)
    checked = time.perf_counter() - begin
    begin = time.perf_counter()
    put_back(task, progress, read_saved(newest.folder))
    loaded = time.perf_counter() - begin
    every = best_interval(p99)
    print(
        f"{name}: {size / 2**20:,.1f} MiB, {count} saves\n"
        f"  stall p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms (the first {stalls[0] * 1000:.1f} ms); "
        f"at the automatic interval of {every:.0f} s: {p99 / every:.3%} of the time (bar 1%)\n"
        f"  beside the training: write, flush, read back in {seconds:.2f} s ({size / seconds / 2**20:,.0f} MiB/s)\n"
        f"  at a resume: every byte checked in {checked:.2f} s, put back in {loaded:.2f} s",
        flush=True,
    )
    return p99, seconds


def resume_seconds(folder: Path, times: int) -> list[float]:
    """Seconds from the start of a worker that resumes the demo to its first new step, imports and all."""
    run = folder / "demo"
    run.mkdir()
    body = "model: demo\ndata: demo\nmax_steps: 100000\nsave_every: 5 steps\neffective_batch_size: 2"
    write_inputs(run, parse(body).recipe, {})
    seconds = []
    for attempt in range(1, times + 2):
        begin = time.perf_counter()
        arguments = ("--resume", str(run / "checkpoints")) if attempt > 1 else ()
        process = worker.spawn(run, attempt, arguments=arguments)
        while not any(event["kind"] == "step" and event["attempt"] == attempt for event in Run(run).events()):
            time.sleep(0.02)
        if attempt > 1:
            seconds.append(time.perf_counter() - begin)
        while not entries(run / "checkpoints"):
            time.sleep(0.02)
        worker.kill(run)
        process.wait()
    return seconds


def sessions(seed: int) -> Iterator[float]:
    """Lengths of sessions, 40 minutes to 12 hours, short ones as likely as long ones on a scale of ratios."""
    draw = random.Random(seed)
    while True:
        yield 0.7 * HOURS * (12 / 0.7) ** draw.random()


def goodput(work: float, every: float, stall: float, start: float, seed: int) -> float:
    """Share of the machine's time that became training that was kept.

    Parameters
    ----------
    work : seconds of training in the job
    every, stall, start : seconds between saves, lost at each, and from a session's begin to its first new step
    """
    done, spent = 0.0, 0.0
    for length in sessions(seed):
        left = length - start
        spent += min(length, start)
        saved = 0.0
        while left > 0 and done + saved < work:
            stretch = min(every, work - done - saved)
            if left < stretch + stall:
                spent += left
                left = 0
                break
            left -= stretch + stall
            spent += stretch + stall
            saved += stretch
        done += saved
        if done >= work - 1e-9:
            return work / spent
        if spent > 400 * work:
            return 0.0
    raise AssertionError("sessions never end")


def compare_goodput(stall: float, write: float, start: float) -> None:
    """Ours at the automatic interval, HF Trainer at save_steps=500, on the same sessions."""
    every = best_interval(stall)
    print(
        "goodput for sessions of 40 min to 12 h that end without a word (200 jobs each; first new step after "
        f"{start:.0f} s for both)\n  ours: a save every {every:.0f} s, stall {stall:.3f} s; "
        f"HF Trainer: every 500 steps, {write:.2f} s each,\n"
        "  on the training thread, and somebody who picks an older checkpoint where the newest is torn"
    )
    for hours in (2, 8, 24):
        for step in (1.0, 5.0):
            work = hours * HOURS
            ours = statistics.mean(goodput(work, every, stall, start, seed) for seed in range(200))
            theirs = [goodput(work, 500 * step, write, start, seed) for seed in range(200)]
            print(
                f"  a job of {hours:2} h, {step:.0f} s a step: ours {ours:.1%}, "
                f"HF Trainer {statistics.mean(theirs):.1%}"
                f" ({(1 - statistics.mean(theirs)) / max(1e-9, 1 - ours):.1f} times the waste)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--saves", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases: dict[str, Any] = {
        "a small model": lambda: GPT2LMHeadModel(
            GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=800, bos_token_id=0, eos_token_id=0)
        ),
        "LoRA r 16 of Qwen3-4B, by its shapes": AdapterOfQwen3With4B,
        "GPT-2 124M, all weights": lambda: GPT2LMHeadModel(GPT2Config()),
    }
    stall = write = 0.0
    for name, make in cases.items():
        folder = Path(tempfile.mkdtemp(prefix="cost-"))
        try:
            found = saves(name, make(), options.saves, folder)
            if "Qwen3-4B" in name:
                stall, write = found
        finally:
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix="cost-") as place:
        os.environ["COLAB_MAGICS_CACHE"] = str(Path(place) / "cache")
        seconds = resume_seconds(Path(place), 3)
    print(
        f"from resume to the first new step (the demo, a cold process): {', '.join(f'{one:.1f} s' for one in seconds)}"
    )
    compare_goodput(stall, write, 60.0)


if __name__ == "__main__":
    main()
