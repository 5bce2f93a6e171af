"""What the panel knows of a run: a frozen value, folded from the run's events and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from colab_magics.panel.attempts import Stood, as_it_stood
from colab_magics.panel.curve import Curve
from colab_magics.panel.folding import FOLDS
from colab_magics.panel.own import Own
from colab_magics.panel.parts import (
    Choice,
    Copied,
    Data,
    Eval,
    Mark,
    Memory,
    Model,
    Notice,
    Prior,
    Progress,
    Saved,
)
from colab_magics.session.budget import evaluations_left, seconds_of_evaluation
from colab_magics.session.forecast import Forecast, forecast

ENDED = ("finished", "stopped", "unfinished", "failed")


@dataclass(frozen=True)
class PanelState:
    """A run as the panel shows it. Times in seconds, memory in bytes; clocks in seconds since the epoch."""

    name: str = ""
    folder: str = ""
    phase: str = "starting"
    attempt: int = 0
    began_clock: float | None = None
    device: str = ""
    stood: Stood | None = None  # what the attempts before this one have come to
    own: Own | None = None  # of a loop that is no run of %%finetune
    progress: Progress | None = None
    data: tuple[Data, ...] = ()
    model: Model | None = None
    plan: tuple[Choice, ...] = ()
    estimate: float | None = None  # of the peak, before the run
    prior: Prior | None = None
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    first_loss: float | None = None
    odd_losses: int = 0  # how many were not finite
    margin: float | None = None  # where answers are compared, by how much the preferred ones are rewarded more
    preferred: float | None = None  # in what share of the pairs they are
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    tokens: int | None = None
    curve: Curve = field(default_factory=Curve)
    evals: tuple[Eval, ...] = ()  # the newest
    best_eval: Eval | None = None
    eval_curve: Curve = field(default_factory=lambda: Curve(limit=50))
    eval_every: int | None = None  # steps between two evaluations, as planned
    eval_tokens: int | None = None  # of one evaluation
    memory: Memory | None = None
    resumed: tuple[str, ...] = ()  # from where this attempt goes on, and what was lost
    went_on: tuple[str, ...] = ()  # the same, once it has ended
    resumed_step: int = 0
    saved: Saved | None = None
    copied: Copied | None = None
    copied_step: int | None = None  # of the newest checkpoint that the durable store is known to have
    copied_order: tuple[int, int] = (0, 0)  # how new that one is
    copied_clock: float | None = None  # when that was known
    notices: tuple[Notice, ...] = ()
    notices_left_out: int = 0
    marks: tuple[Mark, ...] = ()  # the newest steps of this attempt
    evaluated_for: float = 0.0  # seconds of evaluation since the last step
    seconds: float | None = None
    ended_clock: float | None = None
    path: str = ""
    reason: str = ""
    failure: tuple[str, ...] = ()
    aside: bool = False  # no cell waits for it
    said_below: bool = False  # the cell that it stands in says itself how it ended, and how to go on
    seen_clock: float | None = None  # when this was so, where it may have gone on since
    shown_again: bool = False  # by a later panel, which moves on in the place of this one

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from this attempt."""
        return self.phase in ENDED

    @property
    def begun_from(self) -> tuple[str, ...]:
        """From where this attempt goes on; of one that has ended, from where it did."""
        return self.went_on if self.ended else self.resumed

    @property
    def samples(self) -> str:
        """What its samples are called: documents, pairs of answers, judged examples."""
        return next((data.kind for data in self.data if data.split == "train"), "documents")

    @cached_property  # a frame asks more than once; equality and replace() look at the fields alone
    def forecast(self) -> Forecast | None:
        """When it ends: from the newest steps, from the plan before there are two, None if nobody can tell."""
        if self.ended:
            return None
        if self.total_steps is not None and self.marks:
            left = max(0, self.total_steps - self.step)
            measured = forecast(
                [mark.seconds for mark in self.marks if mark.seconds is not None], left, other=self._evals_left()
            )
            if measured is not None:
                return measured
        return self._guessed()

    def _guessed(self) -> Forecast | None:
        """From the plan's duration, which is that of the whole training."""
        if self.prior is None or self.step or (self.attempt > 1 and not self.resumed_step):
            return None  # what is left of it is not known before the checkpoint is
        share = 1 - min(1.0, self.resumed_step / self.total_steps) if self.total_steps else 1.0
        return Forecast(share * self.prior.mid, share * self.prior.high, measured=False)

    def _evals_left(self) -> float:
        """Seconds of the evaluations that are still to come."""
        if self.total_steps is None or not (self.evals or self.eval_tokens):
            return 0.0
        took = [one.seconds for one in self.evals if one.seconds is not None]
        scored = self.evals[-1].step if self.evals else 0
        left = evaluations_left(self.total_steps, self.eval_every, self.step, scored)
        return left * seconds_of_evaluation(took, self.eval_tokens, self.tokens_per_second)

    def fold(self, event: Mapping[str, Any]) -> PanelState:
        """The state after one more event; kinds and fields that nobody knows change nothing."""
        known = FOLDS.get(str(event.get("kind")))
        return self if known is None else known(self, event)

    def fold_all(self, events: Iterable[Mapping[str, Any]]) -> PanelState:
        """The state after all these events."""
        state = self
        for event in events:
            state = state.fold(event)
        return state

    def ended_without_a_word(
        self, *, stopped: bool, lines: tuple[str, ...] = ("The worker ended without a word.",)
    ) -> PanelState:
        """The state of a run whose worker is gone, and whose log has no end; `lines` say what is known of that."""
        # the last sign of life that the log holds
        clock = self.marks[-1].clock if self.marks else self.began_clock
        ended = replace(as_it_stood(self), progress=None, ended_clock=clock)
        return replace(ended, phase="stopped") if stopped else replace(ended, phase="unfinished", failure=lines)

    def put_aside(self, clock: float | None = None, *, shown_again: bool = False) -> PanelState:
        """The state at `clock` of a run for which no cell waits."""
        return replace(self, aside=True, seen_clock=clock, shown_again=shown_again)
