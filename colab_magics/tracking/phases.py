"""Phases of a loop, epochs, batches and convergence: where a loop is, so that a resumed one skips what was done.

A cell that is run again runs all of its code again, from the top. What must not be done twice asks here: `rest` leaves
out the batches that were taken, `epochs` the epochs, and both nothing else. Random numbers are put where they stood.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.tracking import randomness
from colab_magics.tracking.progress import MOST_PATIENCE, UNIT, Loop, Progress

if TYPE_CHECKING:
    from colab_magics.tracking.tracked import Tracked

Batch = TypeVar("Batch")


class Phase:
    """A part of a tracked loop, with its own figures, total and curve. `run.phase(...)` gives one.

    Attributes
    ----------
    name : str
    unit : str
        What `done` and `total` count.
    """

    def __init__(self, run: Tracked, path: str, progress: Progress) -> None:
        self._run, self._path, self._progress = run, path, progress
        self._epoch = -1  # as this cell has come to it, which a resumed one does again from the top
        self._next_loop = 0
        self._opened: dict[str, int] = {}
        self._has_epochs = False
        self._odd: set[str] = set()  # figures that are no numbers, which was said

    @property
    def name(self) -> str:
        return self._progress.name

    @property
    def unit(self) -> str:
        return self._progress.unit

    @property
    def total(self) -> float | None:
        return self._progress.total

    @property
    def step(self) -> int:
        """How often `log` was called in it, also before the run was resumed."""
        self._run._count()
        return self._progress.step

    @property
    def done(self) -> float:
        """What it has counted, in `unit`: the figure of that name, else one a step."""
        self._run._count()
        done = self._progress.done
        return int(done) if done == int(done) else done

    @property
    def finished(self) -> bool:
        """Whether it had come to its end before this cell was run."""
        return self._progress.finished

    def epochs(self, number: int) -> Iterator[int]:
        """The epochs that are left of `number`, counted from 0, the one under way first. Once in a phase."""
        if self._has_epochs:
            raise ColabMagicsError(
                "epochs was called twice in one phase.",
                "A resumed loop could not tell the one pass from the other.",
                'Give each a phase: with run.phase("second") as phase: for epoch in phase.epochs(10): …',
            )
        self._has_epochs = True
        if self.finished:
            return
        progress = self._progress
        try:
            for epoch in range(max(0, progress.epoch), number):
                self._begin_epoch(epoch)
                yield epoch
        finally:
            self._begin_epoch(max(number, progress.epoch))

    def _begin_epoch(self, epoch: int) -> None:
        progress = self._progress
        if epoch != progress.epoch and progress.epoch >= 0:
            self._run._forget(f"{self._path}/{progress.epoch}:")
            progress.loops.pop(progress.epoch, None)
        self._epoch = progress.epoch = epoch
        self._next_loop, self._opened = 0, {}

    def rest(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches that were not taken yet.

        A batch counts as taken with the `log` that comes after it. Of a list or a range what was taken is not touched;
        of anything else, a loader say, it is read and dropped, under the random numbers with which the pass was begun,
        so that a shuffled order is the same.
        """
        loops = self._progress.loops.setdefault(self._epoch, [])
        while len(loops) <= self._next_loop:
            loops.append(Loop())
        loop = loops[self._next_loop]
        self._next_loop += 1
        if self.finished or loop.ended:
            return
        try:
            yield from self._left_of(loop, batches)
        finally:
            loop.ended = True

    def _left_of(self, loop: Loop, batches: Iterable[Batch]) -> Iterator[Batch]:
        if not loop.taken:
            loop.drawn = randomness.drawn()
            left = iter(batches)
        elif isinstance(batches, Sequence):
            left = (batches[at] for at in range(loop.taken, len(batches)))
        else:
            if loop.drawn is not None:
                randomness.draw_on(loop.drawn)
            left = iter(batches)
            next(islice(left, loop.taken, loop.taken), None)
        if loop.taken:
            self._run._draw_on()
            if self._progress.converged():
                return
        for batch in left:
            loop.taken += 1
            yield batch

    def converged(self, figure: str, *, patience: int = 3, tolerance: float = 1e-4) -> bool:
        """Whether a figure has not fallen by more than `tolerance` for `patience` steps in a row.

        Asked after the step's `log`. Where one of these values is no finite number it has not converged, and a line
        says so once. A resumed loop that had converged takes no further batch of `rest`.

        Parameters
        ----------
        figure : str
            A name that was given to `log` in this phase.
        patience : int
            From 1 to 255.
        tolerance : float
            In the unit of the figure.
        """
        self._run._count()
        if not 1 <= patience <= MOST_PATIENCE:
            raise ColabMagicsError(
                f"converged(patience={patience}) is not possible.",
                f"It is a number of steps from 1 to {MOST_PATIENCE}.",
            )
        progress = self._progress
        history = progress.histories.get(figure)
        if history is None and progress.step:
            close = nearest(figure, progress.histories)
            raise ColabMagicsError(
                f"No figure {figure} was logged in this phase.",
                f"There is {', '.join(progress.histories) or 'none'}.",
                f'Did you mean "{close}"?' if close else f"Call run.log({figure}=…) before.",
            )
        progress.criteria[figure] = (patience, float(tolerance))
        if history is not None and figure not in self._odd and not math.isfinite(history.newest[-1]):
            self._odd.add(figure)
            what = f"{figure} is {history.newest[-1]} at step {progress.step:,}"
            self._run.tell("warning", message=f"{what}, and never counts as converged. Stop the loop, and look why.")
        return history is not None and history.has_settled(patience, tolerance)

    def phase(self, name: str, *, total: float | None = None, unit: str = UNIT) -> Phase:
        """A part of this one, to be entered by `with`: steps that are logged in it are its own.

        Parameters
        ----------
        name : str
            It is shown, and is how a resumed run knows the phase again.
        total : float, optional
            How much there is to do, in `unit`.
        unit : str
            A figure that is given to `log`, or what one step is called.
        """
        key = f"{self._path}/{self._epoch}:{name}"
        self._opened[key] = self._opened.get(key, 0) + 1
        if self._opened[key] > 1:  # of the same name, one after the other
            key += f"#{self._opened[key]}"
        return Phase(self._run, key, self._run._progress_of(key, name, unit, total))

    def __enter__(self) -> Self:
        self._run._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._run._leave(self, completed=kind is None)
        return None
