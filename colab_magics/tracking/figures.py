"""The figures of a loop's steps, gathered and told in batches: a step costs a microsecond, not an event."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.tracking import arrays
from colab_magics.tracking.progress import Progress

EVERY = 0.5  # seconds between two batches
_MOST_EACH = 1000  # values that one event lists; of faster steps every second, third, … is listed
_RECENT = 20  # batches by which the speed of now is told
NUMBERS = (float, int)
_ITS_OWN = ("loss", "learning_rate")  # fields of a step event that all its readers know


def plain(name: str, value: Any) -> Any:
    """A figure as a number; one that lies on a GPU stays there until the batch is told, so that no step waits for it.

    Raises
    ------
    ColabMagicsError
        It is no number, or many.
    """
    if arrays.is_torch(value) and value.numel() == 1:
        value = value.detach()
        return value.clone() if value.device.type != "cpu" else float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        many = f"of shape {tuple(value.shape)}" if arrays.is_array(value) else f"of type {type(value).__name__}"
        raise ColabMagicsError(
            f"log({name}=…) takes a number.",
            f"It was given a value {many}.",
            f"Write {name}={name}.mean(), or float().",
        ) from None


class Batch:
    """Steps of one phase that are not told yet, and how fast the phase goes."""

    def __init__(self, whole: Progress, phase: Progress) -> None:
        self._whole, self._phase = whole, phase
        self._values: dict[str, list[float]] = {}
        self._steps = 0
        self._began: float | None = None  # when the step before the first of these ended
        self._marks: deque[tuple[float, float, int]] = deque(maxlen=_RECENT)

    def begin(self, now: float) -> None:
        """The clock of its first step starts, or starts again after a pause that was no step."""
        self._began = now
        self._marks.clear()
        self._marks.append((now, self._phase.done, self._phase.step))

    def add(self, figures: Mapping[str, float]) -> None:
        self._steps += 1
        for name, value in figures.items():
            values = self._values.get(name)
            if values is None:
                values = self._values[name] = []
            values.append(value)

    def told(self, now: float) -> dict[str, Any] | None:
        """The fields of a `step` event for what was added; None if that is nothing."""
        if not self._steps:
            return None
        began = now if self._began is None else self._began
        self._marks.append((now, self._phase.done, self._phase.step))
        seconds = max(0.0, now - began) / self._steps
        rate, a_step = self._speed()
        shown = {name: _mean(values) for name, values in self._values.items() if name != self._phase.unit}
        event: dict[str, Any] = {
            "step": self._whole.step,
            "total_steps": self._total_steps(a_step),
            "seconds": seconds,
            **{name: shown.pop(name) for name in _ITS_OWN if name in shown},
            "phase": self._phase.name,
            "phase_step": self._phase.step,
            "unit": self._phase.unit,
            "done": _short(self._phase.done),
            "total": _short(self._phase.total),
            "per_second": rate,
            "figures": shown,
        }
        if self._phase.unit == "tokens":
            event |= {"tokens": _short(self._phase.done), "tokens_per_second": rate}
        if self._steps > 1:
            event["steps"] = self._steps
            event["each"] = {name: _thinned(values) for name, values in self._values.items()}
        self._values, self._steps, self._began = {}, 0, now
        return event

    def _speed(self) -> tuple[float | None, float | None]:
        """Units a second, and units a step, of the newest batches."""
        if len(self._marks) < 2:
            return None, None
        (then, done, step), (now, now_done, now_step) = self._marks[0], self._marks[-1]
        rate = (now_done - done) / (now - then) if now > then else None
        return rate, (now_done - done) / (now_step - step) if now_step > step else None

    def _total_steps(self, a_step: float | None) -> int | None:
        """At which step of the whole run this phase ends, if its steps go on counting as they do."""
        if self._phase.total is None or not a_step:
            return None
        return self._whole.step + max(0, math.ceil((self._phase.total - self._phase.done) / a_step - 1e-9))


def fetch(pending: list[dict[str, Any]]) -> None:
    """Make numbers of the figures that lie on a GPU: in one copy a device, and not one a step."""
    by_device: dict[Any, list[tuple[dict[str, Any], str]]] = {}
    for figures in pending:
        for name, one in figures.items():
            if type(one) not in NUMBERS:
                by_device.setdefault(one.device, []).append((figures, name))
    for places in by_device.values():
        together = sys.modules["torch"].stack([figures[name].reshape(()).float() for figures, name in places])
        for (figures, name), value in zip(places, together.tolist(), strict=True):
            figures[name] = value


def _mean(values: list[float]) -> float:
    return fmean(values) if len(values) > 1 else float(values[0])


def _thinned(values: list[float]) -> list[float]:
    return values[:: -(-len(values) // _MOST_EACH)] if len(values) > _MOST_EACH else values


def _short(value: float | None) -> float | None:
    """A whole number as one."""
    return int(value) if value is not None and math.isfinite(value) and value == int(value) else value
