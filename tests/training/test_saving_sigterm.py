"""SIGTERM, at any place of a step: a checkpoint is taken, and the run goes on exactly."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import Trained, documents
from continued import (
    RUN,
    assert_same_end,
    goes_on,
    newest,
    saver_of,
    train_with,
)

from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.verify import entries
from colab_magics.training.orders import Orders

pytestmark = pytest.mark.colab  # libraries differ in what they keep of a state

DOCS = documents(20, longest=32)


@pytest.fixture
def a_run(tiny_run):
    def make(**changes: Any) -> Trained:
        return tiny_run(docs=DOCS, **({"effective_batch_size": 8, "max_steps": 8} | changes))

    return make


@pytest.fixture
def orders(tmp_path) -> Iterator[Orders]:
    """The worker's own orders, with its signal handlers."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    (tmp_path / "run").mkdir()
    orders = Orders(tmp_path / "run")
    orders.training_begins()
    yield orders
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Terminating:
    """Sends SIGTERM to this process at one of its calls, after doing what is asked."""

    def __init__(self, work: Callable[..., Any], at: int) -> None:
        self.work, self.at, self.calls = work, at, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self.work(*arguments, **options)
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGTERM)
        return result


class TerminatingLoss(Terminating):
    """The same, in the place of a task's loss."""

    def __init__(self, loss: Any, at: int) -> None:
        super().__init__(loss, at)
        self.chunk, self.chunked, self.score = loss.chunk, loss.chunked, loss.score


class TerminatingDocuments(list):
    """The same, at the `at`-th document that is read."""

    def __init__(self, docs: Any, at: int) -> None:
        super().__init__(docs)
        self.read = Terminating(list.__getitem__, at)

    def __getitem__(self, index: Any) -> Any:
        return self.read(self, index)


def _during(place: str, run: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SIGTERM come in the fifth step's work of that kind."""
    if place == "reading":
        object.__setattr__(run.task, "documents", TerminatingDocuments(DOCS, 31))
    elif place == "forward":  # steps 1 to 4 take 4, 4, 2 and 4 micro-batches
        object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    elif place == "backward":
        terminating = Terminating(torch.Tensor.backward, 16)

        def backward(tensor: torch.Tensor) -> None:
            terminating(tensor)

        monkeypatch.setattr(torch.Tensor, "backward", backward)
    elif place == "clipping":
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", Terminating(torch.nn.utils.clip_grad_norm_, 5))
    elif place == "update":
        run.task.optimizer.step = Terminating(run.task.optimizer.step, 5)  # type: ignore[method-assign]
    else:
        monkeypatch.setattr(run.task.loss, "score", Terminating(run.task.loss.score, 2))


@pytest.mark.parametrize("place", ["reading", "forward", "backward", "clipping", "update", "evaluation"])
def test_sigterm_at_any_place_loses_nothing_and_the_run_goes_on_exactly(a_run, tmp_path, monkeypatch, orders, place):
    changes = {
        "lora_dropout": 0.3,
        "per_device_train_batch_size": 2,
        "eval_docs": documents(6, seed=1),
        "eval_every": 5,
    }
    plain = a_run(**changes).run()
    with monkeypatch.context() as patched:
        run = a_run(**changes)
        saver = saver_of(run, tmp_path / "run")
        orders.on_terminate, orders.is_late = saver.terminated, saver.stops
        _during(place, run, patched)
        train_with(run, saver, orders)
    assert run.outcome is not None
    assert run.outcome.reason == "stopped"
    step = 5 if place in ("clipping", "update", "evaluation") else 4
    reasons = {event["step"]: event["reason"] for event in run.told("checkpoint") if event["action"] == "saved"}
    in_the_step = place in ("forward", "backward", "clipping")
    assert reasons[4 if in_the_step else step] == ("terminated" if in_the_step else "stop" if step == 4 else reasons[5])
    assert newest(tmp_path / "run").state["progress"]["step"] == step
    gone_on = goes_on(a_run(**changes), newest(tmp_path / "run")).run()
    assert_same_end(gone_on, [run], plain)


def test_sigterm_in_the_middle_of_a_step_has_been_copied_when_the_handler_returns(a_run, tmp_path, orders):
    """Whoever sends SIGTERM sends SIGKILL next: what the loop would do later may never be done."""
    run = a_run(per_device_train_batch_size=2)
    saver = saver_of(run, tmp_path / "run")
    seen = []

    def terminated() -> None:
        saver.terminated()
        saver.wait()
        seen.extend(entry.step for entry in entries(tmp_path / "run" / "checkpoints", run=RUN))

    orders.on_terminate = terminated
    object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    train_with(run, saver, orders)
    assert seen == [4]


@pytest.mark.parametrize("saved", [False, True])
def test_sigterm_says_so_where_the_size_does_not_allow_a_checkpoint(a_run, tmp_path, orders, saved):
    run = a_run(per_device_train_batch_size=2)
    saver = saver_of(run, tmp_path / "run", every=Every(steps=2 if saved else 99))
    orders.on_terminate = saver.terminated

    def slow_disk() -> None:
        saver.wait()
        saver._speed = 1000.0  # bytes a second
        saver.terminated()

    orders.on_terminate = slow_disk
    object.__setattr__(run.task, "loss", TerminatingLoss(run.task.loss, 17))
    train_with(run, saver, orders)
    [warning] = run.told("warning")
    assert "The machine is ending this process. A checkpoint takes about " in warning["message"]
    assert ("the newest may remain 00000004-a1" if saved else "there may be none") in warning["message"]
