"""A loss curve of bounded size: however long the run, the panel draws at most 200 points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

LIMIT = 200
_GAPS = 12
_FEW = 8  # values: nobody knows yet what is usual
_USUAL, _FAR = 0.9, 4.0  # so many of the values are usual; so many times their range is far from them
_LARGEST = 1e30  # a loss beyond it is as lost as an infinite one, and spoils the arithmetic of the axes


@dataclass(frozen=True)
class Curve:
    """Points of a curve, each the mean of `stride` neighbouring steps, placed at the last of them.

    When there are more than `limit` points, neighbours are merged and the stride doubles, so that
    adding a step costs the same at step 10 and at step 100,000.

    Attributes
    ----------
    gaps : tuple of (first, last)
        Stretches of steps whose value was not finite; the nearest are joined where there would be too many.
    limit : int
        Even, so that all points find a neighbour when they are merged.
    """

    points: tuple[tuple[float, float], ...] = ()
    stride: int = 1
    waiting: tuple[tuple[float, float], ...] = ()  # steps of the last, unfinished bucket
    gaps: tuple[tuple[float, float], ...] = ()
    limit: int = LIMIT

    def add(self, x: float, y: float) -> Curve:
        """The curve with one more step; a value that is not finite leaves a gap."""
        if not abs(y) < _LARGEST:
            return self._torn(x)
        waiting = (*self.waiting, (x, y))
        if len(waiting) < self.stride:
            return replace(self, waiting=waiting)
        points = (*self.points, _mean(waiting))
        if len(points) < self.limit:
            return replace(self, points=points, waiting=())
        merged = tuple(_mean(points[i : i + 2]) for i in range(0, len(points), 2))
        return replace(self, points=merged, stride=self.stride * 2, waiting=())

    def cut(self, x: float) -> Curve:
        """The curve before `x`: what is left when a later attempt goes back to an earlier step."""
        return replace(
            self,
            points=tuple(point for point in self.points if point[0] < x),
            waiting=tuple(point for point in self.waiting if point[0] < x),
            gaps=tuple((first, min(last, x - 1)) for first, last in self.gaps if first < x),
        )

    def drawn(self) -> tuple[tuple[float, float], ...]:
        """All points to draw, the unfinished bucket included."""
        return (*self.points, _mean(self.waiting)) if self.waiting else self.points

    def _torn(self, x: float) -> Curve:
        gaps = self.gaps
        if gaps and x <= gaps[-1][1] + 1:
            return replace(self, gaps=(*gaps[:-1], (gaps[-1][0], max(x, gaps[-1][1]))))
        gaps = (*gaps, (x, x))
        if len(gaps) > _GAPS:
            near = min(range(len(gaps) - 1), key=lambda i: gaps[i + 1][0] - gaps[i][1])
            gaps = (*gaps[:near], (gaps[near][0], gaps[near + 1][1]), *gaps[near + 2 :])
        return replace(self, gaps=gaps)


def ceiling(values: Sequence[float]) -> float:
    """Above it a value is drawn cut off, so that one spike does not flatten all others; the largest where none is.

    How high a curve begins is no spike.
    """
    low, high = min(values), max(values)
    if len(values) < _FEW:
        return high
    usual = sorted(values)[int(_USUAL * (len(values) - 1))]
    if high - low <= max(_FAR * (usual - low), abs(usual) / 2):
        return high
    top = usual + (usual - low) / 2
    return max([top, *takewhile(lambda value: value > top, values)])


def _mean(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return points[-1][0], math.fsum(y / len(points) for _, y in points)
