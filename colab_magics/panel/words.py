"""How numbers and phases are written, the same in HTML and in text."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from colab_magics.panel.moment import Moment
from colab_magics.panel.own import Own
from colab_magics.panel.parts import Data
from colab_magics.panel.state import PanelState
from colab_magics.sizes import size

__all__ = ["size"]  # with the words below, for whoever writes several

_PHASES = {
    "starting": "starting the worker",
    "importing": "importing the libraries",
    "reading": "reading the data",
    "tokenising": "tokenising",
    "downloading": "downloading the model",
    "loading": "loading the model",
    "probing": "checking the architecture",
    "training": "training",
    "stopping": "stopping after this step",
    "finished": "finished",
    "stopped": "stopped",
    "unfinished": "unfinished",
    "failed": "failed",
}


def phase(state: PanelState) -> str:
    """What the run is doing, in a few words."""
    words = _PHASES.get(state.phase, state.phase)
    if state.reason == "early_stopping" and state.phase in ("stopping", "finished"):
        return f"{words} (the evaluation no longer improved)"
    return words


def number(value: float | None) -> str:
    """A loss or an accuracy: four figures, `n/a` where there is none."""
    if value is None:
        return "n/a"
    if not math.isfinite(value):
        return str(value)
    if 0 < abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.4g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def count(value: float | None) -> str:
    """A count: all digits below 10,000, then thousands, millions and so on."""
    if value is None:
        return "n/a"
    if value < 10_000:
        return f"{value:,.0f}"
    for amount, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 0.9995 * amount:
            return f"{value / amount:.3g}{unit}" if value < 999.5 * amount else f"{value / amount:.0f}{unit}"
    return f"{value:.0f}"


def rate(value: float) -> str:
    """A learning rate, as short as it can be written: 2e-4."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def duration(seconds: float) -> str:
    """A time: `42 s`, `4:12 min`, `1:02 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def span(seconds: float) -> str:
    """A time that is an estimate: no finer than 10 s, a minute, or 5 minutes, so that equal frames stay equal."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{max(1, minutes)} min"
    minutes = 5 * round(minutes / 5)
    return f"{minutes // 60:,}:{minutes % 60:02d} h"


def spans(each: float, number: int) -> tuple[str, str]:
    """An estimate of one, to a tenth or so, and of so many: what is written of all is the product of what is written
    of each, or a reader who multiplies finds another.
    """
    finest = next(step for below, step in ((20, 1), (120, 5), (1200, 30), (math.inf, 300)) if each < below)
    rounded = max(1, finest * round(each / finest))
    return duration(rounded), duration(number * rounded)


def age(seconds: float) -> str:
    """How long ago something was, as coarse as `span`, and never older than it is."""
    if seconds < 10:
        return "just now"
    if seconds < 60:
        return f"{seconds // 10 * 10:.0f} s ago"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min ago"
    minutes = minutes // 10 * 10
    return f"{minutes // 60:,}:{minutes % 60:02d} h ago"


def instant(clock: float) -> str:
    """A moment, as it will still be right tomorrow."""
    try:
        return datetime.fromtimestamp(clock, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def as_of(clock: float) -> str:
    """Of which moment a frame is that may stand still: the time first, which is what is compared with a clock."""
    day, _, time = instant(clock).partition(" ")
    return f"As of {time} on {day}" if time.endswith("UTC") else f"As of {instant(clock)}"


def when(clock: float, moment: Moment) -> str:
    """How long ago that was; in a frame that stays, when it was."""
    return instant(clock) if moment.now is None else age(moment.now - clock)


def progress(state: PanelState) -> tuple[float | None, str]:
    """How far the run is, as a fraction (None: nobody knows) and in words."""
    if state.progress is not None:
        now = state.progress
        written = size if now.unit == "bytes" else "{:,.0f}".format
        unit = "" if now.unit == "bytes" else f" {now.unit}"
        if now.total:
            done = min(now.done, now.total)
            return done / now.total, f"{written(done)} of {written(now.total)}{unit}"
        return None, f"{written(now.done)}{unit}" if now.done else ""
    if state.own is not None and state.step:
        return state.own.fraction, own_progress(state.own, ended=state.ended)
    if state.step and state.total_steps:
        words = f"step {state.step:,} of {state.total_steps:,}"
        if state.epoch is not None:
            words += f", epoch {state.epoch:.2f}"
        return min(1.0, state.step / state.total_steps), words
    if state.step:
        return None, f"step {state.step:,}"
    return None, ""


def own_progress(own: Own, *, ended: bool = False) -> str:
    """How far a loop of one's own is: `10,000/100,000 tokens (10%) | 1,200 tokens/s | ETA 75 s`."""
    phase = f"{own.phase}: " if own.phase else ""
    if own.total:
        parts = [f"{phase}{amount(own.done)}/{amount(own.total)} {own.unit} ({own.fraction:.0%})"]
    else:
        parts = [f"{phase}{amount(own.done)} {own.unit}"]
    if own.rate:
        parts.append(f"{amount(own.rate)} {own.unit}/s")
    if own.left is not None and not ended:
        parts.append(f"ETA {duration(own.left)}")
    return " | ".join(parts)


def amount(value: float) -> str:
    """A number of units: all digits of a whole one, three figures of a small one."""
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def own_parts(own: Own) -> list[str]:
    """The phases that are over, a line each."""
    lines = []
    for part in own.before:
        done = f"{amount(part.done)}/{amount(part.total)}" if part.total else amount(part.done)
        gone = f", {part.figure} {number(part.first)} → {number(part.last)}" if part.first is not None else ""
        lines.append(f"{part.name or 'before'}: {done} {part.unit}{gone}")
    return lines


def subject(state: PanelState) -> str:
    """What is trained on what."""
    parts: list[str] = []
    if state.model is not None:
        model = state.model.id
        if state.model.method:
            model += f", {state.model.method}"
        if state.model.trainable is not None and state.model.parameters:
            model += f" ({count(state.model.trainable)} of {count(state.model.parameters)} parameters)"
        parts.append(model)
    train = next((data for data in state.data if data.split == "train"), None)
    if train is not None:
        parts.append(f"{train.source}, {count(train.samples)} {train.kind}")
    if state.device:
        parts.append(state.device)
    return " · ".join(parts)


def data_facts(data: Data) -> list[tuple[str, str]]:
    """What the preflight found in one split of the data: label and value."""
    tokens = count(data.tokens)
    if data.trained_tokens is not None and data.tokens:
        tokens += f", {count(data.trained_tokens)} of them trained ({data.trained_tokens / data.tokens:.0%})"
    lengths = ", ".join(f"{key} {count(value)}" for key, value in data.lengths)
    cut = " answers" if data.kind == "pairs" else ""
    shown = [
        ("split", data.split),
        ("source", data.source + (" (tokens from the cache)" if data.cached else "")),
        ("format", data.format),
        (data.kind, count(data.samples)),
        ("tokens", tokens if data.tokens is not None else ""),
        ("length", lengths),
        ("max_length", count(data.max_length) if data.max_length else ""),
        ("truncated", count(data.truncated) + cut if data.truncated else ""),
        ("dropped", "; ".join(f"{number:,} {reason}" for reason, number in data.dropped)),
        ("masked by", data.mask_method),
        ("note", "; ".join(data.notes)),
    ]
    return [(label, value) for label, value in shown if value]


def footer(state: PanelState) -> list[str]:
    """What the person can do now."""
    name = state.name or "NAME"
    seen = "" if state.seen_clock is None else as_of(state.seen_clock)
    waits = state.copied is not None and state.copied.state in ("copying", "waiting", "full")
    if state.phase == "unfinished":
        return [_resume(state)]
    if state.phase == "failed" and not waits:
        return [_resume(state)] if state.own is not None and not state.said_below else []
    if state.ended and state.copied is not None and waits:
        left = f"{size(state.copied.left)} are" if state.copied.left else "something is"
        told = f"The training has ended; {left} still to be copied to {state.copied.where}."
        told += " It is tried for up to 30 minutes."
        if state.aside:
            return [f"{seen}. {told}" if seen else told]
        return [told, "Interrupt this cell to leave that to the background: it ends with the machine."]
    if state.ended:
        lines = [f"The result is in {state.path}."] if state.path else []
        cut_short = state.phase == "stopped" and (
            state.own is not None or state.total_steps is None or state.step < state.total_steps
        )
        return [*lines, _resume(state)] if cut_short else lines
    if state.own is not None and not state.aside:
        return [
            "Interrupt this cell to stop in good order: at its next log the step is saved. Twice: at once.",
            f"From another notebook or a terminal: python -m colab_magics save | stop {name}",
        ]
    if state.aside:
        if state.shown_again:
            return [f"{seen}; shown again below." if seen else "Shown again below."]
        told = f"It trains on without this cell: %panel {name} shows it, %finetune stop {name} ends it."
        if state.own is not None:
            told = f"It goes on in its own notebook: %finetune stop {name} ends it."
        return [f"{seen}. {told}" if seen else told]
    interrupt = (
        "Interrupt this cell to stop in good order: the step is finished and saved, and a resume goes on from it. "
        "Interrupt twice to stop at once."
    )
    return [
        interrupt,
        f"From another notebook or a terminal: python -m colab_magics attach | save | stop | detach {name}",
    ]


def _resume(state: PanelState) -> str:
    """How to go on with what is left, and from where."""
    step = state.saved.step if state.saved is not None else state.resumed_step
    if not step:
        return "There is no checkpoint yet: the cell, run again, starts over."
    if state.own is not None:
        return f"The cell, run again, goes on from step {step:,}."
    return f"%checkpoint resume {state.name or 'NAME'} goes on from step {step:,}."
