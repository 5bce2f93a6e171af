"""A loss curve of bounded size: however long the run, the panel draws at most 200 points."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LIMIT = 200


@dataclass(frozen=True)
class Curve:
    """Points of a curve, each the mean of `stride` neighbouring steps.

    When there are more than `LIMIT` points, neighbours are merged and the stride doubles, so that
    adding a step costs the same at step 10 and at step 100,000.
    """

    points: tuple[tuple[float, float], ...] = ()
    stride: int = 1
    waiting: tuple[tuple[float, float], ...] = ()  # steps of the last, unfinished bucket

    def add(self, x: float, y: float) -> Curve:
        """The curve with one more step; a value that is not finite has no place on a chart."""
        if not math.isfinite(y):
            return self
        waiting = (*self.waiting, (x, y))
        if len(waiting) < self.stride:
            return replace(self, waiting=waiting)
        points = (*self.points, _mean(waiting))
        if len(points) <= LIMIT:
            return replace(self, points=points, waiting=())
        merged = tuple(_mean(points[i : i + 2]) for i in range(0, len(points) - 1, 2))
        rest = points[-1:] if len(points) % 2 else ()
        return Curve(points=merged, stride=self.stride * 2, waiting=rest)

    def cut(self, x: float) -> Curve:
        """The curve before `x`: what is left when a later attempt goes back to an earlier step."""
        if not self.points and not self.waiting:
            return self
        return replace(
            self,
            points=tuple(point for point in self.points if point[0] < x),
            waiting=tuple(point for point in self.waiting if point[0] < x),
        )

    def drawn(self) -> tuple[tuple[float, float], ...]:
        """All points to draw, the unfinished bucket included."""
        return (*self.points, _mean(self.waiting)) if self.waiting else self.points


def _mean(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return points[-1][0], sum(y for _, y in points) / len(points)
