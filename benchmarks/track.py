"""What `run.log` costs a step, beside a bare loop, tqdm, and a writer of CSV lines: `python benchmarks/track.py`.

All go in turns over the same steps, so that a busy machine is busy for each. A step is a sleep, and what is measured is
time on the processor, by the thread's own clock: on a busy machine a difference of wall times says more about the
machine. The figures are the median difference to the bare loop of the same turn. `log` is measured with everything
that it does in that time, but for its first call, which reads the session's table, and for the panel's frames, which
are drawn twice a second at first and then every 5 s, and are told apart, as the time of one frame.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BAR = 20e-6  # seconds a step, on average
TURNS = 9


def wait(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


def bare(steps: int, seconds: float, _: Path) -> None:
    for _ in range(steps):
        wait(seconds)


def tqdm_loop(steps: int, seconds: float, _: Path) -> None:
    from tqdm import tqdm

    with Path(os.devnull).open("w") as nowhere, tqdm(total=steps, file=nowhere) as bar:
        for number in range(steps):
            wait(seconds)
            bar.set_postfix(loss=1 / (1 + number), refresh=False)
            bar.update()


def csv_loop(steps: int, seconds: float, folder: Path) -> None:
    """A logger of the usual kind: a row a step with the time, flushed so that a kill loses none."""
    with (folder / "figures.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for number in range(steps):
            wait(seconds)
            writer.writerow([number, time.time(), 1 / (1 + number), 64])
            file.flush()


def track_loop(steps: int, seconds: float, folder: Path) -> None:
    import colab_magics

    name = f"loop-{time.monotonic_ns()}"
    state = {"n": 0}
    tracked = colab_magics.track(name, state, total=64 * steps, root=folder, panel="off", replica="none")
    with tracked as run:
        run.log(loss=1.0, tokens=64)
        begin = time.thread_time()
        for number in range(steps):
            wait(seconds)
            run.log(loss=1 / (1 + number), tokens=64)
        run.flush()
        track_loop.seconds = time.thread_time() - begin  # type: ignore[attr-defined]


def timed(loop: Callable[[int, float, Path], None], steps: int, seconds: float, folder: Path) -> float:
    begin = time.thread_time()
    loop(steps, seconds, folder)
    # beginning and ending a run (its checkpoint, its folder) is no cost of a step
    return track_loop.seconds if loop is track_loop else time.thread_time() - begin  # type: ignore[attr-defined]


def frame() -> tuple[float, float]:
    """Seconds that one frame of the panel takes, as HTML and text, of a loop of 1,000 events; and one event in it."""
    from colab_magics.magics.display import bundle
    from colab_magics.magics.moments import now_at
    from colab_magics.panel.state import PanelState

    state = PanelState(name="loop").fold({"kind": "started", "made_by": "track", "unit": "tokens", "total": 64_000})
    folded = time.perf_counter()
    for step in range(1, 1001):
        figures = {
            "step": step,
            "phase_step": step,
            "loss": 1 / step,
            "unit": "tokens",
            "done": 64 * step,
            "total": 64_000,
        }
        state = state.fold({"kind": "step", "attempt": 1, "per_second": 1000.0, **figures})
    folded = (time.perf_counter() - folded) / 1000
    took = []
    for _ in range(50):
        begin = time.perf_counter()
        bundle(state, now_at(state))
        took.append(time.perf_counter() - begin)
    return statistics.median(took), folded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    loops = {"tqdm": tqdm_loop, "a CSV line": csv_loop, "run.log": track_loop}
    met = True
    with tempfile.TemporaryDirectory(prefix="track-") as name:
        folder = Path(name)
        print("microseconds a step beside a bare loop: the median of", turns, "turns (the smallest and largest)")
        for seconds, steps in ((0.0, 20_000), (100e-6, 10_000), (1e-3, 1500), (10e-3, 150), (100e-3, 12)):
            costs: dict[str, list[float]] = {title: [] for title in loops}
            for turn in range(turns):
                without = timed(bare, steps, seconds, folder)
                for title in [*loops][turn % len(loops) :] + [*loops][: turn % len(loops)]:
                    costs[title].append((timed(loops[title], steps, seconds, folder) - without) / steps)
            told = "   ".join(
                f"{title} {statistics.median(one) * 1e6:6.1f} ({min(one) * 1e6:.1f} to {max(one) * 1e6:.1f})"
                for title, one in costs.items()
            )
            ours = statistics.median(costs["run.log"])
            # a turn of the log, twice a second, is a step's own where steps are as long as that
            met &= ours <= BAR or ours <= 0.001 * seconds
            print(f"  a step of {seconds * 1e3:5.1f} ms: {told}")
        one, event = frame()
    print(
        f"  a frame of the panel: {one * 1e3:.1f} ms, {one / 0.5:.2%} of the first minute, {one / 5:.2%} after ten; ",
        end="",
    )
    print(f"an event in it, at most two a second: {event * 1e6:.0f} microseconds")
    print(f"  (load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print(
        f"  bar for run.log: {BAR * 1e6:.0f} microseconds on average, or a thousandth of a long step:",
        "met" if met else "missed",
    )
    if not met:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
