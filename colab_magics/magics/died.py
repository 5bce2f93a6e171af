"""A worker that is gone without a word: what can be known of it, for the cell's error and for the panel alike."""

from __future__ import annotations

import re
from pathlib import Path

from colab_magics import worker
from colab_magics.errors import ColabMagicsError, clean, redact
from colab_magics.magics.again import newest_entry
from colab_magics.panel.state import PanelState
from colab_magics.run import Run


def _own_loop(run: Run, at: str) -> ColabMagicsError:
    """A loop of one's own has no process but its notebook's."""
    return ColabMagicsError(
        f"The notebook of {run.name} ended without a word {at}.",
        "Its kernel was restarted or killed, or the machine's memory has run out.",
        f"{what_next(run)}.",
    )


def died(run: Run, exit_code: int | None, state: PanelState, folder: Path, attempt: int) -> ColabMagicsError:
    """At which step, by which signal, with which last lines in its log, and how to go on."""
    at = f"at step {state.step:,}" if state.marks else "before its first step"
    if run.is_own_loop:
        return _own_loop(run, at)
    kept = worker.log_path(run.folder, attempt)
    # where a process aborts, what it said stands above a long list of frames, which tell the reader nothing
    noise = re.compile(r'  File "|.*\(most recent call (last|first)\):')
    tail = [line for line in worker.log_tail(folder, attempt, 60) if not noise.match(line)]
    if exit_code == -9:
        why = "It was killed (signal 9); a machine whose memory has run out does that."
    elif exit_code is None:
        why = "This is the end of its log:" if tail else "It left nothing in its log."
    else:
        why = f"It was ended by signal {-exit_code}" if exit_code < 0 else f"It ended with code {exit_code}"
        why += "; this is the end of its log:" if tail else "; its log is empty."
    return ColabMagicsError(
        f"The worker of {run.name} ended without a word {at}.",
        why,
        f"The whole log is {kept}." if kept.exists() else "",
        f"{what_next(run)}.",
        details=[redact(clean(line))[:160] for line in tail[-4:]],
    )


def ended(
    run: Run, state: PanelState, folder: Path, attempt: int | None = None, exit_code: int | None = None
) -> PanelState:
    """The state of an attempt whose worker is gone, with all that can be known of that if it left no last word."""
    if state.ended:
        return state
    if worker.was_killed(folder):
        return state.ended_without_a_word(stopped=True)
    error = died(run, exit_code, state, folder, attempt or max(1, state.attempt))
    # how to go on is said by the panel's foot already
    *lines, _ = error.lines()
    return state.ended_without_a_word(stopped=False, lines=tuple(lines))


def what_next(run: Run) -> str:
    """How to go on, and from where."""
    newest = newest_entry(run)
    if newest is None:
        return "there is no checkpoint yet; run the cell again to start over from step 0"
    if run.is_own_loop:
        return f"the cell, run again, goes on from step {newest.step:,}"
    return f"%checkpoint resume {run.name} (or the cell again) goes on from step {newest.step:,}"
