"""The panel as text: for terminals, and for readers of a saved notebook that show no HTML."""

from __future__ import annotations

from itertools import pairwise

from colab_magics.panel import words
from colab_magics.panel.state import PanelState

_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 30
_CHART = 60


def text(state: PanelState) -> str:
    """The whole panel, a few lines; no ANSI, no control characters."""
    lines = [f"{state.name or 'run'}: {words.phase(state)}"]
    subject = words.subject(state)
    if subject:
        lines.append(subject)
    lines.extend(state.resumed)
    fraction, done = words.progress(state)
    if fraction is not None:
        lines.append(f"[{_bar(fraction)}] {fraction:4.0%}  {done}")
    elif done:
        lines.append(done)
    if words.loss(state):
        lines.append(f"loss {words.loss(state)}  {sparkline(state)}".rstrip())
    facts = [f"{label} {value}" for label, value in words.facts(state)]
    if facts:
        lines.append(" | ".join(facts))
    if state.notices_left_out:
        lines.append(f"({state.notices_left_out} earlier warnings)")
    lines.extend(f"! {notice.text}" for notice in state.notices)
    lines.extend(state.failure)
    lines.extend(words.footer(state))
    return "\n".join(lines)


def line(state: PanelState) -> str:
    """The run in one line, for a terminal that redraws in place."""
    fraction, done = words.progress(state)
    parts = [f"{state.name or 'run'}: {words.phase(state)}"]
    if fraction is not None:
        parts.append(f"{fraction:.0%}")
    if done:
        parts.append(done)
    if words.loss(state):
        parts.append(f"loss {words.number(state.loss)}")
    parts.extend(f"{label} {value}" for label, value in words.facts(state) if label in ("tokens/s", "time left"))
    return " · ".join(parts)


def sparkline(state: PanelState, width: int = _CHART) -> str:
    """The loss curve in block characters; empty below two points."""
    points = [y for _, y in state.curve.drawn()]
    if len(points) < 2:
        return ""
    columns = min(width, len(points))
    edges = [len(points) * i // columns for i in range(columns + 1)]
    means = [sum(points[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BLOCKS[0] * columns
    return "".join(_BLOCKS[min(7, int(8 * (value - low) / (high - low)))] for value in means)


def _bar(fraction: float) -> str:
    full = round(_BAR * fraction)
    return "=" * max(0, full - 1) + (">" if full else "") + " " * (_BAR - full)
