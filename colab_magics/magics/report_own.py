"""The report of a loop of one's own: what it counted, phase by phase, and what holds for any run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from colab_magics.magics.grid import Grid
from colab_magics.magics.report_parts import Block, Missing, Section, Text
from colab_magics.panel import words
from colab_magics.panel.fields import items, mapping, shown
from colab_magics.panel.own import Own, Part
from colab_magics.panel.state import PanelState

# All others ask for a recipe, data or an adapter, which such a loop does not have.
_MOST_FIGURES = 8  # of a phase
_HOLD = ("Learning", "Memory", "Checkpoints and interruptions", "Cost", "Environment")


def of_own_loop(
    state: PanelState, own: Own, events: Sequence[Mapping[str, Any]], sections: Sequence[Section]
) -> list[Section]:
    """The sections of a run that say something of a loop, after what it did."""
    why = [Text(" ".join(line for line in state.failure if not line.startswith("→ ")))] if state.failure else []
    return [
        Section("What it did", [*why, *_phases(state, own, events)]),
        *(one for one in sections if one.title in _HOLD),
    ]


def _phases(state: PanelState, own: Own, events: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not state.step:
        return [Missing("Nothing: it has logged no step.")]
    now = Part(own.phase, own.step, own.done, own.total, own.unit, own.figure, *_ends(state))
    others = _last_figures(events)
    rows = [
        (
            part.name,
            f"{part.step:,}",
            _counted(part),
            f"{_plain(part.figure)} {words.number(part.first)} → {words.number(part.last)}",
            ", ".join(
                f"{_plain(name)} {words.number(value)}"
                for name, value in others.get(part.name, {}).items()
                if name != part.figure
            ),
        )
        for part in (*own.before, now)
    ]
    heads = ("phase", "steps", "done", "first → last", "and at its end")
    blocks: list[Block] = [Grid(heads, tuple(rows))]
    pairs = [(_plain(name), words.number(value)) for name, value in own.figures]
    if own.rate is not None:
        pairs.append((f"{own.unit or 'units'} a second", words.count(own.rate)))
    if pairs:
        blocks.append(Grid(("", ""), tuple(pairs), title="At the end"))
    return blocks


def _last_figures(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each phase: its figures, as they were at the last step that gave them."""
    last: dict[str, dict[str, float]] = {}
    for event in events:
        if event.get("kind") == "step":
            of_phase = last.setdefault(shown(event.get("phase"), 60), {})
            told, each = mapping(event.get("figures")), mapping(event.get("each"))
            for name in list(told)[:_MOST_FIGURES]:
                newest = items(each.get(name))[-1:] or [told[name]]
                if isinstance(newest[0], int | float):
                    of_phase[shown(name, 40)] = float(newest[0])
    return last


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _ends(state: PanelState) -> tuple[float | None, float | None]:
    """Where the curve of the phase begins and ends: several steps of a fast loop have one event, with their mean."""
    points = state.curve.drawn()
    return (points[0][1], points[-1][1]) if points else (None, None)


def _counted(part: Part) -> str:
    of = f" of {words.count(part.total)}" if part.total else ""
    return f"{words.count(part.done)}{of} {part.unit}".rstrip()
