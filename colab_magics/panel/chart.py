"""The loss curve as SVG: train and evaluation on one grid, from the points that the state keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from colab_magics.panel.curve import ceiling
from colab_magics.panel.state import PanelState
from colab_magics.panel.words import number

WIDTH, HEIGHT = 1000, 500  # of the viewBox, which is stretched to the place that is there
_SMOOTHED_FROM = 40  # points: fewer are drawn as they are
_Point = tuple[float, float]


def chart(state: PanelState) -> str:
    """The curve with its axes; nothing below two points.

    The labels of the axes are written by the style sheet: where a viewer drops style and SVG, no loose figures remain.
    """
    points = state.curve.drawn()
    if len(points) < 2:
        return ""
    evals = state.eval_curve.drawn()
    top = _top(state)
    ys = ticks(min(y for _, y in (*points, *evals)), top, 4)
    end = points[-1][0]  # not the last step to come: the progress bar shows that
    xs = ticks(0, end, 6 if end < 1000 else 4, whole=True)
    plot = Plot(end, ys[0], ys[-1])
    grid = "".join(f"M0 {plot.y(y)}h{WIDTH}" for y in ys)
    body = f'<path class="cm-g" d="{grid}"/>'
    of_a_phase = state.own is not None and state.own.phase  # whose steps are not those of the run
    if state.resumed_step and not of_a_phase and points[0][0] < state.resumed_step < end:
        body += f'<path class="cm-g" stroke-dasharray="3" d="M{plot.x(state.resumed_step)} 0v{HEIGHT}"/>'
    body += "".join(
        f'<path class="cm-nan" d="M{plot.x(first)} {HEIGHT}h{max(0, plot.x(last) - plot.x(first))}"/>'
        for first, last in state.curve.gaps
    )
    if state.phase == "failed":
        body += f'<path class="cm-f" d="M{plot.x(state.step)} 0v{HEIGHT}"/>'
    raw = plot.line(points, state.curve.gaps)
    if _window(len(points)) > 1:
        mean = plot.line(smooth(points, top), state.curve.gaps)
        body += f'<path class="cm-raw" d="{raw}"/><path class="cm-l" d="{mean}"/>'
    else:
        body += f'<path class="cm-l" d="{raw}"/>'
    if evals:
        if len(evals) > 1:
            body += f'<path class="cm-e" d="{plot.line(evals, ())}"/>'
        # lines of no length with round ends: dots that the stretched viewBox cannot squash
        body += f'<path class="cm-d" d="{"".join(f"M{plot.x(x)} {plot.y(y)}h0" for x, y in evals)}"/>'
    above = cut_off(state)
    if above:
        body += f'<path class="cm-c" d="{"".join(f"M{plot.x(x)} 0h0" for x, _ in above)}"/>'
    return framed(body, ys, xs, end, escape(described(state)))


def framed(body: str, ys: Sequence[float], xs: Sequence[float], end: float, told: str) -> str:
    """A drawing with the figures of its axes; `told` says it in a sentence, escaped."""
    down = "".join(f'<i data-v="{figure}"></i>' for figure in ticks_written(ys))
    across = "".join(
        f'<i data-v="{x:,.0f}" style="left:{100 * x / end:.1f}%"{" class=cm-end" if x > 0.94 * end else ""}></i>'
        for x in xs
        if x <= end
    )
    return (
        f'<div class="cm-chart"><div class="cm-y" aria-hidden="true">{down}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{told}">{body}</svg><div class="cm-x" aria-hidden="true">{across}</div></div>'
    )


def described(state: PanelState) -> str:
    """The chart in a sentence of numbers."""
    points, evals = state.curve.drawn(), state.eval_curve.drawn()
    (first, begin), (last, end) = points[0], points[-1]
    what = "Training loss" if state.own is None else state.own.figure.replace("_", " ").capitalize()
    told = f"{what} by step: {number(begin)} at step {first:,.0f}, {number(end)} at step {last:,.0f}"
    if evals:
        told += f"; evaluation {number(evals[-1][1])} at step {evals[-1][0]:,.0f}"
    return told


def smoothing(state: PanelState) -> int:
    """Of how many steps each place of the heavy line is the mean; 1: the line is every step as it was."""
    return _window(len(state.curve.drawn())) * state.curve.stride


def cut_off(state: PanelState) -> list[_Point]:
    """The points that are far above all others, and beyond the top of the axis."""
    top = _top(state)
    return [point for point in (*state.curve.drawn(), *state.eval_curve.drawn()) if point[1] > top]


def _top(state: PanelState) -> float:
    return ceiling([y for _, y in (*state.curve.drawn(), *state.eval_curve.drawn())])


def smooth(points: Sequence[_Point], top: float) -> list[_Point]:
    """The mean around each point, of what is not beyond the top. The window is cut off at the end, where one step says
    little, and shrinks at the beginning, where the curve is steep."""
    half = _window(len(points)) // 2
    smoothed = []
    for place, (x, _) in enumerate(points):
        reach = min(half, place)
        around = [y for _, y in points[place - reach : place + reach + 1] if y <= top] or [top]
        smoothed.append((x, math.fsum(y / len(around) for y in around)))
    return smoothed


def _window(points: int) -> int:
    # a share of the points, however many steps each is of: as they are merged, the window in steps stays as it is
    return 1 if points < _SMOOTHED_FROM else 2 * (points // 24) + 1


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round values that span low to high, `most` steps between them at most.

    Parameters
    ----------
    whole : bool
        Whole numbers only.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # a flat curve goes through the middle
        around = abs(low) / 4 if abs(low) > 1e-30 else 0.5
        low, high = low - around, high + around
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = float(max(1, math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def ticks_written(values: Sequence[float]) -> list[str]:
    """The figures of an axis, as short as they are round, all with as many decimals, and no two alike."""
    step = values[1] - values[0]
    largest = max(map(abs, values))
    kind = "e" if largest >= 1e6 or largest < 1e-4 else "f"
    written: list[str] = []
    for decimals in range(16):
        written = [f"{value:.{decimals}{kind}}" if value else "0" for value in values]
        if all(abs(float(one) - value) <= 1e-3 * step for one, value in zip(written, values, strict=True)):
            break
    return written if kind == "e" else [f"{value:.{decimals}f}" for value in values]


class Plot:
    """Places values in the viewBox.

    Parameters
    ----------
    end : the last step
    low, high : of the axis
    """

    def __init__(self, end: float, low: float, high: float) -> None:
        self._end, self._low, self._high = end or 1.0, low, high

    def x(self, step: float) -> int:
        return round(WIDTH * min(1.0, step / self._end))

    def y(self, value: float) -> int:
        return round(HEIGHT * min(1.0, max(0.0, (self._high - value) / (self._high - self._low))))

    def line(self, points: Sequence[_Point], gaps: Sequence[_Point]) -> str:
        """A path in relative whole numbers, a third of the bytes of absolute ones; broken where there is a gap."""
        path, before = "", (0, 0)
        for place, (step, value) in enumerate(points):
            here = (self.x(step), self.y(value))
            left = points[place - 1][0] if place else None
            if left is None or any(left < first and last < step for first, last in gaps):
                path += f"M{here[0]} {here[1]}l"
            elif here != before or place == len(points) - 1:
                path += f"{here[0] - before[0]}{here[1] - before[1]:+d} "
            else:
                continue
            before = here
        return path.replace("l M", " M").replace("lM", "M").rstrip("l ")
