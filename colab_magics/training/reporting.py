"""Tells dashboards what a run's log says, beside the training and never in its way.

Each dashboard has a thread that reads `events.jsonl` behind the worker. So nothing of it happens in a step, there is
nothing to fill up where a dashboard is slow or hangs, and one that was turned on late, or on another machine, is told
what it has missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from colab_magics.errors import clean
from colab_magics.events import Event, EventReader
from colab_magics.training.trackers import Dashboard

EVERY = 1.0  # seconds between two looks into the log
_CLOSEST = 0.1  # seconds between two steps that are told: of a tiny model's hundred a second no curve needs all
_HANGS = 60.0  # seconds in one call, after which a dashboard is said to hang
_LEAVING = 15.0  # seconds that the end of a run waits for its dashboards
_GIB = 2**30


@dataclass(frozen=True)
class Point:
    """Figures at a step; `time` is a POSIX timestamp."""

    step: int
    time: float
    figures: dict[str, float]


class Reports:
    """Feeds dashboards from the log of an attempt. `start` and `stop` may be called twice.

    Parameters
    ----------
    log : the run's events.jsonl
    attempt : the one that is at work; only new dashboards are told of those before
    boards : what to feed
    warn : called with one sentence, once a dashboard at most
    """

    def __init__(self, log: Path, attempt: int, boards: Sequence[Dashboard], warn: Callable[[str], None]) -> None:
        self._ending = threading.Event()
        self._reporters = [_Reporter(board, log, attempt, self._ending, warn) for board in boards]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        if self._threads or not self._reporters:
            return
        for target in (*(one.run for one in self._reporters), self._look_for_hanging):
            thread = threading.Thread(target=target, name="reports", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let the dashboards take the last points and close, for a few seconds."""
        if self._ending.is_set():
            return
        self._ending.set()
        until = time.monotonic() + _LEAVING
        for reporter, thread in zip(self._reporters, self._threads, strict=False):
            if not reporter.hangs:
                thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                reporter.say("did not take the run's last figures in time; events.jsonl has them all")

    def _look_for_hanging(self) -> None:
        while not self._ending.wait(EVERY):
            for reporter in self._reporters:
                if reporter.hangs:
                    reporter.say(f"has not answered for {_HANGS:.0f} s; the training goes on without it")


class _Reporter:
    """One dashboard's thread."""

    def __init__(
        self, board: Dashboard, log: Path, attempt: int, ending: threading.Event, warn: Callable[[str], None]
    ) -> None:
        self._board, self._reader, self._attempt = board, EventReader(log), attempt
        self._ending, self._warn = ending, warn
        self._figures = Figures()
        self._tracker: Any = None
        self._said = False
        self._since: float | None = None

    @property
    def hangs(self) -> bool:
        since = self._since
        return since is not None and time.monotonic() - since > _HANGS

    def say(self, sentence: str) -> None:
        """Warn, if this dashboard was not warned of before."""
        if not self._said:
            self._said = True
            self._warn(clean(f"report_to: {self._board.name} {sentence}"))

    def run(self) -> None:
        try:
            last = False
            while not last:
                last = self._ending.wait(EVERY)
                for point in self._points():
                    self._tell(point)
            if self._tracker is not None:
                self._call(self._tracker.finish)
        except Exception as error:
            self.say(f"does not work: {_short(error)}; the training goes on without it")
        finally:
            self._reader.close()

    def _points(self) -> Iterable[Point]:
        events = self._reader.read()
        if not self._board.is_new:
            events = [event for event in events if event.get("attempt") == self._attempt]
        return thinned(self._figures.points(events))

    def _tell(self, point: Point) -> None:
        if self._tracker is None:
            self._tracker = self._call(lambda: self._board.open(point.step))
        try:
            self._call(lambda: self._board.log(self._tracker, point.figures, point.step, point.time))
        except Exception as error:  # a full disk, a server that is away: the next point may be taken
            self.say(f"did not take step {point.step}: {_short(error)}; the training goes on")

    def _call(self, function: Callable[[], Any]) -> Any:
        self._since = time.monotonic()
        try:
            return function()
        finally:
            self._since = None


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Figures:
    """Turns events into points, named as transformers names them. What memory says goes with the step after it."""

    def __init__(self) -> None:
        self._memory: dict[str, float] = {}

    def points(self, events: Iterable[Event]) -> list[Point]:
        """The points of `events`; steps that a resumed run took once more are left out."""
        made: list[Point] = []
        for event in events:
            kind, step = event["kind"], event.get("step")
            if kind == "memory":
                self._memory |= _system(event)
            elif kind == "resumed" and isinstance(step, int):
                made = [point for point in made if point.step <= step]
            elif kind in ("step", "eval") and isinstance(step, int):
                figures = _training(event) if kind == "step" else _evaluation(event)
                if kind == "step":
                    figures |= self._memory
                    self._memory = {}
                if figures:
                    when = datetime.fromisoformat(event["time"]).timestamp()
                    made.append(Point(step, when, figures))
        return made


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most ten steps a second, the last always; an evaluation is never left out."""
    kept: list[Point] = []
    before = 0.0
    for number, point in enumerate(points):
        if "train/loss" not in point.figures or number == len(points) - 1 or point.time - before >= _CLOSEST:
            kept.append(point)
            before = point.time
    return kept


def _training(event: Event) -> dict[str, float]:
    names = ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "tokens_per_second")
    torch_s = {f"memory/{name}_GiB": _gib(event.get(name)) for name in ("allocated", "reserved", "peak")}
    return _numbers({f"train/{name}": event.get(name) for name in names} | torch_s) | _rewards("train", event)


def _evaluation(event: Event) -> dict[str, float]:
    names = ("loss", "perplexity", "token_accuracy")
    return _numbers({f"eval/{name}": event.get(name) for name in names}) | _rewards("eval", event)


def _rewards(split: str, event: Event) -> dict[str, float]:
    """Where answers are compared, their rewards, as TRL names them."""
    return _numbers({f"{split}/rewards/{name}": value for name, value in (event.get("rewards") or {}).items()})


def _system(event: Event) -> dict[str, float]:
    host = event.get("host") or {}
    found = {
        "system/host_memory_GiB": _gib(host.get("used")),
        "system/process_memory_GiB": _gib(event.get("rss")),
        "system/cpu_percent": event.get("cpu"),
    }
    for device in event.get("devices") or ():
        name = f"system/gpu{device.get('index')}"
        found[f"{name}_memory_GiB"] = _gib(device.get("used"))
        found |= {f"{name}_{figure}": device.get(figure) for figure in ("utilisation", "temperature", "power")}
    return _numbers(found)


def _gib(size: Any) -> float | None:
    return size / _GIB if isinstance(size, int | float) else None


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Without what is not known, and what was no finite number: the log has null for both."""
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
