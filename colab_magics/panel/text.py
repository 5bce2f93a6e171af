"""The panel as text: for terminals, and for readers of a saved notebook that show no HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap

from colab_magics.panel import answers, bands, words
from colab_magics.panel.curve import ceiling
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState

_NOWHEN = Moment()
_BLOCKS = "▁▂▃▄▅▆▇█"
_SHADES = {"others": "▒", "cached": "▓", "worker": "░", "trained": "▓", "activations": "▒", "margin": "░"}
_BAR = 30
_CHART = 60
_LABEL = 12
_WIDTH = 110


def text(state: PanelState, moment: Moment = _NOWHEN) -> str:
    """The whole panel, a few lines; no ANSI, no control characters."""
    attempt = f", attempt {state.attempt}" if state.attempt > 1 else ""
    lines = [f"{state.name or 'run'}: {answers.standing(state)}{attempt}"]
    subject = words.subject(state)
    lines += [subject] if subject else []
    for about, parts in _rows(state, moment):
        if parts:
            lines += _row(about, parts)
    lines += [f"! {flag}" for flag in answers.flags(moment)]
    lines += state.begun_from
    if state.notices_left_out:
        lines.append(f"({state.notices_left_out} earlier warning{'s' if state.notices_left_out != 1 else ''})")
    lines += [f"! {notice.text}" for notice in state.notices]
    lines += state.failure
    lines += words.footer(state)
    return "\n".join(lines)


def _rows(state: PanelState, moment: Moment) -> list[tuple[str, list[str]]]:
    fraction, done = words.progress(state)
    if fraction is not None:
        share = f" {fraction:4.0%}" if state.own is None or state.progress is not None else ""
        done = f"[{_filled(fraction)}]{share}  {done}"
    rows = [("progress", [done] if done else []), ("speed", [words_ for words_ in (answers.speed(state),) if words_])]
    loss, evaluation = answers.learning(state), answers.evaluation(state)
    rows.append(
        (
            loss.about.lower() if loss else "",
            [f"{loss.said}  {sparkline(state)}".rstrip(), *loss.parts[1:]] if loss else [],
        )
    )
    rows.append(("evaluation", [", ".join(evaluation.parts)] if evaluation else []))
    memory = answers.memory(state, moment)
    bars = bands.memory_bars(state)
    if memory is not None:
        rows.append((memory.about, _memory(memory, bars)))
    for answer in (answers.time(state, moment), answers.safety(state, moment)):
        rows.append((answer.about.lower(), answer.parts) if answer is not None else ("", []))
    return rows


def _row(about: str, parts: list[str]) -> list[str]:
    """A label, and beside it its parts: on one line where they fit."""
    joined = "; ".join(parts)
    shown = wrap(joined, _WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{about if place == 0 else '':<{_LABEL}}{part}" for place, part in enumerate(shown)]


def _memory(memory: answers.Answer, bars: tuple[bands.Bar, ...]) -> list[str]:
    if not bars:
        return [memory.said]
    legend = ", ".join(part for row in bands.legend(bars[0]) for part in row)
    if len(bars) == 1:
        told = (f"{shaded(bars[0])}{memory.said}", memory.verdict, legend, *memory.behind)
        return [part for part in told if part]
    cards = [f"{bar.label} {shaded(bar, 10)}{bands.headline((bar,))}" for bar in bars]
    return [memory.said, *cards, f"{bars[0].label}: {legend}", *memory.parts[1:]]


def shaded(bar: bands.Bar, width: int = _BAR) -> str:
    """The bands as blocks; | is the peak."""
    if not bar.total:
        return ""
    cells, edge = "", 0.0
    whole = max(bar.total, bar.used)
    for name, amount in bar.bands:
        edge += amount
        cells += _SHADES.get(name.split(" ")[0].rstrip(","), "█") * (round(width * edge / whole) - len(cells))
    cells = cells.ljust(width, "·")
    if bar.peak is not None:
        at = min(width - 1, int(width * bar.peak / whole))
        cells = cells[:at] + "|" + cells[at + 1 :]
    return f"[{cells}] "


def line(state: PanelState, moment: Moment = _NOWHEN) -> str:
    """The run in one line, for a terminal that redraws in place."""
    fraction, done = words.progress(state)
    parts = [f"{state.name or 'run'}: {answers.standing(state)}"]
    if fraction is not None and state.own is None:
        parts.append(f"{fraction:.0%}")
    if done:
        parts.append(done)
    if state.step and (state.own is None or state.own.figure):
        parts.append(f"{state.own.figure if state.own is not None else 'loss'} {words.number(state.loss)}")
    if state.own is not None:
        return " · ".join(parts)
    if state.tokens_per_second:
        parts.append(f"{words.count(state.tokens_per_second)} tokens/s")
    time = answers.time(state, moment)
    if time is not None and state.forecast is not None and moment.now is not None:
        parts += [time.said] if time.about == "Time" else []
        parts += [time.verdict] if time.verdict and time.level != "fine" else []
    return " · ".join(parts)


def sparkline(state: PanelState, width: int = _CHART) -> str:
    """The loss curve in block characters; empty below two points."""
    points = [y for _, y in state.curve.drawn()]
    return blocks(points, width, ceiling(points)) if len(points) > 1 else ""


def blocks(points: Sequence[float], width: int, top: float, floor: float | None = None) -> str:
    """Values as block characters, at most `width` of them; the highest is at `top` where a `floor` is given too."""
    points = [min(y, top) for y in points]
    columns = min(width, len(points))
    edges = [len(points) * i // columns for i in range(columns + 1)]
    means = [math.fsum(y / (b - a) for y in points[a:b]) for a, b in pairwise(edges)]
    low, high = (min(means), max(means)) if floor is None else (floor, top)
    if high <= low:
        return _BLOCKS[0] * columns
    return "".join(_BLOCKS[max(0, min(7, int(8 * ((value - low) / (high - low)))))] for value in means)


def _filled(fraction: float) -> str:
    full = round(_BAR * fraction)
    return "=" * max(0, full - 1) + (">" if full else "") + " " * (_BAR - full)
