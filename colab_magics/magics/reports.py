"""`%finetune recipe` and `%finetune data`: what would be trained, and on what, without training.

A worker does the same preflight as for a run, in a temporary folder that vanishes.
"""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.credentials import token_environment
from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event, read_events
from colab_magics.magics.cell import Cell, conclude
from colab_magics.magics.display import Nowhere, Panel
from colab_magics.magics.follow import Died, Followed, Follower, interrupts
from colab_magics.magics.held import held_by_kernel
from colab_magics.magics.starting import write_inputs
from colab_magics.panel import words
from colab_magics.panel.parts import Data
from colab_magics.panel.state import PanelState
from colab_magics.recipe import Parsed, Recipe, parse
from colab_magics.recipe.explain import with_trials
from colab_magics.run import Run
from colab_magics.session.here import for_worker


def recipe_report(cell: Cell) -> str:
    """The complete recipe as YAML, with the reason of each `auto`."""
    saved = _saved(cell)
    if saved is not None:
        choices = [event["choices"] for event in saved.events() if event["kind"] == "plan"]
        return saved.recipe.explain(choices[-1] if choices else None)
    if _nothing_said(cell):
        return Recipe().explain(None, ("model", "data"))  # the keys and their defaults: there is nothing to plan for
    parsed = parsed_of(cell)
    _, events = preflight(cell, parsed.recipe, "plan")
    choices = [event["choices"] for event in events if event["kind"] == "plan"]
    told = parsed.recipe.explain(choices[-1] if choices else None, parsed.given)
    return told if parsed.search is None else with_trials(told, parsed.search)


def data_report(cell: Cell) -> dict[str, str]:
    """What the preflight finds in the data, as a display bundle."""
    if _nothing_said(cell):
        raise ColabMagicsError(
            "%finetune data names no data.",
            "A line has no body in which a recipe could stand.",
            "Give --model and --data on the line, or write %%finetune data with the recipe below it.",
        )
    saved = _saved(cell)
    events = saved.events() if saved is not None else look(cell, "data")[1]
    state = PanelState().fold_all(events)
    return {
        "text/plain": "\n\n".join(_as_text(data) for data in state.data),
        "text/html": "".join(_as_html(data) for data in state.data),
    }


def _nothing_said(cell: Cell) -> bool:
    options = cell.options
    return not (cell.body.strip() or options.recipe or options.preset or options.name)


def _saved(cell: Cell) -> Run | None:
    """The run that the line names, where there is nothing but a name."""
    options = cell.options
    if cell.body.strip() or options.recipe or options.preset or options.name is None:
        return None
    from colab_magics.run import find_run

    return find_run(options.name, cell.root)


def look(cell: Cell, until: str) -> tuple[Recipe, list[Event]]:
    """The cell's recipe, and what a worker tells that goes as far as "data" or "plan"; of trials, the first one's."""
    parsed = parsed_of(cell)
    if parsed.search is not None and until == "plan":
        cell.say(f"{', '.join(parsed.search.varied)}: several values are given, and this is about the first.")
    return parsed.recipe, preflight(cell, parsed.recipe, until)[1]


def parsed_of(cell: Cell) -> Parsed:
    """What the cell says; what became of its keys is said."""
    parsed = parse(cell.body, cell.options.recipe, preset=cell.options.preset, namespace=cell.namespace)
    for note in parsed.notes:
        cell.say(note)
    return parsed


def preflight(cell: Cell, recipe: Recipe, until: str) -> tuple[dict[str, Any], list[Event]]:
    """The inputs of a run of `recipe`, and the events of a worker that goes no further than `until`."""
    with tempfile.TemporaryDirectory(prefix="colab_magics-") as home:
        folder = Path(home) / "run"
        folder.mkdir()
        inputs = write_inputs(folder, recipe, cell.namespace, say=cell.say)
        with interrupts() as presses:
            arguments = ["--until", until, "--kernel-holds", str(held_by_kernel(cell.say))]
            arguments += ["--clock", cell.clock] if cell.clock else []
            process = worker.spawn(folder, 1, arguments=tuple(arguments), env={**token_environment(), **for_worker()})
            follower = Follower(folder, 1, process=process)
            followed = follower.follow(Panel(Nowhere()), presses)
        if not _through(followed):
            conclude(cell, Run(Path(home) / "the preflight"), followed, folder, 1)
        events = read_events(folder / "events.jsonl")
        for event in events:
            if event["kind"] == "warning":
                cell.say(str(event["message"]))
        return inputs, events


def _through(followed: Followed) -> bool:
    """A worker that was to stop before training goes without a last word, and with code 0."""
    return isinstance(followed.outcome, Died) and followed.outcome.exit_code == 0


def _as_text(data: Data) -> str:
    facts = words.data_facts(data)
    width = max(len(label) for label, _ in facts)
    lines = [f"{label.ljust(width)}  {value}" for label, value in facts]
    if data.sample:
        lines += ["one sample, the trained part between ⟦ and ⟧:"]
        lines += ["".join(f"⟦{part}⟧" if trained else part for part, trained in data.sample)]
    return "\n".join(lines)


def _as_html(data: Data) -> str:
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in words.data_facts(data))
    sample = "".join(f"<mark>{escape(part)}</mark>" if trained else escape(part) for part, trained in data.sample)
    return f"<table>{rows}</table>" + (f"<pre>{sample}</pre>" if sample else "")
