"""Running out of memory in the middle of a step: the same step is done again, smaller, and nothing else changes."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
import torch
from conftest import documents

from colab_magics.errors import ColabMagicsError
from colab_magics.training.batches import read_samples
from colab_magics.training.oom import Arrangement, OutOfMemory, attempt, is_out_of_memory, release

DOCS = documents(40, longest=32)


class Card:
    """Pretends to be a GPU that holds `room` documents at a time, or `room_checkpointed` with checkpointing."""

    def __init__(self, run, room: int, *, room_checkpointed: int | None = None, from_call: int = 0, chunk: int = 0):
        self.run, self.loss, self.room = run, run.task.loss, room
        self.room_checkpointed = room if room_checkpointed is None else room_checkpointed
        self.from_call, self.calls, self.largest_chunk = from_call, 0, chunk
        self.chunked = self.loss.chunked

    @property
    def chunk(self):
        return self.loss.chunk

    @chunk.setter
    def chunk(self, rows):
        self.loss.chunk = rows

    def __call__(self, batch):
        self.calls += 1
        loss = self.loss(batch)  # the forward is done when memory runs out, as in life
        room = self.room_checkpointed if self.run.lm.is_gradient_checkpointing else self.room
        too_large = self.largest_chunk and self.loss.chunk > self.largest_chunk
        if self.calls > self.from_call and (len(batch.ids) > room or too_large):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return loss


def _on(run, **card):
    object.__setattr__(run.task, "loss", Card(run, **card))
    return run


def _run(tiny_run, config=None, **changes):
    return tiny_run(docs=DOCS, config=config, **({"effective_batch_size": 8, "max_steps": 4} | changes))


@pytest.mark.parametrize("packing", [False, True])
def test_losses_equal_those_of_the_smaller_micro_batch_from_the_start(tiny_run, packing):
    recovered = _on(_run(tiny_run, packing=packing), room=2).run()
    smaller = _run(tiny_run, packing=packing, per_device_train_batch_size=2).run()
    assert recovered.losses == smaller.losses
    for ours, theirs in zip(recovered.task.trainable, smaller.task.trainable, strict=True):
        assert torch.equal(ours, theirs)


def test_every_halving_is_told_and_the_settled_one_is_kept(tiny_run):
    run = _on(_run(tiny_run), room=3).run()
    assert [(e["step"], e["micro_batch"], e["documents"]) for e in run.told("oom")] == [(1, 8, 8), (1, 4, 4)]
    assert run.told("oom")[0]["message"] == "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"
    assert [e["micro_batch"] for e in run.told("recovered")] == [2]
    assert run.progress.arrangement.micro_batch == 2
    assert [e["step"] for e in run.told("step")] == [1, 2, 3, 4]


def test_out_of_memory_later_in_the_run_repeats_only_that_step(tiny_run):
    plain = _run(tiny_run).run()
    run = _on(_run(tiny_run), room=4, from_call=2).run()
    assert [e["step"] for e in run.told("oom")] == [3]
    assert run.losses == pytest.approx(plain.losses, abs=1e-5)
    assert run.progress.samples == plain.progress.samples


def test_with_dropout_a_recovered_run_repeats_itself_bit_for_bit(tiny_run):
    runs = [_on(_run(tiny_run, lora_dropout=0.3), room=2, from_call=1).run() for _ in range(2)]
    assert runs[0].losses == runs[1].losses
    assert runs[0].told("oom")


def test_with_dropout_the_retry_starts_from_the_random_state_of_the_step(tiny_run):
    recovered = _on(_run(tiny_run, lora_dropout=0.3), room=2).run()
    smaller = _run(tiny_run, lora_dropout=0.3, per_device_train_batch_size=2).run()
    assert recovered.losses == smaller.losses


def test_one_document_that_does_not_fit_turns_checkpointing_on(tiny_run):
    run = _on(_run(tiny_run), room=0, room_checkpointed=1).run()
    assert [(e["micro_batch"], e["gradient_checkpointing"]) for e in run.told("recovered")] == [(1, True)]
    assert run.losses == pytest.approx(_run(tiny_run).run().losses, abs=1e-5)


def test_then_the_loss_is_cut_into_smaller_chunks(tiny_run):
    run = _on(_run(tiny_run), room=8, chunk=100)
    run.run()
    assert run.progress.arrangement.gradient_checkpointing
    assert run.progress.arrangement.loss_chunk <= 100
    assert len(run.losses) == 4


def test_at_the_end_the_document_and_its_length_are_named(tiny_run):
    docs = [*DOCS[:3], (np.arange(60, dtype=np.int32) + 3, np.arange(60) > 5)]
    run = _on(tiny_run(docs=docs, effective_batch_size=4), room=0)
    before = [parameter.clone() for parameter in run.task.trainable]
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert "step 1" in error.value.what
    assert "document 3 (60 tokens)" in error.value.what
    assert 3 <= len(error.value.lines()) <= 8
    assert all(torch.equal(a, b) for a, b in zip(before, run.task.trainable, strict=True))
    assert not run.told("step")


def test_a_loss_without_chunks_is_not_tried_again_with_smaller_ones(tiny_run):
    run = _on(_run(tiny_run, modules_to_save=["lm_head"], config={"tie_word_embeddings": False}), room=0)
    assert run.progress.arrangement.loss_chunk > 64
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert len(run.told("oom")) == 5  # 8, 4, 2 and 1 documents, and 1 with checkpointing
    assert "own head takes all of it at once" in error.value.why
    assert "chunks" not in error.value.why


def test_what_the_first_micro_batches_left_is_dropped_with_the_step(tiny_run):
    cut = {"per_device_train_batch_size": 4, "packing": False}
    smaller = _run(tiny_run, per_device_train_batch_size=2).run()
    run = _run(tiny_run, **cut)
    loss = run.task.loss
    calls = []

    def second(batch):
        calls.append(len(batch.ids))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(batch)

    second.chunk, second.chunked = loss.chunk, loss.chunked
    object.__setattr__(run.task, "loss", second)
    run.run()
    assert calls[:3] == [4, 4, 2]
    assert run.losses == smaller.losses
    for ours, theirs in zip(run.task.trainable, smaller.task.trainable, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_goes_on_with_fewer_documents_at_a_time(tiny_run, monkeypatch):
    run = _run(tiny_run, max_steps=1)
    plain = tiny_run(docs=DOCS, eval_docs=documents(9, seed=1), max_steps=1, effective_batch_size=8)
    score = plain.task.loss.score

    def cramped(batch):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(batch)

    expected = tiny_run(docs=DOCS, eval_docs=documents(9, seed=1), max_steps=1, effective_batch_size=8).run()
    monkeypatch.setattr(plain.task.loss, "score", cramped)
    plain.run()
    assert plain.told("eval")[0]["loss"] == pytest.approx(expected.told("eval")[0]["loss"], abs=1e-5)
    assert plain.progress.arrangement.micro_batch == run.progress.arrangement.micro_batch


def test_nothing_of_the_failed_attempt_is_kept_alive():
    seen = []

    def work():
        activations = torch.zeros(10)
        seen.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    outcome = attempt(work)
    gc.disable()  # the memory must be back without waiting for a collection
    try:
        assert isinstance(outcome, OutOfMemory)
        assert seen[0]() is None
    finally:
        gc.enable()


class Failing(torch.autograd.Function):
    """Runs out in backward, while another branch of the graph is still waiting for its turn."""

    @staticmethod
    def forward(_ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(_ctx, _gradient):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_nothing_of_a_failed_backward_is_kept_alive():
    class Storage(np.ndarray):
        """Memory whose end can be seen, also where C++ alone holds the tensor."""

    ended = []

    def work():
        memory = np.ones(10, np.float32).view(Storage)
        weakref.finalize(memory, ended.append, True)
        saved = torch.from_numpy(memory).requires_grad_()
        waiting = saved.sin().sin()
        failing = Failing.apply(saved.exp())
        (waiting + failing).sum().backward()

    assert isinstance(attempt(work), OutOfMemory)
    release()
    assert ended


class Cramped:
    """A call that runs out of memory the first times, before or after it has done its work."""

    def __init__(self, work, times: int, *, after: bool = False):
        self.work, self.left, self.after, self.calls = work, times, after, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        self.left -= 1
        if self.left < 0:
            return self.work(*arguments, **options)
        if self.after:
            self.work(*arguments, **options)
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_out_of_memory_while_clipping_repeats_the_step_smaller(tiny_run, monkeypatch, precision):
    smaller = _run(tiny_run, precision=precision, per_device_train_batch_size=4).run()
    run = _run(tiny_run, precision=precision)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", Cramped(torch.nn.utils.clip_grad_norm_, 1))
    run.run()
    assert [e["micro_batch"] for e in run.told("recovered")] == [4]
    assert run.losses == smaller.losses


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_an_optimizer_that_had_done_nothing_when_memory_ran_out_is_asked_again(tiny_run, monkeypatch, optim):
    plain = _run(tiny_run, optim=optim).run()
    run = _run(tiny_run, optim=optim)
    grown = []
    zeros = torch.zeros_like

    def cramped(tensor, **options):
        grown.append(tensor)
        if len(grown) == 4:  # some states are there, one is half there
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return zeros(tensor, **options)

    monkeypatch.setattr(torch, "zeros_like", cramped)
    run.run()
    assert len(grown) > 4
    assert run.losses == plain.losses
    for ours, theirs in zip(run.task.trainable, plain.task.trainable, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adamw_8bit"])
def test_an_update_that_may_be_half_done_is_never_done_again(tiny_run, optim):
    run = _run(tiny_run, optim=optim, warmup_steps=0)
    run.task.optimizer.step = step = Cramped(run.task.optimizer.step, 1, after=True)
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert step.calls == 1
    assert "Out of memory at step 1" in error.value.what
    assert "paged_adamw_8bit" in str(error.value)
    assert 3 <= len(error.value.lines()) <= 8


def test_an_update_that_runs_out_later_is_explained(tiny_run):
    run = _run(tiny_run)
    step = run.task.optimizer.step

    def cramped():
        Cramped(step, int(run.progress.step == 2))()

    run.task.optimizer.step = cramped
    with pytest.raises(ColabMagicsError, match="Out of memory at step 3, while the optimizer updated"):
        run.run()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "method: qlora"),
        (RuntimeError("CUDA error: out of memory"), "method: qlora"),
        (MemoryError(), "machine's memory"),
        (RuntimeError("something else"), "please report"),
    ],
)
def test_out_of_memory_outside_of_a_step_is_no_bug_to_report(error, advice):
    from colab_magics.training.__main__ import _unexpected

    told = str(_unexpected(error, "loading"))
    assert advice in told
    assert ("please report" in told) is (advice == "please report")


@pytest.mark.parametrize(
    ("error", "is_oom"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_every_way_to_say_out_of_memory_is_known(error, is_oom):
    assert is_out_of_memory(error) is is_oom


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 // 0)


def test_smaller_follows_the_price():
    way = Arrangement(micro_batch=8, packed=True, gradient_checkpointing=False, loss_chunk=256)
    tried = []
    documents_ = 5
    while (way := way.smaller(documents_)) is not None:
        tried.append((way.micro_batch, way.gradient_checkpointing, way.loss_chunk))
        documents_ = way.micro_batch
    assert tried == [(2, False, 256), (1, False, 256), (1, True, 256), (1, True, 64)]


def test_the_event_tells_what_was_in_memory_and_where_it_ran_out(tiny_run):
    run = _on(_run(tiny_run, packing=False), room=4).run()
    (oom,) = run.told("oom")
    samples = sorted((len(DOCS[id_][0]) for id_ in next(iter(run.task.order.steps(0, 1)))[1]), reverse=True)
    assert sorted(oom["tokens"], reverse=True) == samples
    assert oom["in_memory"] == 8 * (samples[0] - 1), "padding counts, and the last token is only predicted"
    assert (oom["packed"], oom["gradient_checkpointing"], oom["phase"], oom["first"]) == (False, False, "forward", True)
    assert oom["loss_chunk"] == run.progress.arrangement.loss_chunk
    assert any(frame.startswith("colab_magics.training.loop.micro_batch_gradients:") for frame in oom["where"])
    assert oom["record"] is None
    assert 0 < oom["rss"] < oom["host"]["total"]
    assert json.loads(json.dumps(oom)) == oom
    steps = run.told("step")
    assert all(step["in_memory"] <= 4 * 31 for step in steps), "of the largest micro-batch that was done"


def test_a_step_of_documents_in_one_row_counts_no_padding(tiny_run):
    run = _run(tiny_run, packing=True, max_steps=1).run()
    ids = next(iter(run.task.order.steps(0, 1)))[1]
    (step,) = run.told("step")
    assert step["in_memory"] == sum(len(sample) for sample in read_samples(DOCS, ids))


def test_later_steps_are_not_the_first(tiny_run):
    run = _on(_run(tiny_run), room=4, from_call=2).run()
    assert [e["first"] for e in run.told("oom")] == [False]


def test_an_out_of_memory_in_the_backward_says_so(tiny_run):
    run = _run(tiny_run)
    weight, failures = run.task.trainable[0], [torch.OutOfMemoryError("CUDA out of memory.")]

    def cramped(gradient):
        if failures:
            raise failures.pop()
        return gradient

    weight.register_hook(cramped)
    run.run()
    (oom,) = run.told("oom")
    assert oom["phase"] == "backward"
    assert any("_engine_run_backward" in frame for frame in oom["where"])


def test_a_layer_that_is_computed_again_is_part_of_the_backward(tiny_run):
    run = _run(tiny_run, gradient_checkpointing=True)
    layer, calls = run.lm.model.layers[1].mlp, []
    forward = layer.forward

    def cramped(hidden):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(hidden)

    layer.forward = cramped
    run.run()
    assert [e["phase"] for e in run.told("oom")] == ["backward"]


def test_what_ends_the_run_has_the_same_facts(tiny_run):
    run = _on(_run(tiny_run), room=0)
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert error.value.facts["oom"] == run.told("oom")[-1]

    run = _run(tiny_run)
    run.task.optimizer.step = Cramped(run.task.optimizer.step, 9)
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    oom = error.value.facts["oom"]
    assert (oom["phase"], oom["step"], oom["first"], oom["documents"], oom["tokens"]) == ("optimizer", 1, True, 0, [])


def test_clipping_is_told_as_such(tiny_run, monkeypatch):
    run = _run(tiny_run)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", Cramped(torch.nn.utils.clip_grad_norm_, 1))
    assert [e["phase"] for e in run.run().told("oom")] == ["clipping"]


def test_an_evaluation_that_does_not_fit_is_a_warning_with_the_facts(tiny_run, monkeypatch):
    run = tiny_run(docs=DOCS, eval_docs=documents(9, seed=1), max_steps=1, effective_batch_size=8)
    monkeypatch.setattr(run.task.loss, "score", Cramped(run.task.loss.score, 99))
    run.run()
    (warning,) = run.told("warning")
    assert "evaluation at step 1 ran out of memory" in warning["message"]
    assert not run.told("oom"), "no step was done again"
    oom = warning["oom"]
    assert (oom["phase"], oom["step"], oom["micro_batch"], oom["documents"], oom["first"]) == (
        "evaluation",
        1,
        1,
        1,
        False,
    )


def test_a_long_message_is_cut_and_its_first_line_is_what_people_read(tiny_run):
    outcome = attempt(lambda: (_ for _ in ()).throw(RuntimeError("out of memory\n" + 5000 * "x")))
    assert isinstance(outcome, OutOfMemory)
    assert len(outcome.message) == 2000
    assert outcome.first_line == "out of memory"


@pytest.mark.parametrize("phase", ["loading", "writing the result"])
def test_what_nothing_could_recover_from_has_the_facts_too(phase):
    from colab_magics.training.__main__ import _unexpected

    error = _unexpected(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), phase)
    assert (error.facts["oom"]["phase"], error.facts["oom"]["step"]) == (phase, None)
    assert not _unexpected(ValueError("no"), phase).facts


def test_the_log_keeps_the_facts_of_a_failure(tmp_path):
    from types import SimpleNamespace

    from colab_magics.events import EventLog, read_events
    from colab_magics.training.__main__ import _fail

    orders = SimpleNamespace(phase="training", session_left=lambda: None)
    log = EventLog(tmp_path / "events.jsonl", 1)
    _fail(log, ColabMagicsError("a", "b", "c", facts={"oom": {"step": 3}}), orders)  # type: ignore[arg-type]
    (failed,) = read_events(tmp_path / "events.jsonl")
    assert failed["oom"] == {"step": 3}


def test_quantising_that_runs_out_while_loading_is_an_out_of_memory(tiny_run, monkeypatch):
    """transformers keeps what one weight raised for a report, goes on with the next, and raises another error."""
    pytest.importorskip("bitsandbytes")
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize

    def cramped(*_arguments, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(Bnb4bitQuantize, "convert", cramped)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 20\.00 MiB"):
        _run(tiny_run, method="qlora")
