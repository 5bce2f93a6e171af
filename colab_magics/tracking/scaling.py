"""How time and memory grow with size: a fit of what was measured, and how sure it is of the next size.

What is measured is taken as a fixed part and a power of the size: y = fixed + a * size^b. A memory of which half is
weights looks like a small power at small sizes, and is none. How large the fixed part is, and the power, nobody knows:
each of a few hundred answers weighs as much as the measurements speak for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_FIXED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.99)  # shares of the smallest measured
_POWERS = tuple(0.4 + 0.05 * step for step in range(45))  # 0.4 to 2.6
_USUAL, _SPREAD = 1.0, 0.45  # of the power, before anything was measured
_BAND = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Band:
    """What a measurement is expected to be: with one, five and nine chances in ten it is below."""

    low: float
    mid: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is in the band."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Law:
    """One answer: y = fixed + factor * size^power, and how much it weighs."""

    fixed: float
    factor: float
    power: float
    weight: float

    def at(self, size: float) -> float:
        return self.fixed + self.factor * math.pow(size, self.power)


def laws(sizes: Sequence[float], values: Sequence[float], *, noise: float) -> list[Law]:
    """The answers that what was measured allows.

    Parameters
    ----------
    sizes, values : of equal length, positive
    noise : float
        How far a measurement strays from its law, as a share of it: 0.05 for times, 0.02 for memory.
    """
    pairs = [(float(size), float(value)) for size, value in zip(sizes, values, strict=True) if size > 0 and value > 0]
    if not pairs:
        return []
    smallest = min(value for _, value in pairs)
    found: list[tuple[Law, float]] = []
    for share in _FIXED:
        for power in _POWERS:
            law, misfit = _fitted(pairs, share * smallest, power, noise)
            prior = ((power - _USUAL) / _SPREAD) ** 2
            found.append((law, -0.5 * (misfit + prior)))
    best = max(evidence for _, evidence in found)
    return [Law(law.fixed, law.factor, law.power, math.exp(evidence - best)) for law, evidence in found]


def _fitted(pairs: Sequence[tuple[float, float]], fixed: float, power: float, noise: float) -> tuple[Law, float]:
    """The best factor for that fixed part and power (least squares of relative errors), and the misfit."""
    grown = [(size**power / value, 1 - fixed / value) for size, value in pairs]
    factor = max(0.0, sum(x * y for x, y in grown) / sum(x * x for x, _ in grown))
    misfit = sum(((factor * x - y) / noise) ** 2 for x, y in grown)
    return Law(fixed, factor, power, 1.0), misfit


def expected(sizes: Sequence[float], values: Sequence[float], size: float, *, noise: float) -> Band | None:
    """What the measurement at `size` will be; None where nothing was measured yet."""
    allowed = [(law.at(size), law.weight) for law in laws(sizes, values, noise=noise)]
    if not allowed:
        return None
    # a measurement strays from its law too: each answer is spread over three
    spread = [
        (value * (1 + off * noise), weight * share)
        for value, weight in allowed
        for off, share in ((-1.2, 0.3), (0.0, 0.4), (1.2, 0.3))
    ]
    spread.sort()
    total = sum(weight for _, weight in spread)
    low, mid, high = (_quantile(spread, share * total) for share in _BAND)
    return Band(low, mid, high)


def _quantile(spread: Sequence[tuple[float, float]], mass: float) -> float:
    gone = 0.0
    for value, weight in spread:
        gone += weight
        if gone >= mass:
            return value
    return spread[-1][0]
