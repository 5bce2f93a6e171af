"""`%vram why`: the newest out-of-memory, of this notebook's own cells or of a run, and what to change."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event
from colab_magics.magics.cell_record import FailedCell
from colab_magics.magics.failed_cell import FAILURES
from colab_magics.magics.grid import Grid, Page
from colab_magics.magics.kept_error import kept_error
from colab_magics.memory.culprit import Cause
from colab_magics.memory.diagnosis import Diagnosis, diagnose, lost_context
from colab_magics.memory.logged import facts_of, message_of, newest
from colab_magics.memory.messages import is_sticky
from colab_magics.run import Run, list_runs
from colab_magics.sizes import size

_MOST_RUNS = 20  # the newest that are looked into
_CAUGHT = "An error that a cell caught itself is not seen here. One that a variable keeps (err = e) is."


@dataclass(frozen=True)
class _Found:
    """Where memory ran out, when (seconds since the epoch), and why."""

    where: str
    at: float
    diagnosis: Diagnosis
    foot: tuple[str, ...] = ()


def why(words: Sequence[str], shell: Any, root: Path) -> dict[str, str]:
    """What `%vram why [RUN]` shows, as a display bundle.

    Parameters
    ----------
    words : of the line after `why`: none, or the name of a run
    shell : the notebook's, for the number of this cell, and for errors that its variables keep
    root : where runs are kept

    Raises
    ------
    ColabMagicsError
        More than one word, an option, or a run that is not there.
    """
    found = _named(_one(words), root) if words else _newest(root, shell)
    if found is None:
        looked = [f"No cell of this kernel since %load_ext, and none of the runs here. {_CAUGHT}"]
        return Page(
            "Nothing has run out of memory.",
            ["Not this run."] if words else looked,
            foot=["%vram shows what fills the GPU now."],
        ).bundle()
    return _page(found).bundle()


def _one(words: Sequence[str]) -> str:
    if words[0].startswith("-"):
        raise ColabMagicsError(
            f"%vram why has no option {words[0]}.",
            "It takes the name of a run, or nothing.",
            "%vram why tells of the newest out-of-memory, of this notebook or of a run.",
        )
    if len(words) > 1:
        raise ColabMagicsError(
            "%vram why takes one run.", f"{words[0]} and {words[1]} are two.", "Name one of them, or one a cell."
        )
    return words[0]


def _named(name: str, root: Path) -> _Found | None:
    from colab_magics.magics.commands import find

    return _of_run(find(name, root, "%vram why").run)


def _newest(root: Path, shell: Any) -> _Found | None:
    this_cell = _number(shell)
    cell = FAILURES.last
    kept = kept_error(shell)
    runs = (found for run in list_runs(root)[:_MOST_RUNS] if (found := _of_run(run)) is not None)
    both = [*([_of_cell(cell, this_cell)] if cell is not None else []), *runs]
    newest = max(both, key=lambda found: found.at, default=None)
    if kept is None or (cell is not None and cell.cell >= kept[1].cell):
        return newest
    name, caught = kept
    if newest is not None and newest.where.startswith("Run "):  # when the other was is not known
        line = f"`{name}` keeps an out-of-memory of a cell: %vram why tells of it where no run has run out of memory."
        return replace(newest, foot=(*newest.foot, line))
    found = _of_cell(caught, 0)
    foot = f"`{name}` keeps alive what its frames hold: %vram free {name} gives it back."
    return replace(found, where=f"{found.where}; the error is kept in `{name}`", foot=(*found.foot, foot))


def _number(shell: Any) -> int:
    """Of the cell that runs now: IPython 9 counts on before it runs one, 7 after."""
    inputs = getattr(shell, "user_ns", {}).get("In")
    if isinstance(inputs, list):
        return len(inputs) - 1
    return int(getattr(shell, "execution_count", 0) or 0)


def _of_cell(cell: FailedCell, this_cell: int) -> _Found:
    where = f"Cell [{cell.cell}] of this notebook" if cell.cell else "A cell of this notebook"
    since = [f"No cell has ended by such an error since. {_CAUGHT}"] if 0 < cell.cell < this_cell - 1 else []
    if cell.lost_context:
        return _Found(where, cell.at, lost_context(cell.message), tuple(since))
    diagnosis = diagnose(cell.facts())
    unknown = diagnosis.cause is Cause.FULL and not cell.config
    foot = ["No transformers model was found in the cell's frames: its sizes are not known."] if unknown else []
    return _Found(where, cell.at, diagnosis, (*foot, *since))


def _of_run(run: Run) -> _Found | None:
    events = run.events()
    event = newest(events)
    if event is None:
        return None
    where = f"Run {run.name}"
    message = message_of(event)
    if is_sticky(message):
        return _Found(where, _seconds(event), lost_context(message))
    facts = facts_of(run.name, event, events, _recipe(run), kernel=_held_here())
    return _Found(where, _seconds(event), diagnose(facts), tuple(_since(event, events)))


def _since(event: Event, events: Sequence[Event]) -> Iterator[str]:
    """What became of the run after it."""
    after = [one for one in events if str(one.get("time", "")) >= str(event.get("time", ""))]
    recovered = [one for one in after if one.get("kind") == "recovered"]
    if recovered:
        settled = recovered[-1]
        changes = [f"{settled['micro_batch']} at a time"] if settled.get("micro_batch") else []
        changes += ["gradient checkpointing on"] if settled.get("gradient_checkpointing") is True else []
        yield f"The worker did the step again with {', '.join(changes) or 'less at once'}; nothing is lost."
    elif any(one.get("kind") == "failed" for one in after) or event.get("kind") == "failed":
        yield "The run ended of it. Change the recipe, then run the cell again with --override."


def _recipe(run: Run) -> dict[str, Any]:
    try:
        recipe = run.recipe
    except (OSError, ColabMagicsError, ValueError):  # the recipe of another version
        return {}
    return {"r": recipe.r, "max_memory": recipe.max_memory}


def _held_here() -> int | None:
    """Bytes that torch holds in this kernel, if it uses a GPU."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        return int(torch.cuda.memory_reserved())
    except Exception:
        return None


def _seconds(event: Event) -> float:
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return 0.0


def _page(found: _Found) -> Page:
    diagnosis = found.diagnosis
    rows = tuple(
        (
            one.line,
            f"about {size(one.saves)}" if one.saves is not None else "",
            "" if one.enough is None else "yes" if one.enough else "not alone",
            one.note,
        )
        for one in diagnosis.remedies
    )
    grid = Grid(
        ("change", "saves", "enough", "note"), rows, title="What to change", whole=("change", "saves", "enough")
    )
    moment = datetime.fromtimestamp(found.at, timezone.utc).astimezone() if found.at else None
    when = f", {moment:%Y-%m-%d %H:%M}" if moment is not None else ""
    return Page(
        diagnosis.sentence, [f"{found.where}{when}", *diagnosis.details], [grid] if rows else [], found.foot
    )  # fmt: skip
