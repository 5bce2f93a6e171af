"""Training by comparison, from where a run is to its last step: TRL's trainer steps, and is followed and stopped."""

from __future__ import annotations

import time
import warnings

from colab_magics.errors import ColabMagicsError
from colab_magics.training.loop import KEEPS_NOTHING, Control, Keeper, OnEvent, Outcome, Progress
from colab_magics.training.oom import OutOfMemory, attempt, release
from colab_magics.training.oom_told import update_failed
from colab_magics.training.preferences.follower import Ended, Follower
from colab_magics.training.preferences.told import does_not_fit, told_of
from colab_magics.training.preferences.trainer import Abandoned, Steps, feed
from colab_magics.training.preferences.tuning import Tuning


def compare(
    tuning: Tuning, progress: Progress, on_event: OnEvent, control: Control, keeper: Keeper = KEEPS_NOTHING
) -> Outcome:
    """Run until the last step, an order, or early stopping; as `loop.train`, with TRL's trainer doing the steps.

    Raises
    ------
    ColabMagicsError
        When the loss or the gradients are not finite, or a micro-batch does not fit into memory.
    """
    started = time.perf_counter()
    follower = Follower(tuning, progress, on_event, control, keeper)
    trainer = tuning.trainer
    steps = Steps(tuning.order, progress, tuning.total_steps, progress.arrangement.micro_batch)
    feed(trainer, steps, tuning.rows.batch, control)
    trainer.add_callback(follower)
    try:
        if follower.has_converged():
            follower.reason = "early_stopping"
            on_event("stopping", reason="early_stopping", step=progress.step)
        elif len(steps):
            _steps(tuning, progress, follower, on_event, keeper)
        elif follower.evaluation_is_due() and (order := follower.evaluate()) is not None:
            follower.obey(order)
    finally:
        trainer.remove_callback(follower)
    seconds = time.perf_counter() - started
    return Outcome(follower.reason, progress, seconds, follower.own, follower.figures)


def _steps(tuning: Tuning, progress: Progress, follower: Follower, on_event: OnEvent, keeper: Keeper) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that transformers is about to change
            ended = attempt(tuning.trainer.train)
    except Ended:
        return
    except Abandoned:
        tuning.optimizer.zero_grad(set_to_none=True)
        follower.obey("stop-now", follower.drawn)
        return
    except ColabMagicsError:
        tuning.optimizer.zero_grad(set_to_none=True)
        keeper.now("failed", follower.drawn)  # no weight was touched: a smaller learning_rate may go on from here
        raise
    finally:
        keeper.rests(None)
    if isinstance(ended, OutOfMemory):
        raise _out_of_memory(ended, tuning, progress, follower, on_event, keeper)


def _out_of_memory(
    failure: OutOfMemory,
    tuning: Tuning,
    progress: Progress,
    follower: Follower,
    on_event: OnEvent,
    keeper: Keeper,
) -> ColabMagicsError:
    first = progress.step == follower.begun
    samples = [] if follower.phase == "optimizer" else list(tuning.trainer.part)
    oom = told_of(failure, tuning.rows, samples, progress.step + 1, progress.arrangement, first=first)
    if follower.phase == "optimizer":
        oom["phase"] = "optimizer"
    on_event("oom", **oom)
    tuning.optimizer.zero_grad(set_to_none=True)
    release()
    if follower.phase == "optimizer":  # it may have written some of the weights: no checkpoint is taken of that
        return update_failed(failure, oom, fresh=first, adapter=hasattr(tuning.model, "peft_config"))
    keeper.now("failed", follower.drawn)
    return does_not_fit(failure, oom, objective=tuning.recipe.objective)
