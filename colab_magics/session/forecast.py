"""When the training ends: measured from its own steps, with how sure that is.

The steps are taken as noise around a level that may wander (a local level model), in a few blocks of steps, so that
neighbours that are alike count as one. How much it wanders is not known; each of a few answers weighs as much as the
steps so far speak for it. `benchmarks/forecast.py` prints how often the truth is below the P90.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCKS = 24  # at most so many means of neighbouring steps
_WARM_UP = 2  # kernels are chosen and memory is first allocated: these are slower than any later one
_ENOUGH = 4  # so many steps must be left when the first ones are dropped
# (the level's own variance a block, as a share of the noise's; how much of itself it drifts over a run; the weight
# of that before any step was seen): chosen so that the P90 covers 80 to 97% of the simulated and of the real step times
# in benchmarks/forecast.py
_WORLDS = ((0.0, 0.03, 0.6), (0.05, 0.3, 0.05), (0.25, 0.4, 0.15), (1.0, 0.4, 0.2))
_LEAST_NOISE = 0.01  # of the level: no machine is steadier than that over hours
# How far the mean of what is to come strays at most from the level of now, as a share of it (one standard deviation).
# A walk has no bound, a machine has: jobs that share it come and go.
_FURTHEST = 0.4


@dataclass(frozen=True)
class Forecast:
    """Seconds from now until the training ends.

    Attributes
    ----------
    p50, p90 : float
        With even odds, and with nine chances in ten, it has ended by then.
    measured : bool
        From the run's own steps; False: from the plan, before two steps were taken.
    """

    p50: float
    p90: float
    measured: bool = True


def forecast(step_seconds: Sequence[float], steps_left: int, *, other: float = 0.0) -> Forecast | None:
    """When `steps_left` further steps will have been taken.

    Parameters
    ----------
    step_seconds : of the attempt's steps so far, the newest last
    steps_left : how many are still to come
    other : seconds still to come that belong to no step: evaluations and saves

    Returns
    -------
    Forecast, or None below two steps.
    """
    seconds = [float(one) for one in step_seconds if math.isfinite(one) and one > 0]
    if len(seconds) < 2:
        return None
    if len(seconds) >= _WARM_UP + _ENOUGH:
        seconds = seconds[_WARM_UP:]
    other = max(0.0, other)
    if steps_left <= 0:
        return Forecast(other, other)
    means, size = _blocks(seconds)
    worlds = [_world(means, *world, steps_left / size) for world in _WORLDS]
    total = sum(weight for weight, *_ in worlds)
    p50, p90 = (size * _quantile(worlds, share * total, len(means)) for share in (0.5, 0.9))
    return Forecast(p50 + other, max(p50, p90) + other)


def _blocks(seconds: Sequence[float]) -> tuple[list[float], int]:
    """Means of neighbouring steps, and how many steps each is of; the oldest rest of no whole block goes."""
    size = max(1, math.ceil(len(seconds) / _BLOCKS))
    first = len(seconds) % size
    return [sum(seconds[at : at + size]) / size for at in range(first, len(seconds), size)], size


def _world(
    means: Sequence[float], wander: float, drift: float, weight: float, left: float
) -> tuple[float, float, float]:
    """(weight, centre, spread) of the sum of `left` further blocks, if the level wanders so.

    The level is filtered as by Kalman; the noise's own variance is integrated out, so that the sum is distributed as
    Student's t with one degree less than there are blocks.
    """
    level, unsure, squares, determinant = means[0], 1.0, 0.0, 0.0
    for mean in means[1:]:
        expected = unsure + wander + 1.0
        error = mean - level
        squares += error * error / expected
        determinant += math.log(expected)
        gain = (unsure + wander) / expected
        level += gain * error
        unsure = gain
    degrees = len(means) - 1
    floor = (_LEAST_NOISE * max(level, 1e-9)) ** 2
    noise = max(squares / degrees, floor)
    evidence = math.exp(-0.5 * (determinant + degrees * math.log(noise / floor)))
    # a sum of `left` values of a level that takes a random step before each, around it the noise
    walked = noise * wander * (left + 1) * (2 * left + 1) / (6 * left) + (drift * level) ** 2 * left / 3 / (
        len(means) + left
    )
    furthest = (_FURTHEST * level) ** 2
    strayed = noise * unsure + walked * furthest / (walked + furthest)
    return weight * evidence, left * level, math.sqrt(noise * left + left * left * strayed)


def _quantile(worlds: Sequence[tuple[float, float, float]], mass: float, blocks: int) -> float:
    """Below which value `mass` of the worlds' weight lies."""
    low = 0.0
    high = max(centre + 40 * spread for _, centre, spread in worlds)
    for _ in range(50):
        middle = (low + high) / 2
        below = sum(weight * _student((middle - centre) / spread, blocks - 1) for weight, centre, spread in worlds)
        low, high = (middle, high) if below < mass else (low, middle)
    return (low + high) / 2


def _student(value: float, degrees: int) -> float:
    """Student's distribution function, to about 0.005 from two degrees on (Abramowitz and Stegun 26.7.8)."""
    normal = value * (1 - 1 / (4 * degrees)) / math.sqrt(1 + value * value / (2 * degrees))
    return 0.5 * (1 + math.erf(normal / math.sqrt(2)))
