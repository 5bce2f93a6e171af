"""A run that was interrupted and gone on with is the run that was not, bit for bit."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Trained, documents
from continued import (
    assert_same_end,
    assert_same_tensors,
    goes_on,
    newest,
    saver_of,
    stopped_after,
    tensors_of,
    train_with,
)
from hypothesis import given
from hypothesis import strategies as st

from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.verify import entries
from colab_magics.errors import ColabMagicsError
from colab_magics.training.batches import Order
from colab_magics.training.state import read_saved

pytestmark = pytest.mark.colab  # libraries differ in what they keep of a state

DOCS = documents(20, longest=32)
STEPS = 8
# 20 documents, 8 a step: an epoch is 3 steps, and its last takes 4
EFFECTIVE = 8

RECIPES: dict[str, dict[str, Any]] = {
    "lora with dropout": {"lora_dropout": 0.3},
    "full": {"method": "full"},
    "full with dropout in the model": {
        "method": "full", "model_type": "gpt2", "config": {"resid_pdrop": 0.2, "attn_pdrop": 0.2, "embd_pdrop": 0.2}
    },
    "qlora": {"method": "qlora", "lora_dropout": 0.1},
    "packing": {"packing": True, "lora_dropout": 0.1},
    "accumulation": {"per_device_train_batch_size": 2, "lora_dropout": 0.1},
    "fp16": {"precision": "fp16", "lora_dropout": 0.1},
    "gradient checkpointing": {"gradient_checkpointing": True, "lora_dropout": 0.2},
    "modules_to_save": {"modules_to_save": ["lm_head"], "config": {"tie_word_embeddings": False}},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "weight decay": {"method": "full", "weight_decay": 0.1},
    "adamw_torch": {"optim": "adamw_torch"},
    "adamw_torch_fused": {"optim": "adamw_torch_fused"},
    "adafactor": {"optim": "adafactor"},
    "sgd": {"optim": "sgd"},
    "adamw_8bit": {"optim": "adamw_8bit", "method": "full"},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 3},
    "cosine_with_restarts": {"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 3},
    "linear": {"lr_scheduler_type": "linear", "warmup_steps": 3},
    "polynomial": {"lr_scheduler_type": "polynomial", "warmup_steps": 3},
    "constant": {"lr_scheduler_type": "constant"},
    "constant_with_warmup": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 6},
    "inverse_sqrt": {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 3},
}  # fmt: skip


@pytest.fixture
def a_run(tiny_run):
    def make(**changes: Any) -> Trained:
        return tiny_run(docs=DOCS, **({"effective_batch_size": EFFECTIVE, "max_steps": STEPS} | changes))

    return make


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_is_the_uninterrupted_one(a_run, tmp_path, recipe):
    changes = RECIPES[recipe]
    plain = a_run(**changes).run()
    stopped = stopped_after(a_run(**changes), 4, tmp_path / "run")
    assert len(stopped.losses) == 4
    gone_on = goes_on(a_run(**changes), newest(tmp_path / "run")).run()
    assert_same_end(gone_on, [stopped], plain)


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "paged_adamw_32bit"])
def test_a_paged_optimizer_too_where_it_runs(a_run, tmp_path, optim):
    try:
        plain = a_run(optim=optim).run()
    except Exception as error:  # bitsandbytes raises what it likes where there is no GPU
        pytest.skip(f"{optim} does not run on this CPU: {type(error).__name__}: {error}")
    stopped = stopped_after(a_run(optim=optim), 4, tmp_path / "run")
    assert_same_end(goes_on(a_run(optim=optim), newest(tmp_path / "run")).run(), [stopped], plain)


@pytest.mark.parametrize("step", range(1, STEPS))
def test_before_at_and_after_the_edge_of_an_epoch(a_run, tmp_path, step):
    plain = a_run(lora_dropout=0.2).run()
    stopped = stopped_after(a_run(lora_dropout=0.2), step, tmp_path / "run")
    gone_on = goes_on(a_run(lora_dropout=0.2), newest(tmp_path / "run")).run()
    assert [event["samples"] for event in plain.told("step")] == [8, 16, 20, 28, 36, 40, 48, 56]
    assert_same_end(gone_on, [stopped], plain)


def _scores(run: Trained) -> list[dict[str, Any]]:
    """What every evaluation found; how long it took is another matter."""
    return [{name: value for name, value in score.items() if name != "seconds"} for score in run.told("eval")]


def test_a_stop_after_every_single_step(a_run, tmp_path):
    plain = a_run(lora_dropout=0.2, eval_docs=documents(6, seed=1), eval_every=2).run()
    parts: list[Trained] = []
    for attempt in range(1, STEPS + 1):
        run = a_run(lora_dropout=0.2, eval_docs=documents(6, seed=1), eval_every=2)
        if parts:
            goes_on(run, newest(tmp_path / "run"))
        saver = saver_of(run, tmp_path / "run", attempt=attempt)
        parts.append(train_with(run, saver, lambda run=run, attempt=attempt: _stop_at(run, attempt)))
    assert [len(part.losses) for part in parts] == [1] * STEPS
    # the order to stop came between the last step and its evaluation
    last = goes_on(a_run(lora_dropout=0.2, eval_docs=documents(6, seed=1), eval_every=2), newest(tmp_path / "run"))
    assert_same_end(last.run(), parts, plain)
    assert [score for part in (*parts, last) for score in _scores(part)] == _scores(plain)


@pytest.mark.parametrize("order", ["stop", "deadline", "stop-now"])
def test_an_order_breaks_a_long_evaluation_off_and_the_resume_makes_up_for_it(a_run, tmp_path, order):
    more = {"lora_dropout": 0.2, "eval_docs": documents(150, seed=1), "eval_every": 2}
    plain = a_run(**more).run()
    run, asked = a_run(**more), [0]

    def comes_while_it_evaluates() -> str | None:
        asked[0] += run.progress.step == 2
        return order if asked[0] > 2 else None  # the first is the step's own, the second before any document

    train_with(run, saver_of(run, tmp_path / "run"), comes_while_it_evaluates)
    assert run.outcome is not None
    assert run.outcome.reason == ("deadline" if order == "deadline" else "stopped")
    assert (run.progress.step, _scores(run)) == (2, [])
    assert [event["reason"] for event in run.told("stopping")] == ["deadline" if order == "deadline" else "stop"]
    last = goes_on(a_run(**more), newest(tmp_path / "run")).run()
    assert_same_end(last, [run], plain)
    assert _scores(last) == _scores(plain)


def _stop_at(run: Trained, step: int) -> str | None:
    return "stop" if run.progress.step == step else None


def test_a_stop_in_the_middle_of_a_step_leaves_the_step_as_if_it_had_never_begun(a_run, tmp_path):
    changes = {"lora_dropout": 0.3, "per_device_train_batch_size": 2}
    plain = a_run(**changes).run()
    run = a_run(**changes)
    asked = []

    def control() -> str | None:
        asked.append(run.progress.step)
        return "stop-now" if asked.count(4) == 4 else None  # once after step 4, then before each micro-batch

    train_with(run, saver_of(run, tmp_path / "run"), control)
    assert run.progress.step == 4
    assert_same_end(goes_on(a_run(**changes), newest(tmp_path / "run")).run(), [run], plain)


class Overflowing:
    """fp16 whose scale overflows at first, and is raised again every second step."""

    def __init__(self, make):
        self.make = make

    def __call__(self, **changes: Any) -> Trained:
        run = self.make(precision="fp16", **changes)
        object.__setattr__(run.task, "scaler", torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=3))
        return run


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_fp16_goes_on_at_the_scale_it_had_and_as_near_to_the_next_raise(a_run, tmp_path, step):
    make = Overflowing(a_run)
    plain = make(lora_dropout=0.1).run()
    assert plain.task.scaler is not None
    assert plain.task.scaler.get_scale() < 2.0**26
    stopped = stopped_after(make(lora_dropout=0.1), step, tmp_path / "run")
    gone_on = goes_on(make(lora_dropout=0.1), newest(tmp_path / "run")).run()
    assert_same_end(gone_on, [stopped], plain)
    assert gone_on.task.scaler is not None
    assert gone_on.task.scaler.state_dict() == plain.task.scaler.state_dict()


def _early(a_run) -> Trained:
    more = {"eval_every": 1, "early_stopping": 3, "learning_rate": 0.02, "lr_scheduler_type": "constant"}
    return a_run(eval_docs=documents(6, seed=1), **more)


def test_early_stopping_comes_at_the_same_step(a_run, tmp_path):
    plain = _early(a_run).run()
    assert plain.outcome is not None
    assert plain.outcome.reason == "early_stopping"
    end = plain.progress.step
    assert 4 <= end < STEPS
    for step in range(end - 3, end + 1):  # the last stop comes between the last step and the evaluation that ends it
        folder = tmp_path / f"stopped after {step}"
        stopped = stopped_after(_early(a_run), step, folder)
        assert stopped.progress.evaluated == step - 1
        gone_on = goes_on(_early(a_run), newest(folder)).run()
        assert gone_on.outcome is not None
        assert (gone_on.outcome.reason, gone_on.progress.step) == ("early_stopping", end)
        assert_same_end(gone_on, [stopped], plain)


def test_the_best_so_far_is_known_to_the_run_that_goes_on(a_run, tmp_path):
    more = {"eval_docs": documents(6, seed=1), "eval_every": 1, "learning_rate": 0.5, "warmup_steps": 0}

    def best(run: Trained) -> list[int]:
        return [event["step"] for event in run.told("checkpoint") if event.get("reason") == "best"]

    plain = a_run(**more)
    train_with(plain, saver_of(plain, tmp_path / "plain", limit=99))
    assert 1 < len(plain.told("eval")) > len(best(plain)) > 0
    stopped = a_run(**more)
    train_with(stopped, saver_of(stopped, tmp_path / "run", limit=99), lambda: _stop_at(stopped, 4))
    gone_on = goes_on(a_run(**more), newest(tmp_path / "run"))
    train_with(gone_on, saver_of(gone_on, tmp_path / "run", limit=99, attempt=2))
    # what was evaluated between the stop and the resume belongs to a checkpoint without a score
    assert [step for step in best(stopped) + best(gone_on) if step != 4] == [step for step in best(plain) if step != 4]
    assert_same_end(gone_on, [stopped], plain)


def test_an_evaluation_that_was_done_before_the_checkpoint_is_not_done_again(a_run, tmp_path):
    plain = _early(a_run).run()
    killed = _early(a_run)
    saver = saver_of(killed, tmp_path / "run", every=Every(steps=1))
    train_with(killed, saver, lambda: _stop_at(killed, 4))
    step = 3
    [entry] = [one for one in entries(tmp_path / "run" / "checkpoints") if one.step == step]
    gone_on = goes_on(_early(a_run), read_saved(entry.folder))
    assert gone_on.progress.evaluated == step
    gone_on.run()
    assert _scores(gone_on) == _scores(plain)[step:]
    assert gone_on.progress == plain.progress


class ShortOfMemory:
    """A loss in a memory that holds `room` documents at a time, from the call after `from_call` on."""

    def __init__(self, loss: Any, room: int, from_call: int):
        self.loss, self.room, self.from_call, self.calls = loss, room, from_call, 0
        self.chunk, self.chunked = loss.chunk, loss.chunked

    def __call__(self, batch: Any) -> torch.Tensor:
        self.calls += 1
        loss = self.loss(batch)
        if self.calls > self.from_call and len(batch.ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss


def test_the_micro_batch_that_an_out_of_memory_settled_on_is_kept(a_run, tmp_path):
    changes = {"lora_dropout": 0.3, "per_device_train_batch_size": 8}

    def cramped() -> Trained:
        run = a_run(**changes)
        object.__setattr__(run.task, "loss", ShortOfMemory(run.task.loss, 3, from_call=2))
        return run

    plain = cramped().run()
    assert [event["step"] for event in plain.told("recovered")] == [3]
    stopped = stopped_after(cramped(), 4, tmp_path / "run")
    roomy = a_run(**changes)  # there is room again, and still the sums are made in the same order
    assert roomy.progress.arrangement.micro_batch == 8
    gone_on = goes_on(roomy, newest(tmp_path / "run")).run()
    assert gone_on.progress.arrangement.micro_batch == 2
    assert not gone_on.told("oom")
    assert_same_end(gone_on, [stopped], plain)


class NotANumber:
    """A loss that is no number at one call, after its dropout has been drawn."""

    def __init__(self, loss: Any, at: int):
        self.loss, self.at, self.calls = loss, at, 0
        self.chunk, self.chunked = loss.chunk, loss.chunked

    def __call__(self, batch: Any) -> torch.Tensor:
        self.calls += 1
        loss = self.loss(batch)
        return loss * np.nan if self.calls == self.at else loss


def test_a_step_that_failed_is_done_again_from_its_very_start(a_run, tmp_path):
    changes = {"lora_dropout": 0.3, "per_device_train_batch_size": 4}
    plain = a_run(**changes).run()
    failed = a_run(**changes)
    object.__setattr__(failed.task, "loss", NotANumber(failed.task.loss, at=8))  # an epoch is 2 + 2 + 1 of them
    with pytest.raises(ColabMagicsError, match="not a finite number at step 5"):
        train_with(failed, saver_of(failed, tmp_path / "run"))
    assert [event["reason"] for event in failed.told("checkpoint")] == ["failed"]
    gone_on = goes_on(a_run(**changes), newest(tmp_path / "run")).run()
    assert len(gone_on.losses) == STEPS - 4
    assert_same_end(gone_on, [failed], plain)


def test_the_first_step_can_be_stopped_and_the_last_one_too(a_run, tmp_path):
    plain = a_run(lora_dropout=0.2).run()
    first = a_run(lora_dropout=0.2)
    train_with(first, saver_of(first, tmp_path / "first"), lambda: "stop-now")
    assert_same_end(goes_on(a_run(lora_dropout=0.2), newest(tmp_path / "first")).run(), [first], plain)
    last = stopped_after(a_run(lora_dropout=0.2), STEPS, tmp_path / "last")
    gone_on = goes_on(a_run(lora_dropout=0.2), newest(tmp_path / "last")).run()
    assert not gone_on.losses
    assert gone_on.outcome is not None
    assert gone_on.outcome.reason == "completed"
    assert_same_end(gone_on, [last], plain)


def test_checkpoints_on_the_way_change_nothing(a_run, tmp_path):
    plain = a_run(lora_dropout=0.2).run()
    saved = a_run(lora_dropout=0.2)
    train_with(saved, saver_of(saved, tmp_path / "run", every=Every(steps=1)))
    assert len([event for event in saved.told("checkpoint") if event["action"] == "saved"]) == STEPS
    assert_same_end(saved, [], plain)


def test_a_checkpoint_written_while_the_training_goes_on_is_of_the_step_it_names(a_run, tmp_path):
    """The writing thread reads the host's copy: had it read the live tensors, it would have later ones."""
    states = {}
    run = a_run(lora_dropout=0.2)
    slow = SlowDisk()
    saver = saver_of(run, tmp_path / "run", every=Every(steps=2), limit=99, disk=slow)

    def control() -> None:
        states[run.progress.step] = {name: tensor.clone() for name, tensor in tensors_of(run).items()}

    train_with(run, saver, control)
    for step in (2, 4, 6, 8):
        [entry] = [one for one in entries(tmp_path / "run" / "checkpoints") if one.step == step]
        again = goes_on(a_run(lora_dropout=0.2), read_saved(entry.folder))
        assert_same_tensors(tensors_of(again), states[step])


class SlowDisk(Disk):
    """Takes its time for every file, so that steps are done meanwhile."""

    def flush(self, descriptor: int) -> None:
        time.sleep(0.05)
        super().flush(descriptor)


@given(
    documents=st.integers(1, 40),
    batches=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 9)), min_size=1, max_size=8),
    seed=st.integers(0, 5),
)
def test_the_ledger_of_samples_has_none_twice_and_none_missing(documents, batches, seed):
    """`batches`: the effective batch of each attempt, and after how many steps it was stopped."""
    ledger: list[int] = []
    step = 0
    for effective, steps in batches:
        order = Order(documents, effective, seed)
        for _, ids in order.steps(step, step + steps, len(ledger)):
            assert 0 < len(ids) <= effective
            ledger += ids
        step += steps
    for epoch in range(0, len(ledger), documents):
        taken = ledger[epoch : epoch + documents]
        expected = Order(documents, 1, seed).permutation(epoch // documents)[: len(taken)].tolist()
        assert taken == expected
        assert len(set(taken)) == len(taken)


@given(documents=st.integers(1, 40), effective=st.integers(1, 12), stops=st.lists(st.integers(0, 30), max_size=6))
def test_the_steps_of_an_interrupted_run_are_those_of_the_other(documents, effective, stops):
    order = Order(documents, effective, seed=3)
    whole = list(order.steps(0, 30))
    told, samples = [], 0
    for begin, end in itertools.pairwise([0, *sorted(stops), 30]):
        part = list(order.steps(begin, end, samples))
        samples += sum(len(ids) for _, ids in part)
        told += part
    assert told == whole
    assert samples == order.position(30)


@given(
    documents=st.integers(1, 40),
    before=st.integers(1, 12),
    after=st.integers(1, 12),
    done=st.integers(0, 20),
    total=st.integers(0, 40),
)
def test_another_effective_batch_takes_what_is_left_and_no_more(documents, before, after, done, total):
    position = Order(documents, before, 0).position(done)
    order = Order(documents, after, 0)
    end = max(position, Order(documents, before, 0).position(total))
    steps = order.steps_from(position, end)
    taken = [len(ids) for _, ids in order.steps(done, done + steps, position)]
    assert position + sum(taken) >= end
    assert not taken or position + sum(taken[:-1]) < end
