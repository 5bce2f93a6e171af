"""How far a loop is: what it has counted, in which phase, epoch and batch it is, and how its figures went."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_PATIENCE = 255
UNIT = "steps"  # where nobody names another


@dataclass
class History:
    """One figure of a phase: the newest values, and the lowest of those before them.

    It is of bounded size, so that a checkpoint after a million steps is as small as one after ten.
    """

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_PATIENCE))
    lowest: float = math.inf

    def add(self, value: float) -> None:
        if len(self.newest) == MOST_PATIENCE and math.isfinite(self.newest[0]):
            self.lowest = min(self.lowest, self.newest[0])
        self.newest.append(value)

    def has_settled(self, patience: int, tolerance: float) -> bool:
        """Whether none of the last `patience` values was lower than all before them by more than `tolerance`.

        A loop whose values are no numbers any more is broken, and has settled nowhere.
        """
        values = list(self.newest)
        if len(values) <= patience or not all(map(math.isfinite, values[-patience:])):
            return False
        before = min([self.lowest, *filter(math.isfinite, values[:-patience])])
        return not min(values[-patience:]) < before - tolerance


@dataclass
class Loop:
    """One pass over batches, from where `rest` began it.

    Attributes
    ----------
    taken : int
        How many batches it has handed out.
    drawn : optional
        Where the random numbers stood when it began: the order of a shuffled loader follows from that.
    """

    taken: int = 0
    ended: bool = False
    drawn: Any = None


@dataclass
class Progress:
    """Of one phase, or of the whole run.

    Attributes
    ----------
    step : int
        How often `log` was called in it.
    done : float
        What it has counted, in `unit`.
    epoch : int
        The epoch it is in, from 0; -1 where it has none.
    loops : dict
        Epoch -> its passes: of the one under way, and of what comes before all epochs (-1).
    criteria : dict
        Figure -> (patience, tolerance): what was asked of it, which a resumed loop asks again before its first batch.
    """

    name: str
    unit: str
    total: float | None = None
    step: int = 0
    done: float = 0.0
    epoch: int = -1
    finished: bool = False
    loops: dict[int, list[Loop]] = field(default_factory=dict)
    criteria: dict[str, tuple[int, float]] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)

    def count(self, figures: Mapping[str, float]) -> None:
        """One more step with these figures.

        A unit that is among them counts by its figure; tokens only so; any other unit (steps, batches, iterations)
        counts one a step otherwise.
        """
        self.step += 1
        counted = figures.get(self.unit)
        self.done += counted if counted is not None else 0.0 if self.unit == "tokens" else 1.0

    def remember(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            history = self.histories.get(name)
            if history is None:
                history = self.histories[name] = History()
            history.add(value)

    def converged(self) -> bool:
        """Whether what was asked of its figures before is so now."""
        return any(
            name in self.histories and self.histories[name].has_settled(*asked) for name, asked in self.criteria.items()
        )

    def told(self) -> dict[str, Any]:
        """As values that can be saved."""
        return {
            "name": self.name,
            "unit": self.unit,
            "total": self.total,
            "step": self.step,
            "done": self.done,
            "epoch": self.epoch,
            "finished": self.finished,
            # a pass that has ended needs its random numbers no more
            "loops": {
                epoch: [[loop.taken, loop.ended, None if loop.ended else loop.drawn] for loop in loops]
                for epoch, loops in self.loops.items()
            },
            "criteria": {name: list(asked) for name, asked in self.criteria.items()},
            "histories": {name: [list(one.newest), one.lowest] for name, one in self.histories.items()},
        }

    @staticmethod
    def of(told: Mapping[str, Any]) -> Progress:
        """What `told` gave."""
        return Progress(
            name=str(told["name"]),
            unit=str(told["unit"]),
            total=told["total"],
            step=int(told["step"]),
            done=float(told["done"]),
            epoch=int(told["epoch"]),
            finished=bool(told["finished"]),
            loops={
                int(epoch): [Loop(int(taken), bool(ended), drawn) for taken, ended, drawn in loops]
                for epoch, loops in told["loops"].items()
            },
            criteria={name: (int(one[0]), float(one[1])) for name, one in told["criteria"].items()},
            histories={
                name: History(deque(newest, maxlen=MOST_PATIENCE), float(lowest))
                for name, (newest, lowest) in told["histories"].items()
            },
        )
