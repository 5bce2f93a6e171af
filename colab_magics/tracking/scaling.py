"""How time and memory grow with size: a fit of what was measured, and how sure it is of the next size.

What is measured is taken as a fixed part and a power of the size: y = fixed + a * size^b. A memory of which half is
weights looks like a small power at small sizes, and is none. How large the fixed part is, and the power, nobody knows;
nor how far this machine's measurements stray, of which a neighbour on its cores makes more than the clock; nor whether
the first of them holds what only a first call takes. Each of some thousand answers weighs as much as the measurements
speak for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FIXED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 0.99)  # shares of the smallest measured
_POWERS = tuple(0.4 + 0.05 * step for step in range(45))  # 0.4 to 2.6
_USUAL, _SPREAD = 1.0, 0.45  # of the power, before anything was measured
_NOISIER = ((1.0, 0.4), (2.0, 0.3), (4.0, 0.2), (8.0, 0.1))  # times the usual noise, and how likely that is
_FIRST = 0.15  # how likely it is that the first measurement holds more than the others
_NO_WEIGHT = 1e-7
_BAND = (0.1, 0.5, 0.9)
_WIDE = 4.0  # times its lower end: a band that reaches so far says little


@dataclass(frozen=True)
class Band:
    """What a measurement is expected to be: with one, five and nine chances in ten it is below."""

    low: float
    mid: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is in the band."""
        return self.low <= value <= self.high

    @property
    def is_known(self) -> bool:
        """Whether its middle says something: whether the band is not too wide."""
        return self.high <= _WIDE * self.low

    def beside(self, more: float) -> Band:
        """The same with something beside it that is known."""
        return Band(self.low + more, self.mid + more, self.high + more)


@dataclass(frozen=True)
class Law:
    """One answer: y = fixed + factor * size^power, how far measurements stray from it, and how much it weighs."""

    fixed: float
    factor: float
    power: float
    noise: float
    weight: float

    def at(self, size: float) -> float:
        return self.fixed + self.factor * math.pow(size, self.power)


@dataclass(frozen=True)
class _Seen:
    """One measurement, and how far it usually strays from its law."""

    size: float
    value: float
    sigma: float


def laws(sizes: Sequence[float], values: Sequence[float], *, noise: float, floor: float = 0.0) -> list[Law]:
    """The answers that what was measured allows.

    Parameters
    ----------
    sizes, values : of equal length, in the order in which they were measured
    noise : float
        How far a measurement usually strays from its law, as a share of it: 0.05 for times, 0.02 for memory.
    floor : float
        How far it strays at the least, in the unit of the values.
    """
    seen = [
        _Seen(float(size), float(value), math.hypot(noise * value, floor))
        for size, value in zip(sizes, values, strict=True)
        if size > 0 and (value > 0 or (value == 0 and floor))
    ]
    if not seen:
        return []
    found = list(_weighed(seen))
    least = max(evidence for *_, evidence in found) + math.log(_NO_WEIGHT)
    return [
        Law(fixed, factor, power, times * noise, math.exp(evidence - least))
        for fixed, factor, power, times, evidence in found
        if evidence > least
    ]


def _weighed(seen: Sequence[_Seen]) -> Iterator[tuple[float, float, float, float, float]]:
    """Each answer (fixed part, factor, power, times the usual noise), and the logarithm of what speaks for it."""
    first, others = seen[0], seen[1:]
    smallest = min(one.value for one in seen)
    for share in _FIXED:
        for power in _POWERS:
            prior = -0.5 * ((power - _USUAL) / _SPREAD) ** 2
            for of_all in (True, False) if others else (True,):
                factor, misfit = _fitted(seen if of_all else others, share * smallest, power)
                hint, count = prior + math.log(1 - _FIRST if of_all else _FIRST), len(seen)
                if not of_all:
                    # by how much the first is more than its law: a little, or many times
                    more = first.value / max(share * smallest + factor * first.size**power, first.sigma) - 1
                    if more <= 0:
                        continue
                    hint, count = hint - 2 * math.log1p(more) + math.log(first.sigma / first.value), len(others)
                for times, likely in _NOISIER:
                    evidence = hint - 0.5 * misfit / times**2 - count * math.log(times) + math.log(likely)
                    yield share * smallest, factor, power, times, evidence


def _fitted(seen: Sequence[_Seen], fixed: float, power: float) -> tuple[float, float]:
    """The best factor for that fixed part and power (least squares), and the misfit."""
    grown = [(one.size**power / one.sigma, (one.value - fixed) / one.sigma) for one in seen]
    factor = max(0.0, sum(x * y for x, y in grown) / sum(x * x for x, _ in grown))
    return factor, sum((factor * x - y) ** 2 for x, y in grown)


def expected(
    sizes: Sequence[float], values: Sequence[float], size: float, *, noise: float, floor: float = 0.0
) -> Band | None:
    """What the measurement at `size` will be; None where nothing was measured yet."""
    allowed = [(law.at(size), law) for law in laws(sizes, values, noise=noise, floor=floor)]
    if not allowed:
        return None
    # a measurement strays from its law too: each answer is spread over three
    spread = [
        (max(0.0, value + off * math.hypot(law.noise * value, floor)), law.weight * share)
        for value, law in allowed
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
