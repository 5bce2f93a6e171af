"""What a running worker's log says of its peak, beside what was predicted: to correct what is predicted next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """The highest peak that a step of the newest attempt has reached.

    Attributes
    ----------
    peak : int
        Bytes that torch's allocator had handed out, of the attempt's training alone: without loading, and since
        memory last ran out.
    in_memory : int
        Tokens of that step's largest micro-batch, its padding included.
    step : int
        The step that reached it.
    predicted : int, optional
        The plan's estimate in bytes, of the documents that it reckoned with; None where the log has none.
    ratio : float, optional
        `peak / predicted`.
    """

    peak: int
    in_memory: int
    step: int
    predicted: int | None
    ratio: float | None


def measured(events: Iterable[Mapping[str, Any]]) -> Measured | None:
    """Read a run's events; None where nothing was measured, as on a CPU, or in a log from before this was told.

    A peak that rose while documents were scored between two steps is not a step's, and is passed over.
    """
    predicted: int | None = None
    found: tuple[int, int, int] | None = None
    attempt, top, scored = None, 0, False
    for event in events:
        kind = event.get("kind")
        if kind == "started" or (kind == "step" and event.get("attempt") != attempt):
            attempt, found, top, scored = event.get("attempt"), None, 0, False
        if kind == "plan":
            predicted = _bytes(_mapping(event.get("estimate")).get("peak")) or predicted
        elif kind == "oom":
            found, top = None, 0  # what did not fit is no measure of what then does
        elif kind == "eval" or (kind == "warning" and "oom" in event):
            scored = True
        elif kind == "step":
            peak, in_memory, step = (_bytes(event.get(name)) for name in ("peak", "in_memory", "step"))
            if peak is not None and peak > top:
                top = peak
                if not scored and in_memory is not None and step is not None:
                    found = (peak, in_memory, step)
            scored = False
    if found is None:
        return None
    return Measured(*found, predicted, found[0] / predicted if predicted else None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _bytes(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
