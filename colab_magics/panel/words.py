"""How numbers and phases are written, the same in HTML and in text."""

from __future__ import annotations

import math

from colab_magics.panel.parts import Data
from colab_magics.panel.state import PanelState

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
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def count(value: float | None) -> str:
    """A count: all digits below 10,000, then thousands, millions and so on."""
    if value is None:
        return "n/a"
    if value < 10_000:
        return f"{value:,.0f}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes, in the unit that suits them."""
    if value is None:
        return "n/a"
    for amount, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= amount:
            return f"{value / amount:.1f} {unit}"
    return f"{value:.0f} bytes"


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
    if state.step and state.total_steps:
        words = f"step {state.step:,} of {state.total_steps:,}"
        if state.epoch is not None:
            words += f", epoch {state.epoch:.2f}"
        return min(1.0, state.step / state.total_steps), words
    if state.step:
        return None, f"step {state.step:,}"
    return None, ""


def facts(state: PanelState) -> list[tuple[str, str]]:
    """The numbers under the chart: label and value."""
    shown: list[tuple[str, str]] = []
    if state.evals:
        last = state.evals[-1]
        value = number(last.loss)
        if last.perplexity is not None:
            value += f", perplexity {last.perplexity:.4g}"
        if last.accuracy is not None:
            value += f", tokens right {last.accuracy:.0%}"
        shown.append(("evaluation", value))
    if state.tokens_per_second:
        shown.append(("tokens/s", count(state.tokens_per_second)))
    if state.learning_rate is not None and not state.ended:
        shown.append(("learning rate", rate(state.learning_rate)))
    if state.memory is not None:
        value = size(state.memory.used)
        if state.memory.total is not None:
            value = f"{value.removesuffix(' GiB')} of {size(state.memory.total)}"
        if state.memory.peak is not None:
            value += f", peak {size(state.memory.peak)}"
        shown.append(("GPU memory", value))
    if state.saved is not None:
        shown.append(("checkpoint", checkpoint(state)))
    if state.copied is not None:
        shown.append(("replica", replica(state)))
    if state.tokens and state.ended:
        shown.append(("tokens", count(state.tokens)))
    if state.seconds is not None:
        shown.append(("time", duration(state.seconds)))
    elif state.seconds_left is not None:
        shown.append(("time left", duration(state.seconds_left)))
    return shown


def checkpoint(state: PanelState) -> str:
    """The newest checkpoint, and what it cost."""
    if state.saved is None:
        return ""
    value = f"step {state.saved.step:,}, {size(state.saved.size)}"
    if state.saved.stall is not None:
        waited = state.saved.stall
        shown = f"{waited * 1000:.0f} ms" if waited < 1 else f"{waited:.1f} s"
        share = f" ({state.saved.share:.1%})" if state.saved.share is not None else ""
        value += f", training waited {shown}{share}"
    return value


def replica(state: PanelState) -> str:
    """What the durable copy is at, in the words that the store deserves."""
    if state.copied is None:
        return ""
    now = state.copied
    if now.state == "done":
        return now.message.rstrip(".").lower()
    step = state.copied_step if now.state == "confirmed" else now.step
    value = f"{now.state} step {step:,}" if step is not None else now.state
    if now.left:
        value += f", {size(now.left)} left"
    if now.state != "confirmed" and state.copied_step is not None:
        value += f", confirmed step {state.copied_step:,}"
    return value


def loss(state: PanelState) -> str:
    """The loss, and where it came from."""
    if state.step == 0:
        return ""
    if state.first_loss is None or state.curve.points[:1] == state.curve.drawn():
        return number(state.loss)
    return f"{number(state.loss)}, from {number(state.first_loss)}"


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
        parts.append(f"{train.source}, {count(train.documents)} documents")
    if state.device:
        parts.append(state.device)
    return " · ".join(parts)


def data_facts(data: Data) -> list[tuple[str, str]]:
    """What the preflight found in one split of the data: label and value."""
    tokens = count(data.tokens)
    if data.trained_tokens is not None and data.tokens:
        tokens += f", {count(data.trained_tokens)} of them trained ({data.trained_tokens / data.tokens:.0%})"
    lengths = ", ".join(f"{key} {count(value)}" for key, value in data.lengths)
    shown = [
        ("split", data.split),
        ("source", data.source + (" (tokens from the cache)" if data.cached else "")),
        ("format", data.format),
        ("documents", count(data.documents)),
        ("tokens", tokens if data.tokens is not None else ""),
        ("length", lengths),
        ("max_length", count(data.max_length) if data.max_length else ""),
        ("truncated", count(data.truncated) if data.truncated else ""),
        ("dropped", "; ".join(f"{number:,} {reason}" for reason, number in data.dropped)),
        ("masked by", data.mask_method),
        ("note", "; ".join(data.notes)),
    ]
    return [(label, value) for label, value in shown if value]


def footer(state: PanelState) -> list[str]:
    """What the person can do now."""
    name = state.name or "NAME"
    waits = state.copied is not None and state.copied.state in ("copying", "waiting", "full")
    if state.phase == "unfinished" or (state.phase == "failed" and not waits):
        return []
    if state.ended and state.copied is not None and waits:
        left = f"{size(state.copied.left)} are" if state.copied.left else "something is"
        return [
            f"The training has ended; {left} still to be copied to {state.copied.where}. It is tried for 30 minutes.",
            "Interrupt this cell to leave that to the background: it ends with the machine.",
        ]
    if state.ended:
        return [f"The result is in {state.path}."] if state.path else []
    if state.reason == "detached":
        return [f"It trains on without this cell: %finetune attach {name} shows it, %finetune stop {name} ends it."]
    interrupt = (
        "Interrupt this cell to stop in good order: the step is finished and saved, and a resume goes on from it. "
        "Interrupt twice to stop at once."
    )
    return [
        interrupt,
        f"From another notebook or a terminal: python -m colab_magics attach | save | stop | detach {name}",
    ]
