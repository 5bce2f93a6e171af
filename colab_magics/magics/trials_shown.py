"""The trials in one output of the cell: a table, their curves together, and what to do next; and as a variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from colab_magics.magics.display import Notebook, Output, Screen, Terminal, Widget
from colab_magics.magics.grid import Grid, Page, chart_html
from colab_magics.panel import words
from colab_magics.panel.curves import Line, curves_html, curves_text
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.panel.trials import BEST_BY, Trial, best_of, shown
from colab_magics.run import Run


@dataclass(frozen=True)
class Told:
    """What is said of all trials together.

    Attributes
    ----------
    name : str
    best_by : str
        eval_loss or loss.
    length : str
        How long each is, and why.
    full : int
        Steps of the full training.
    """

    name: str
    best_by: str
    length: str
    full: int


@dataclass(frozen=True)
class Trials:
    """What came of trials; `--out` binds it.

    Attributes
    ----------
    rows : list of dict
        One a trial, in the order in which they are tried: the values, losses, seconds, tokens_per_second, memory in
        bytes, state and reason.
    best : Run
        The run of the best trial; None where none is finished. `best_values` is what it was of.
    table : pandas.DataFrame
        The rows; without pandas, the list of them.
    """

    name: str
    best_by: str
    root: Path = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        place = best_of(self.trials, self.best_by)
        return [_row(trial, best=number == place) for number, trial in enumerate(self.trials)]

    @property
    def best(self) -> Run | None:
        place = best_of(self.trials, self.best_by)
        return None if place is None else Run(self.root / self.trials[place].run)

    @property
    def best_values(self) -> dict[str, Any]:
        place = best_of(self.trials, self.best_by)
        return {} if place is None else dict(self.trials[place].values)

    @property
    def table(self) -> Any:
        if find_spec("pandas") is None:
            return self.rows
        import pandas as pd

        return pd.DataFrame(self.rows)

    def __repr__(self) -> str:
        done = sum(trial.standing == "finished" for trial in self.trials)
        place = best_of(self.trials, self.best_by)
        best = f"; best: {self.trials[place].called()}" if place is not None else ""
        return f"Trials({self.name!r}, {done} of {len(self.trials)} finished{best})"


def _row(trial: Trial, *, best: bool) -> dict[str, Any]:
    state = trial.state
    return {
        "run": trial.run,
        **trial.values,
        "first_loss": state.first_loss if state is not None else None,
        "last_loss": state.loss if state is not None else None,
        "smoothed_loss": trial.smoothed,
        "eval_loss": trial.eval_loss,
        "seconds": trial.seconds,
        "tokens_per_second": trial.tokens_per_second,
        "memory": trial.memory,
        "state": trial.standing,
        "reason": trial.reason,
        "best": best,
    }


class Board:
    """The screen of the panel of whichever trial is being trained: draws all trials at once."""

    def __init__(self, screen: Screen, told: Told, trials: Sequence[Trial]) -> None:
        self.interval = screen.interval
        self.told = told
        self.trials = list(trials)
        self.left: float | None = None  # seconds, as far as anybody can tell
        self._closed = False
        self._current: int | None = None
        self._screen = screen
        self._output = Output() if isinstance(screen, Notebook | Widget) else None

    def begin(self, place: int, run: str) -> None:
        """The trial at `place` is what is drawn from now on."""
        self._current = place
        self.trials[place] = replace(self.trials[place], run=run, standing="training", reason="")
        self.show()

    def end(self, place: int, trial: Trial) -> None:
        """That trial has come to this."""
        self._current = None
        self.trials[place] = trial
        if isinstance(self._screen, Terminal):
            self._screen.write(f"{trial.run}: {trial.called()}: {_said(trial)}")
        self.show()

    def draw(self, state: PanelState, moment: Moment) -> None:
        """A frame of the trial that is being trained."""
        if self._current is not None:
            self.trials[self._current] = replace(self.trials[self._current], state=state)
        if isinstance(self._screen, Terminal):
            self._screen.draw(state, moment)
        self.show()

    def finish(self, state: PanelState, moment: Moment = Moment()) -> None:  # noqa: B008 - it is frozen
        """The last frame of one trial is one of many here."""
        self.draw(state, moment)

    def show(self) -> None:
        """Draw the trials as they are."""
        if self._output is None:
            return
        frame = bundle(self.told, self.trials, self.left, closed=self._closed)
        as_html = not isinstance(self._screen, Notebook) or self._screen.as_html
        self._output.show(frame if as_html else {"text/plain": frame["text/plain"]})

    def close(self) -> None:
        """Draw what stays."""
        self.left, self._closed = None, True
        if isinstance(self._screen, Terminal):
            self._screen.write(bundle(self.told, self.trials, closed=True)["text/plain"])
        self.show()


def bundle(told: Told, trials: Sequence[Trial], left: float | None = None, *, closed: bool = False) -> dict[str, str]:
    """Table, curves and footer as a display bundle; `closed`: no cell is at it any more."""
    best = best_of(trials, told.best_by)
    lines = [
        Line(trial.called(), trial.state.curve, best=place == best)
        for place, trial in enumerate(trials)
        if trial.state is not None
    ]
    page = _page(told, trials, best, left, closed=closed)
    text = "\n".join(curves_text(lines))
    drawn = curves_html(lines)
    return {
        "text/html": page.html() + (chart_html("Training loss", drawn) if drawn else ""),
        "text/plain": page.text() + (f"\n\nTraining loss, all on one scale\n{text}" if text else ""),
    }


def _page(told: Told, trials: Sequence[Trial], best: int | None, left: float | None, *, closed: bool) -> Page:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    head = ("trial", *keys, "first loss", "last loss", "smoothed", "eval loss", "time", "tokens/s", "memory", "")
    rows = tuple(_cells(trial, keys, best=place == best) for place, trial in enumerate(trials))
    off = [place for place, trial in enumerate(trials) if trial.standing in ("waiting", "failed")]
    done = sum(trial.standing in ("finished", "failed") for trial in trials)
    lines = [
        f"{told.length} All see the same rows{'' if 'seed' in keys else ' in the same order'}.",
        f"The best is the one of the lowest {BEST_BY[told.best_by]}.",
    ]
    if left is not None and done < len(trials):
        lines.append(f"{len(trials) - done} to go: about {words.span(left)}.")
    title = f"{told.name}: {done} of {len(trials)} trials"
    return Page(title, lines, [Grid(head, rows, off=off, whole=head)], _foot(told, trials, best, closed=closed))


def _cells(trial: Trial, keys: Sequence[str], *, best: bool) -> tuple[str, ...]:
    state = trial.state
    losses = [None] * 4 if state is None else [state.first_loss, state.loss, trial.smoothed, trial.eval_loss]
    return (
        trial.run,
        *(shown(key, trial.values[key]) for key in keys),
        *(words.number(loss) if loss is not None else "" for loss in losses),
        words.duration(trial.seconds) if trial.seconds is not None else "",
        words.count(trial.tokens_per_second) if trial.tokens_per_second else "",
        words.size(trial.memory) if trial.memory is not None else "",
        "best" if best else "" if trial.standing == "finished" else _said(trial),
    )


def _said(trial: Trial) -> str:
    """Where it is, or how it ended."""
    state = trial.state
    if trial.standing == "failed":
        return f"failed: {trial.reason}"
    if trial.standing == "training" or (trial.standing == "stopped" and state is not None and state.step):
        what = words.phase(state) if state is not None and trial.standing == "training" else "stopped"
        _, done = words.progress(state) if state is not None else (None, "")
        return f"{what}, {done}" if done else what
    if trial.standing == "finished" and state is not None:
        return f"loss {words.number(state.first_loss)} → {words.number(state.loss)}"
    return trial.standing


def _foot(told: Told, trials: Sequence[Trial], best: int | None, *, closed: bool) -> list[str]:
    lines = []
    if any(trial.standing in ("waiting", "training", "stopped") for trial in trials):
        goes_on = "the same cell again goes on with the trials that are missing."
        if not closed:
            return [f"Interrupt this cell to stop in good order; {goes_on}"]
        lines = [goes_on.capitalize()]
    if best is None:
        return lines
    in_full = f"In full: %finetune best {told.name} trains {trials[best].called()} for {told.full:,} steps from the "
    in_full += "beginning, with the warm-up and the decay of so many. A trial's are as short as the trial."
    return [*lines, in_full, *_at_an_end(trials, trials[best])]


def _at_an_end(trials: Sequence[Trial], best: Trial) -> list[str]:
    """A best value that is the outermost of those tried may have better ones beyond it."""
    lines = []
    for key, value in best.values.items():
        tried = [trial.values[key] for trial in trials]
        if isinstance(value, bool) or not all(isinstance(one, int | float) for one in tried) or len(set(tried)) < 3:
            continue
        outermost = "largest" if value == max(tried) else "smallest" if value == min(tried) else ""
        if outermost and key != "seed":
            lines.append(f"The best {key} is the {outermost} that was tried: beyond it may be a better one.")
    return lines
