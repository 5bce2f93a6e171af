"""Tokens per CPU-second of our training loop beside its peers': `make bench`, or with --quick to see that it runs.

Same weights, same tokenised rows, same order, same samples a step; the peers alternate step by step, in processes of
their own with one thread each. First their losses are compared, then their speed: a figure is the ratio of CPU time
over the same steps, with a 95% bootstrap interval over the steps. A bar is missed only when the whole interval is
below it: two runs of the same loop differ by 10% on a shared machine.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import numpy as np
from cases import (
    CASES,
    LEARNING_RATE,
    LORA,
    MAX_LENGTH,
    ROWS,
    SAMPLES_A_STEP,
    SEED,
    Case,
    Documents,
    describe,
    write_documents,
    write_model,
)
from peers import Baton, Enough, Job, Peer, handwritten, ours, trl

from colab_magics.training.batches import Order

FORK = multiprocessing.get_context("fork")
STEPS = 20
FEW = 4  # steps of a peer that is many times slower; a ratio of 10 needs no more
LOSSES_AGREE = 1e-3
BEST = {"bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "disable_tqdm": True}
# What oneDNN may use of the CPU. AMX is left out: some virtual machines announce it and die of it.
BF16, NO_BF16 = "AVX512_CORE_BF16", "AVX512_CORE_VNNI"
PEERS: dict[str, Peer] = {
    "ours": ours("auto"),
    "handwritten, packed": handwritten(8, packed=True),
    "handwritten, sorted": handwritten(4, packed=False),
    "TRL best, packed": trl(4, packed=True, **BEST),
    "TRL defaults": trl(8, packed=False, instructions=BF16),
    "TRL defaults, no bf16 instructions": trl(8, packed=False, instructions=NO_BF16),
}
SLOW = ("TRL defaults", "TRL defaults, no bf16 instructions")


@dataclass(frozen=True)
class Bar:
    """Ours against the fastest of the peers whose name starts with `peers`: at least `least` times it."""

    title: str
    peers: str
    least: float | None


BARS = (
    Bar("TRL 1.16 at its defaults, no bf16 instructions", "TRL defaults, no", 8.0),
    Bar("TRL 1.16 at its defaults, AVX512_BF16", "TRL defaults", None),
    Bar("TRL 1.16 at its best: fp32, no checkpointing", "TRL best", 2.0),
    Bar("the best handwritten loop", "handwritten", 0.95),
)


@dataclass
class Runner:
    """A peer at work in its own process, and what each of its steps took."""

    name: str
    process: Any
    connection: Connection
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, job: Job, others: list[Runner]) -> Runner:
        mine, its = FORK.Pipe()
        held = [mine, *(runner.connection for runner in others)]  # by its copy of this process, until it lets go
        process = FORK.Process(target=_run, args=(PEERS[name], job, its, held), daemon=True)
        process.start()
        its.close()
        return cls(name, process, mine)

    def step(self) -> None:
        self.connection.send(True)
        try:
            self.steps.append(self.connection.recv())
        except (EOFError, ConnectionError):
            raise SystemExit(f"{self.name} ended early; its error is above.") from None

    def stop(self) -> None:
        with suppress(ConnectionError):
            self.connection.send(False)
        self.process.join()


def _run(peer: Peer, job: Job, connection: Connection, held: list[Connection]) -> None:
    for one in held:
        one.close()  # or a peer would wait for ever where the benchmark has died
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        peer(job, Baton(connection))
    except (Enough, EOFError):
        pass
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(0)  # no peer's atexit hook delays or fails the benchmark


def measure(case: Case, steps: int, names: tuple[str, ...]) -> None:
    """Run the peers in turn, step by step, and print what came out."""
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        _in_a_process(write_model, case, Path(folder))
        _in_a_process(write_documents, case, Path(folder) / "documents.npz")
        documents = Documents(Path(folder) / "documents.npz")
        order = [ids for _, ids in Order(len(documents), SAMPLES_A_STEP, SEED).steps(0, steps)]
        tokens = np.array([sum(len(documents[id_][0]) for id_ in ids) for ids in order])
        print(f"\n{describe(case)}\n  {tokens.sum()} tokens in {steps} steps of {SAMPLES_A_STEP} samples", flush=True)
        runners: list[Runner] = []
        for name in names:
            runners.append(Runner.start(name, Job(case, Path(folder), order), runners))
        try:
            for step in range(steps):
                turn = step % len(runners)  # nobody always comes after the same neighbour
                for runner in runners[turn:] + runners[:turn]:
                    if step < FEW or runner.name not in SLOW:
                        runner.step()
        finally:
            for runner in runners:
                runner.stop()
    _print_losses(runners)
    _print_speed(runners, tokens)


def _in_a_process(work: Callable[..., None], *arguments: Any) -> None:
    """Anything that computes: a process which has run a torch operation must not be forked."""
    process = FORK.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def _losses(runner: Runner) -> list[float]:
    # TRL logs a step after its end, so its first report has no loss, and its last step's comes with the end.
    return [step["loss"] for step in runner.steps if step["loss"] is not None]


def _print_losses(runners: list[Runner]) -> None:
    ours_, *others = [runner for runner in runners if "defaults" not in runner.name]
    reference = _losses(ours_)
    for runner in others:
        pairs = list(zip(reference, _losses(runner), strict=False))
        off = max(abs(a - b) for a, b in pairs)
        verdict = "agree" if off < LOSSES_AGREE else "DO NOT AGREE"
        print(f"  losses {verdict} with {runner.name} over {len(pairs)} steps: at most {off:.1e} apart")


def _print_speed(runners: list[Runner], tokens: np.ndarray) -> None:
    cpu = {runner.name: np.array([step["cpu"] for step in runner.steps[1:]]) for runner in runners}
    for name, seconds in cpu.items():
        print(f"  {name:36s}{tokens[1 : len(seconds) + 1].sum() / seconds.sum():8.0f} tokens per CPU-second")
    ours_ = runners[0]
    print(f"  ours: {ours_.steps[0]['said']}")
    for bar in BARS:
        if not any(name.startswith(bar.peers) for name in cpu):
            continue
        peer = _fastest(cpu, bar.peers)
        ratio, low, high = interval(cpu[peer], cpu[ours_.name][: len(cpu[peer])])
        verdict = "" if bar.least is None else f"  bar {bar.least:g}x: {'missed' if high < bar.least else 'met'}"
        print(f"  ours / {peer}: {ratio:.2f}x [{low:.2f}, {high:.2f}]{verdict}  ({bar.title})")
    spent = np.array([[*step["own"], step["wall"], step["cpu"]] for step in ours_.steps[1:]]).sum(0)
    share = 100 * spent[:2] / spent[2:]
    verdict = "met" if share.max() <= 1.0 else "missed"
    print(
        f"  event log and control: {share[0]:.3f}% of a step's time, {share[1]:.3f}% of its CPU  bar 1%: {verdict}",
        flush=True,
    )


def _fastest(cpu: dict[str, np.ndarray], prefix: str) -> str:
    """Over the steps that all of them did."""
    names = [name for name in cpu if name.startswith(prefix)]
    return min(names, key=lambda name: cpu[name][: min(len(cpu[other]) for other in names)].sum())


def interval(theirs: np.ndarray, mine: np.ndarray, draws: int = 10_000) -> tuple[float, float, float]:
    """(ratio, low, high): CPU time of theirs over mine on the same steps, with its 95% bootstrap interval."""
    random = np.random.default_rng(0)
    picked = random.integers(0, len(mine), (draws, len(mine)))
    ratios = theirs[picked].sum(1) / mine[picked].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(theirs.sum() / mine.sum()), float(low), float(high)


def machine() -> str:
    """The CPU and those of its flags that decide how fast bf16 and fp32 are."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next(
        (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    flags = next((line.split(":")[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    shown = [f"{flag} {'yes' if flag in flags else 'no'}" for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")]
    return f"{name}, {os.cpu_count()} cores; {', '.join(shown)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes and five steps: to see that it runs")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--no-trl", action="store_true", help="without TRL, which takes most of the time")
    options = parser.parse_args()
    if not ROWS.is_dir():
        raise SystemExit(
            f"The rows and tokenizers of this benchmark live beside the repository, and are not at {ROWS}."
        )
    libraries = ["torch", "transformers", "peft", "datasets"] + ["trl"] * (not options.no_trl)
    for library in libraries:  # once, before any process is forked; nothing is computed here
        importlib.import_module(library)
    print(machine())
    versions = ", ".join(f"{library} {metadata.version(library)}" for library in libraries)
    print(f"{versions}; fp32, 1 thread a process; load of the machine before: {os.getloadavg()[0]:.1f}")
    print(f"rows: alpaca_en_1k.json, cut at {MAX_LENGTH} tokens; learning rate {LEARNING_RATE}; LoRA {LORA}")
    names = tuple(name for name in PEERS if not (options.no_trl and name.startswith("TRL")))
    for case in CASES:
        if options.case not in (None, case.name):
            continue
        if options.quick:
            measure(replace(case, layers=2, width=32), 5, names)
        else:
            measure(case, STEPS, names)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
