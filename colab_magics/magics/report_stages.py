"""Where a run's time went, stage by stage, from the times of its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from colab_magics.panel.fields import amount, clock

Event = Mapping[str, Any]

_STAGES = {
    "importing": "start the worker",
    "checking the checkpoints": "load the checkpoint",
    "reading the model's config": "load data",
    "reading": "load data",
    "looking at the replica": "plan",
    "tokenising": "format and tokenise",
    "probing": "plan",
    "estimating the memory": "plan",
    "downloading": "download the model",
    "loading": "load model",
}
_ORDER = (
    "start the worker", "load the checkpoint", "load data", "format and tokenise", "plan", "download the model",
    "load model", "train", "evaluate", "save", "write the result, and the rest", "merge", "test",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage and its seconds, over all attempts; None where it was not measured."""

    name: str
    seconds: float | None


def stages(events: Sequence[Event], exports: Sequence[Mapping[str, Any]], tested: float | None) -> list[Stage]:
    """The stages in the order in which a run takes them.

    The time from an event to the next one belongs to the stage that the first of them tells, until the training
    begins: from there on steps, evaluations and saves tell their own.

    Parameters
    ----------
    exports : what `%export` has noted
    tested : the seconds of a comparison or a test, if there was one
    """
    taken: dict[str, float] = {}
    for attempt in sorted({int(event.get("attempt", 1)) for event in events}):
        for name, passed in _of_attempt([one for one in events if one.get("attempt", 1) == attempt]):
            taken[name] = taken.get(name, 0.0) + passed
    merged = [seconds for one in exports if one.get("what") == "merged" and (seconds := amount(one, "seconds"))]
    found: dict[str, float] = {
        **taken,
        **({"merge": merged[-1]} if merged else {}),
        **({"test": tested} if tested is not None else {}),
    }
    must = ("load data", "load model", "format and tokenise", "train", "evaluate", "save", "merge", "test")
    return [Stage(name, found.get(name)) for name in _ORDER if name in found or name in must]


def _of_attempt(events: Sequence[Event]) -> Iterable[tuple[str, float]]:
    begins = next((n for n, one in enumerate(events) if _phase(one) == "training" or one["kind"] == "step"), None)
    before = events if begins is None else events[: begins + 1]
    stage = ""
    for event, following in pairwise(before):
        if event["kind"] == "started":
            stage = _STAGES["importing"]
        elif event["kind"] == "progress":
            stage = _STAGES.get(_phase(event), stage)
        elif event["kind"] == "plan":
            stage = "plan"
        begin, end = clock(event), clock(following)
        if stage and begin is not None and end is not None and end > begin:
            yield stage, end - begin
    if begins is None:
        return
    training = events[begins:]
    told = {
        "train": sum(amount(one, "seconds") or 0.0 for one in training if one["kind"] == "step"),
        "evaluate": sum(amount(one, "seconds") or 0.0 for one in training if one["kind"] == "eval"),
        "save": sum(amount(one, "stall") or 0.0 for one in training if one["kind"] == "checkpoint"),
    }
    yield from ((name, seconds) for name, seconds in told.items() if seconds)
    begin, end = clock(training[0]), clock(training[-1])
    if begin is not None and end is not None:
        yield "write the result, and the rest", max(0.0, end - begin - sum(told.values()))


def _phase(event: Event) -> str:
    return str(event.get("phase")) if event["kind"] == "progress" else ""
