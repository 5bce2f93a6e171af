"""The report of a loop of one's own: what it counted, phase by phase, and what holds for any run."""

from __future__ import annotations

from collections.abc import Sequence

from colab_magics.magics.grid import Grid
from colab_magics.magics.report_parts import Block, Missing, Section
from colab_magics.panel import words
from colab_magics.panel.own import Own, Part
from colab_magics.panel.state import PanelState

# All others ask for a recipe, data or an adapter, which such a loop does not have.
_HOLD = ("Learning", "Memory", "Checkpoints and interruptions", "Cost", "Environment")


def of_own_loop(state: PanelState, own: Own, sections: Sequence[Section]) -> list[Section]:
    """The sections of a run that say something of a loop, after what it did."""
    return [Section("What it did", _phases(state, own)), *(one for one in sections if one.title in _HOLD)]


def _phases(state: PanelState, own: Own) -> list[Block]:
    if not state.step:
        return [Missing("Nothing: it has logged no step.")]
    now = Part(own.phase, own.step, own.done, own.total, own.unit, own.figure, *_ends(state))
    rows = [
        (part.name, f"{part.step:,}", _counted(part), f"{words.number(part.first)} → {words.number(part.last)}")
        for part in (*own.before, now)
    ]
    figure = own.figure.replace("_", " ")
    blocks: list[Block] = [Grid(("phase", "steps", "done", figure), tuple(rows))]
    pairs = [(name.replace("_", " "), words.number(value)) for name, value in own.figures]
    if own.rate is not None:
        pairs.append((f"{own.unit or 'units'} a second", words.count(own.rate)))
    if pairs:
        blocks.append(Grid(("", ""), tuple(pairs), title="At the end"))
    return blocks


def _ends(state: PanelState) -> tuple[float | None, float | None]:
    """Where the curve of the phase begins and ends: several steps of a fast loop have one event, with their mean."""
    points = state.curve.drawn()
    return (points[0][1], points[-1][1]) if points else (None, None)


def _counted(part: Part) -> str:
    of = f" of {words.count(part.total)}" if part.total else ""
    return f"{words.count(part.done)}{of} {part.unit}".rstrip()
