"""Follows TRL's trainer from callback to callback: events, orders, evaluation, checkpoints, as in our own loop."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from colab_magics.errors import ColabMagicsError
from colab_magics.training.loop import (
    Control,
    Keeper,
    OnEvent,
    Progress,
    RandomState,
    random_state,
    restore_random_state,
)
from colab_magics.training.oom import OutOfMemory
from colab_magics.training.preferences.scoring import score
from colab_magics.training.preferences.told import figures, told_of
from colab_magics.training.preferences.tuning import Tuning
from colab_magics.training.watch import allocator


class Ended(Exception):
    """The training is over where the trainer cannot be told so: before its first step."""


class Follower(TrainerCallback):  # type: ignore[misc]
    """One attempt's eyes and hands inside TRL's trainer.

    Attributes
    ----------
    reason : str
        How it ended, as in `Outcome`.
    phase : str
        What is under way, for an out-of-memory that is caught outside.
    drawn : RandomState, optional
        torch's random state at the start of the step under way; None where weights and optimizer are between two
        states, or no step is under way.
    """

    def __init__(self, tuning: Tuning, progress: Progress, on_event: OnEvent, control: Control, keeper: Keeper) -> None:
        self.tuning, self.progress = tuning, progress
        self.on_event, self.control, self.keeper = on_event, control, keeper
        self.reason, self.phase, self.own = "completed", "forward", 0.0
        self.drawn: RandomState | None = None
        self.figures: dict[str, float] = {}
        self.begun = progress.step
        self.samples: list[int] = []
        self._order = tuning.order.steps(progress.step, tuning.total_steps, progress.samples)
        self._random = random_state(tuning.device)
        self._begin = time.perf_counter()
        self._rate = 0.0
        self._logs: dict[str, Any] = {}

    # --- called by the trainer ---------------------------------------------------------------------------------------

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Put the trainer where the run is; whatever it drew while it was made must not move what dropout draws."""
        state.global_step = self.progress.step
        restore_random_state(self._random, self.tuning.device)
        if self._evaluates() is not None:
            raise Ended

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begin = time.perf_counter()
        self.samples = next(self._order)[1]
        self.phase, self.drawn = "forward", random_state(self.tuning.device)
        self.keeper.rests(self.drawn)

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """The gradients are clipped and nothing is updated yet: the last moment at which nothing is lost."""
        loss = float(self.tuning.trainer.step_loss)
        self._check(loss, state.global_step + 1)
        self._rate = self.tuning.schedule.get_last_lr()[0]
        self.keeper.rests(None)
        self.phase, self.drawn = "optimizer", None

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self._logs = dict(logs or {})
        if "loss" in self._logs and state.global_step == self.progress.step + 1:
            self._stepped(self._logs)
            self.phase = "forward"
            if self._ends():
                control.should_training_stop = True

    # --- a step ------------------------------------------------------------------------------------------------------

    def _check(self, loss: float, step: int) -> None:
        """Raise where the loss or a gradient is no number, and no scale of fp16 is to blame."""
        scaler, gradients = self.tuning.scaler, [p.grad for p in self.tuning.model.parameters() if p.grad is not None]
        finite = math.isfinite(loss)
        overflows = (
            scaler is not None and scaler.get_scale() > 1.0
        )  # the optimizer skips the step, and halves the scale
        if finite and (overflows or all(bool(torch.isfinite(one).all()) for one in gradients)):
            return
        shown = ", ".join(map(str, self.samples[:16])) + (" …" if len(self.samples) > 16 else "")
        raise ColabMagicsError(
            f"The {'gradient' if finite else 'loss'} is not a finite number at step {step}; the weights were not "
            "touched by it.",
            f"Its samples: {shown}.",
            "Use a smaller learning_rate." if scaler is None else "Use precision: fp32, or a smaller learning_rate.",
        )

    def _stepped(self, logs: dict[str, Any]) -> None:
        end, progress, tuning = time.perf_counter(), self.progress, self.tuning
        loss, seconds = float(tuning.trainer.step_loss), end - self._begin
        tokens = sum(tuning.rows.tokens(self.samples))
        progress.step += 1
        progress.samples += len(self.samples)
        progress.tokens += tokens
        progress.last_loss = loss
        if progress.first_loss is None:
            progress.first_loss = loss
        told = figures(logs)
        self.figures = told.get("rewards", {})
        norm = logs.get("grad_norm")
        self.on_event(
            "step",
            step=progress.step,
            total_steps=tuning.total_steps,
            epoch=progress.samples / tuning.order.documents,
            loss=loss,
            learning_rate=self._rate,
            grad_norm=float(norm) if norm is not None and math.isfinite(float(norm)) else None,
            tokens=progress.tokens,
            tokens_per_second=tokens / seconds,
            samples=progress.samples,
            seconds=seconds,
            in_memory=max(map(tuning.rows.padded, tuning.parts(self.samples, progress))),
            **told,
            **allocator(tuning.device),
        )
        self.own += time.perf_counter() - end

    def _ends(self) -> bool:
        """What comes between two steps: orders, evaluation, checkpoints; whether the training ends here."""
        order = self.control()
        if order is not None:
            self.obey(order)
            return True
        best = self._evaluates()
        if best is not None:
            return True
        if self.has_converged():
            self.reason = "early_stopping"
            self.on_event("stopping", reason="early_stopping", step=self.progress.step)
            return True
        self.keeper.after_step(best=self._best)
        return False

    def obey(self, order: str, drawn: RandomState | None = None) -> None:
        """End in good order: the event, and a checkpoint of this very state."""
        late = order == "deadline"
        self.reason = "deadline" if late else "stopped"
        self.on_event("stopping", reason="deadline" if late else "stop", step=self.progress.step)
        self.keeper.now("stop", drawn)

    # --- evaluation --------------------------------------------------------------------------------------------------

    _best = False

    def _evaluates(self) -> str | None:
        """Score the held-out answers where that is due; the order that broke it off, already obeyed."""
        self._best = False
        if not self.evaluation_is_due():
            return None
        order = self.evaluate()
        if order is not None:
            self.obey(order)
        return order

    def evaluation_is_due(self) -> bool:
        tuning, progress = self.tuning, self.progress
        if tuning.eval_rows is None or progress.evaluated == progress.step:
            return False
        return progress.step == tuning.total_steps or bool(tuning.eval_steps and progress.step % tuning.eval_steps == 0)

    def has_converged(self) -> bool:
        patience, progress = self.tuning.early_stopping, self.progress
        stagnant = patience is not None and progress.evaluations_without_gain >= patience
        return stagnant and progress.step < self.tuning.total_steps

    def evaluate(self) -> str | None:
        """Score the held-out answers; the order that broke it off."""
        tuning, progress, begin = self.tuning, self.progress, time.perf_counter()
        assert tuning.eval_rows is not None
        self.keeper.rests(random_state(tuning.device))
        scored = score(tuning.trainer, tuning.eval_rows, progress.arrangement.micro_batch, self.control)
        self.keeper.rests(None)
        tuning.trainer.model.eval()  # TRL gathers its figures by the mode that the model is in, and tells those now
        tuning.trainer.log({"eval_loss": scored.loss if not isinstance(scored, OutOfMemory | str) else 0.0})
        tuning.trainer.model.train()
        if isinstance(scored, str):
            return scored
        if isinstance(scored, OutOfMemory):
            said = f"evaluation at step {progress.step} ran out of memory: {scored.first_line}"
            first = progress.step == 0
            oom = told_of(scored, tuning.eval_rows, [], progress.step, progress.arrangement, first=first)
            self.on_event("warning", message=said, oom=oom)
            return None
        progress.eval_loss, progress.evaluated = scored.loss, progress.step
        self._best = scored.loss < progress.best_eval_loss
        if self._best:
            progress.best_eval_loss, progress.evaluations_without_gain = scored.loss, 0
        else:
            progress.evaluations_without_gain += 1
        self.on_event(
            "eval",
            step=progress.step,
            loss=scored.loss,
            seconds=time.perf_counter() - begin,
            **figures(self._logs, "eval_"),
        )
        return None
