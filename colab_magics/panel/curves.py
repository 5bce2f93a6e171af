"""The loss curves of several runs on one grid, and the same as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from colab_magics.errors import clean, redact
from colab_magics.panel.chart import WIDTH, Plot, framed, smooth, ticks
from colab_magics.panel.curve import Curve, ceiling
from colab_magics.panel.text import blocks
from colab_magics.panel.words import number

# Tones that show on light and dark alike; from the ninth line on they come again, dashed.
TONES = ("#3b82f6", "#d97706", "#16a34a", "#ef4444", "#a855f7", "#0891b2", "#db2777", "#8b949e")
_DASHES = ("", "12 8", "2 8")
_MOST = 1200  # points of all lines together: 8 bytes each, of the 20 kB that an output may have
_TEXT = 40
_ABOVE = 0.25  # of the way from the least loss to where the curves begin: what is higher is drawn there
_Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One run's curve, and what tells it from the others."""

    label: str
    curve: Curve
    best: bool = False


def curves_html(lines: Sequence[Line]) -> str:
    """All curves that have two points, the best one heavy, with a legend; nothing where there is none."""
    drawn = _drawn(lines)
    if not drawn:
        return ""
    floor, top = _scale([points for _, points in drawn])
    ys = ticks(floor, top, 4)
    end = max(points[-1][0] for _, points in drawn)
    plot = Plot(end, ys[0], ys[-1])
    body = f'<path class="cm-g" d="{"".join(f"M0 {plot.y(y)}h{WIDTH}" for y in ys)}"/>'
    # the best one last, above the others
    for place, points in sorted(drawn, key=lambda pair: lines[pair[0]].best):
        line = lines[place]
        body += (
            f'<path stroke="{_tone(place)}" stroke-width="{3 if line.best else 1.5}"{_dash(place)} '
            f'd="{plot.line(_thin(smooth(points, top), len(drawn)), line.curve.gaps)}"/>'
        )
    keys = " ".join(
        f'<span class="k-l" style="--cm-a:{_tone(place)}">{escape(_told(lines[place]))}</span>' for place, _ in drawn
    )
    told = escape("Training loss by step. " + "; ".join(_sentence(lines[place], points) for place, points in drawn))
    across = ticks(0, end, 6 if end < 1000 else 4, whole=True)
    return f'{framed(body, ys, across, end, told)}<div class="cm-keys">{keys}</div>'


def curves_text(lines: Sequence[Line]) -> list[str]:
    """A line each in block characters, all on one scale; nothing where no curve has two points."""
    drawn = _drawn(lines)
    if not drawn:
        return []
    floor, top = _scale([points for _, points in drawn])
    width = max(len(_told(lines[place])) for place, _ in drawn)
    return [
        f"{_told(lines[place]):<{width}}  {blocks([y for _, y in points], _TEXT, top, floor)}"
        for place, points in drawn
    ]


def _drawn(lines: Sequence[Line]) -> list[tuple[int, tuple[_Point, ...]]]:
    found = [(place, line.curve.drawn()) for place, line in enumerate(lines)]
    return [(place, points) for place, points in found if len(points) > 1]


def _scale(curves: Sequence[Sequence[_Point]]) -> tuple[float, float]:
    """The least loss, and what is drawn at the top: one that diverges must not flatten those that learn."""
    ys = [y for points in curves for _, y in points]
    began = max(points[0][1] for points in curves)
    return min(ys), min(ceiling(ys), began + _ABOVE * abs(began - min(ys)))


def _thin(points: Sequence[_Point], lines: int) -> Sequence[_Point]:
    """Every so many of the points, so that all lines together stay small; the last one is kept."""
    every = -(-len(points) * lines // _MOST)
    return points if every == 1 else [*points[:-1:every], points[-1]]


def _tone(place: int) -> str:
    return TONES[place % len(TONES)]


def _dash(place: int) -> str:
    dash = _DASHES[place // len(TONES) % len(_DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _told(line: Line) -> str:
    label = redact(clean(line.label))
    return f"{label} (best)" if line.best else label


def _sentence(line: Line, points: Sequence[_Point]) -> str:
    return f"{_told(line)}: {number(points[0][1])} at step {points[0][0]:,.0f}, {number(points[-1][1])} at the last"
