"""How often a training has ended by the P90 of its forecast, and how far the P50 is from the truth.

    python benchmarks/forecast.py

The bar is on each kind that is simulated, and on the real ones together: what comes in the middle of a training, such
as another job on the machine, no forecast made before it can know.

Simulated step times of four kinds, seeded, and real ones of three trainings of the demo model on two shared CPU
cores (tests/session/step_times.json). A forecast is made after 10, 30 and 60% of the steps. Needs no torch.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

HOME = Path(__file__).resolve().parents[1]
sys.path.append(str(HOME))  # a checkout that is not installed

from colab_magics.session.forecast import forecast  # noqa: E402

REAL = HOME / "tests" / "session" / "step_times.json"
TOTALS = (50, 200, 1000)
SHARES = (0.1, 0.3, 0.6)
COVERAGE = (0.80, 0.97)  # the bar for the P90
Made = Callable[[np.random.Generator, int], "np.ndarray"]


def independent(random: np.random.Generator, steps: int) -> np.ndarray:
    """Lengths that vary by a quarter, drawn anew for each step."""
    return random.gamma(16, 1 / 16, steps)


def autocorrelated(random: np.random.Generator, steps: int) -> np.ndarray:
    """A neighbour on the machine comes and goes: what is slow now is slow for the next five steps."""
    noise = np.empty(steps)
    noise[0] = random.normal(0, 0.15)
    for step in range(1, steps):
        noise[step] = 0.8 * noise[step - 1] + random.normal(0, 0.15 * 0.6)
    return np.exp(noise)


def drifting(random: np.random.Generator, steps: int) -> np.ndarray:
    """The machine gets slower or faster, by some 15% until the end and never back."""
    walk = np.cumsum(random.normal(0, 0.15 / np.sqrt(steps), steps))
    return np.exp(walk) * random.gamma(50, 1 / 50, steps)


def heavy_tailed(random: np.random.Generator, steps: int) -> np.ndarray:
    """Now and then a document, or a hiccup, of many times the usual."""
    return random.lognormal(0, 0.8, steps)


SIMULATED: dict[str, Made] = {
    "independent": independent,
    "autocorrelated": autocorrelated,
    "drifting": drifting,
    "heavy-tailed": heavy_tailed,
}


@dataclass(frozen=True)
class Figures:
    """Of many forecasts of one kind.

    Attributes
    ----------
    covered : float
        The share that had ended by the P90.
    bias, error : float
        Median of (P50 / truth - 1), and of its size.
    width : float
        Median of (P90 / P50 - 1).
    """

    forecasts: int
    covered: float
    bias: float
    error: float
    width: float


def figures(pairs: Iterator[tuple[Sequence[float], Sequence[float]]]) -> Figures:
    """What came of forecasts after the first of each pair, against the sum of the second."""
    covered, errors, widths = [], [], []
    for before, after in pairs:
        made, truth = forecast(before, len(after)), float(sum(after))
        assert made is not None
        covered.append(truth <= made.p90)
        errors.append(made.p50 / truth - 1)
        widths.append(made.p90 / made.p50 - 1)
    return Figures(
        len(errors),
        sum(covered) / len(covered),
        statistics.median(errors),
        statistics.median(map(abs, errors)),
        statistics.median(widths),
    )


def simulated(made: Made, runs: int) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Simulated trainings, cut where a forecast is made."""
    for total in TOTALS:
        for share in SHARES:
            random = np.random.default_rng([total, round(100 * share)])
            for _ in range(runs):
                seconds = made(random, total).tolist()
                yield seconds[: int(share * total)], seconds[int(share * total) :]


def real() -> dict[str, list[float]]:
    """Seconds of each step of real trainings, by what was trained."""
    found: dict[str, list[float]] = json.loads(REAL.read_text(encoding="utf-8"))
    return found


def cut(seconds: Sequence[float]) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Trainings of 50 to 200 steps that a longer one holds, cut where a forecast is made."""
    for total in (50, 100, 200):
        for start in range(0, len(seconds) - total + 1, 10):
            for share in SHARES:
                at = start + int(share * total)
                yield seconds[start:at], seconds[at : start + total]


def main() -> int:
    rows = [(name, figures(simulated(made, 200))) for name, made in SIMULATED.items()]
    recorded = real()
    rows.append(("real", figures(chain.from_iterable(map(cut, recorded.values())))))
    parts = [(f"  {name}", figures(cut(seconds))) for name, seconds in recorded.items()]
    print(f"{'step times':52s} {'forecasts':>9s} {'ended by P90':>12s} {'P50 off by':>10s} {'P90 over P50':>12s}")
    for name, found in rows + parts:
        print(f"{name:52s} {found.forecasts:9,} {found.covered:12.1%} {found.error:10.1%} {found.width:12.1%}")
    low, high = COVERAGE
    missed = [name for name, found in rows if not low <= found.covered <= high]
    print(f"bar: {low:.0%} to {high:.0%} ended by the P90: {'missed by ' + ', '.join(missed) if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
