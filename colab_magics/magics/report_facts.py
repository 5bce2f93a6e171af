"""What a run's folder holds, read once for its report. Nothing else is asked, and nothing is invented."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event
from colab_magics.inference.recorded import ASKED, BENCH, COMPARED
from colab_magics.magics.export_earlier import LOG as EXPORTS
from colab_magics.panel.attempts import as_it_stood
from colab_magics.panel.fields import items, mapping
from colab_magics.panel.state import PanelState
from colab_magics.recipe import Recipe
from colab_magics.run import Run
from colab_magics.session.table import Table

_MOST = 32 * 2**20


@dataclass(frozen=True)
class Facts:
    """A run, as its report sees it.

    Attributes
    ----------
    state : str
        As `Run.state` says.
    shown : PanelState
        The run folded, as its panel shows it.
    compared : mapping
        What `%compare` has written of rows, else of prompts; empty where it has not.
    asked : mapping
        What it has written of prompts beside rows.
    bench : mapping
        What `%generate --bench` has written.
    exports : sequence of mapping
        What `%export` has noted, the oldest first.
    now : float
        Seconds since the epoch.
    """

    name: str
    state: str
    recipe: Recipe | None
    events: Sequence[Event]
    shown: PanelState
    compared: Mapping[str, Any]
    exports: Sequence[Mapping[str, Any]]
    table: Table
    now: float
    kept: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    bench: Mapping[str, Any] = field(default_factory=dict)

    @property
    def comparing(self) -> str:
        """The line that compares it with its base; without evaluation data of its own it must be told which."""
        own = self.recipe is not None and self.recipe.eval_data is not None
        return f"%compare --run {self.name}" + ("" if own else " --data FILE")

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds, the oldest first."""
        return [event for event in self.events if event["kind"] in kinds]

    def newest(self, kind: str) -> Event:
        """The last event of a kind; an empty one where there is none."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), {})

    @cached_property
    def steps(self) -> list[Event]:
        """The steps that count, each once: what a later attempt took again, it took."""
        by_step: dict[int, Event] = {}
        attempt = None
        for event in self.of("step"):
            if event["attempt"] != attempt:
                attempt = event["attempt"]
                by_step = {step: one for step, one in by_step.items() if step < event["step"]}
            by_step[int(event["step"])] = event
        return [by_step[step] for step in sorted(by_step)]

    @cached_property
    def evals(self) -> list[Event]:
        """The evaluations that count, each step's once."""
        by_step: dict[int, Event] = {}
        attempt = None
        for event in self.of("eval", "step"):
            if event["attempt"] != attempt:
                attempt = event["attempt"]
                by_step = {step: one for step, one in by_step.items() if step < int(event["step"])}
            if event["kind"] == "eval":
                by_step[int(event["step"])] = event
        return [by_step[step] for step in sorted(by_step)]


def gather(run: Run, table: Table, *, now: float, kept: int = 0) -> Facts:
    """Read the run's folder.

    Parameters
    ----------
    table : of platforms, for what an hour costs
    kept : the steps that need not be taken again
    """
    try:
        recipe = run.recipe
    except (OSError, ColabMagicsError):
        recipe = None
    rows, prompts = (mapping(_json(run.folder / name)) for name in (COMPARED, ASKED))
    return Facts(
        name=run.name,
        state=run.state,
        recipe=recipe,
        events=run.events(),
        shown=as_it_stood(PanelState(name=run.name).fold_all(run.history())),
        compared=rows or prompts,
        exports=_lines(run.folder / EXPORTS),
        table=table,
        now=now,
        kept=kept,
        asked=prompts if rows else {},
        bench=mapping(_json(run.folder / BENCH)),
    )


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _lines(path: Path) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue  # torn
        if isinstance(told, Mapping):
            found.append(told)
    return found


def compared_rows(facts: Facts) -> list[Mapping[str, Any]]:
    """What was compared, the user's own prompts first, and what was said to each."""
    rows = [*items(facts.asked.get("rows")), *items(facts.compared.get("rows"))]
    return [row for row in rows if isinstance(row, Mapping)]


def compared_figures(facts: Facts, side: str) -> Mapping[str, Any]:
    """The figures of one side, `base` or `tuned`."""
    return mapping(facts.compared.get(side))
