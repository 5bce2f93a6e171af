"""The loop: what each step takes, what it tells, and how it ends."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from conftest import documents

from colab_magics.errors import ColabMagicsError
from colab_magics.training.batches import Order


def test_lora_learns_and_tells_every_step(tiny_run):
    run = tiny_run(max_steps=12, effective_batch_size=8).run()
    steps = run.told("step")
    assert [fields["step"] for fields in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[-1]["samples"] == 12 * 8
    assert run.outcome.reason == "completed"
    assert run.outcome.progress.first_loss == steps[0]["loss"]
    assert run.outcome.progress.last_loss == steps[-1]["loss"]
    assert all(math.isfinite(fields["grad_norm"]) and fields["tokens_per_second"] > 0 for fields in steps)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_packing_and_micro_batches_change_nothing_but_the_arrangement(tiny_run, model_type):
    padded = tiny_run(model_type, effective_batch_size=8).run().losses
    packed = tiny_run(model_type, effective_batch_size=8, packing=True).run().losses
    single = tiny_run(model_type, effective_batch_size=8, per_device_train_batch_size=1).run().losses
    assert packed == pytest.approx(padded, abs=1e-4)
    assert single == pytest.approx(padded, abs=1e-4)


def test_the_first_loss_is_the_mean_over_the_step_s_labelled_tokens(tiny_run):
    run = tiny_run(max_steps=1, effective_batch_size=6, per_device_train_batch_size=2, packing=True)
    docs = documents()
    ids = Order(len(docs), 6, run.recipe.seed).permutation(0)[:6]
    total, count = 0.0, 0
    with torch.no_grad():
        for id_ in ids:
            tokens, trained = docs[id_]
            tokens_, labels = torch.from_numpy(tokens).long(), torch.from_numpy(trained[1:])
            logits = run.lm(tokens_[None]).logits[0, :-1][labels]
            total += float(torch.nn.functional.cross_entropy(logits, tokens_[1:][labels], reduction="sum"))
            count += int(labels.sum())
    assert run.run().losses == [pytest.approx(total / count, abs=1e-5)]


def test_full_fine_tuning_trains_every_weight(tiny_run):
    run = tiny_run(method="full", learning_rate=1e-3, config={"tie_word_embeddings": False})
    before = {name: parameter.clone() for name, parameter in run.model.named_parameters()}
    run.run()
    assert run.losses[-1] < run.losses[0]
    unchanged = [name for name, parameter in run.model.named_parameters() if torch.equal(parameter, before[name])]
    assert unchanged == []


def test_lora_leaves_the_base_alone(tiny_run):
    run = tiny_run()
    frozen = {name: p.clone() for name, p in run.model.named_parameters() if "lora_" not in name}
    run.run()
    assert all(torch.equal(p, frozen[name]) for name, p in run.model.named_parameters() if name in frozen)


def test_epochs_end_with_a_smaller_step_as_in_transformers(tiny_run):
    run = tiny_run(docs=documents(11), max_steps=-1, num_train_epochs=2, effective_batch_size=4).run()
    assert [fields["samples"] for fields in run.told("step")] == [4, 8, 11, 15, 19, 22]
    assert run.told("step")[-1]["epoch"] == 2.0


def test_learning_rate_warms_up_and_decays_by_transformers_schedule(tiny_run):
    run = tiny_run(max_steps=6, warmup_steps=2, learning_rate=1e-3, lr_scheduler_type="linear").run()
    rates = [fields["learning_rate"] for fields in run.told("step")]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_gradients_are_clipped_and_the_norm_before_is_told(tiny_run):
    # SGD-like check: with a clip this small AdamW's first moment cannot hide it, so look at the gradients themselves
    run = tiny_run(max_steps=1, max_grad_norm=1e-3)
    seen = []
    step = run.task.optimizer.step
    run.task.optimizer.step = lambda: (seen.append([p.grad.clone() for p in run.task.trainable]), step())[1]
    run.run()
    norm = torch.linalg.vector_norm(torch.stack([grad.norm() for grad in seen[0]]))
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert run.told("step")[0]["grad_norm"] > 1e-3


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_does_not(tiny_run):
    runs = [tiny_run(seed=seed, lora_dropout=0.1, max_steps=3).run().losses for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_run_continues_from_its_progress_as_if_it_had_not_stopped(tiny_run):
    whole = tiny_run(max_steps=6, lora_dropout=0.2).run()
    parts = tiny_run(max_steps=6, lora_dropout=0.2)
    parts.run(lambda: "stop" if parts.progress.step == 3 else None)
    assert parts.outcome.reason == "stopped"
    parts.run()
    assert parts.losses == whole.losses


def test_stop_ends_after_the_step(tiny_run):
    run = tiny_run()
    run.run(lambda: "stop" if run.progress.step >= 2 else None)
    assert [fields["step"] for fields in run.told("step")] == [1, 2]
    assert run.told("stopping") == [{"reason": "stop", "step": 2}]
    assert run.outcome.reason == "stopped"


def test_stop_now_drops_the_step_in_hand(tiny_run):
    run = tiny_run(effective_batch_size=8, per_device_train_batch_size=2)
    calls = []

    def control():
        calls.append(None)
        return "stop-now" if len(calls) > 7 else None  # in the middle of the second step

    before = None
    run.run(control)
    assert [fields["step"] for fields in run.told("step")] == [1]
    assert run.progress.step == 1
    assert all(parameter.grad is before for parameter in run.task.trainable)


def test_the_order_is_a_function_of_seed_and_epoch():
    order = Order(documents=10, effective_batch=4, seed=3)
    taken = dict(order.steps(0, 6))
    assert sorted(taken[0] + taken[1] + taken[2]) == list(range(10))
    assert taken[0] + taken[1] + taken[2] != taken[3] + taken[4] + taken[5]
    torch.manual_seed(99)
    np.random.default_rng(5).random()
    assert dict(order.steps(4, 6)) == {4: taken[4], 5: taken[5]}
    assert dict(Order(10, 4, 4).steps(0, 6)) != taken


def test_a_loss_that_is_no_number_names_step_and_samples_and_touches_no_weight(tiny_run):
    run = tiny_run(effective_batch_size=4)
    loss = run.task.loss
    calls = []

    def breaking(batch):
        calls.append(batch.ids)
        return loss(batch) * (math.nan if run.progress.step == 2 else 1.0)

    breaking.chunk = loss.chunk
    object.__setattr__(run.task, "loss", breaking)
    kept = []
    tell = run.tell

    def telling(kind, **fields):
        tell(kind, **fields)
        kept.append([parameter.clone() for parameter in run.task.trainable])

    run.tell = telling
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert "loss is not a finite number at step 3" in error.value.what
    assert all(str(id_) in error.value.why for ids in calls[-1:] for id_ in ids)
    assert all(torch.equal(a, b) for a, b in zip(kept[-1], run.task.trainable, strict=True))


def test_fp16_runs_with_a_scaler_and_agrees_with_fp32(tiny_run):
    half = tiny_run(precision="fp16", max_steps=5)
    assert half.task.scaler is not None
    assert {parameter.dtype for parameter in half.task.trainable} == {torch.float32}
    assert half.lm.get_input_embeddings().weight.dtype == torch.float16
    half.run()
    assert half.losses == pytest.approx(tiny_run(max_steps=5).run().losses, abs=2e-2)


def test_fp16_full_fine_tuning_keeps_fp32_weights(tiny_run):
    half = tiny_run(precision="fp16", method="full", learning_rate=1e-3, max_steps=5).run()
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    exact = tiny_run(method="full", learning_rate=1e-3, max_steps=5).run()
    assert half.losses == pytest.approx(exact.losses, abs=2e-2)


def test_an_fp16_overflow_repeats_the_step_at_half_the_scale(tiny_run):
    run = tiny_run(precision="fp16", max_steps=3)
    object.__setattr__(run.task, "scaler", torch.amp.GradScaler("cpu", init_scale=2.0**40))
    plain = tiny_run(precision="fp16", max_steps=3).run()
    run.run()
    assert run.task.scaler.get_scale() < 2.0**40
    assert [fields["step"] for fields in run.told("step")] == [1, 2, 3]
    assert [f["learning_rate"] for f in run.told("step")] == [f["learning_rate"] for f in plain.told("step")]
    assert run.losses == pytest.approx(plain.losses, abs=1e-2)


def test_the_repeated_step_drops_out_what_it_dropped_out_before(tiny_run):
    half = {"precision": "fp16", "max_steps": 3, "lora_dropout": 0.3}
    plain = tiny_run(**half).run()
    run = tiny_run(**half)
    scale = torch.amp.GradScaler("cpu", init_scale=plain.task.scaler.get_scale() * 2.0**28)
    object.__setattr__(run.task, "scaler", scale)
    run.run()
    assert scale.get_scale() < plain.task.scaler.get_scale() * 2.0**28
    assert run.losses == pytest.approx(plain.losses, abs=1e-3)


def test_an_fp16_gradient_that_never_fits_ends_the_run_and_names_the_step(tiny_run):
    run = tiny_run(precision="fp16")
    run.task.trainable[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ColabMagicsError) as error:
        run.run()
    assert "gradient is not a finite number at step 1" in error.value.what
    assert "precision: fp32" in str(error.value)


def test_evaluation_reports_loss_perplexity_and_accuracy_without_disturbing_training(tiny_run):
    held_out = documents(7, seed=5)
    run = tiny_run(eval_docs=held_out, eval_every=2, max_steps=6, lora_dropout=0.1).run()
    plain = tiny_run(max_steps=6, lora_dropout=0.1).run()
    assert [fields["step"] for fields in run.told("eval")] == [2, 4, 6]
    assert run.losses == plain.losses
    last = run.told("eval")[-1]
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]))
    total, right, count = 0.0, 0, 0
    run.model.eval()
    with torch.no_grad():
        for tokens, trained in held_out:
            ids, labels = torch.from_numpy(tokens).long(), torch.from_numpy(trained[1:])
            logits = run.model(ids[None]).logits[0, :-1][labels]
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:][labels], reduction="sum"))
            right += int((logits.argmax(-1) == ids[1:][labels]).sum())
            count += int(labels.sum())
    assert last["loss"] == pytest.approx(total / count, abs=1e-5)
    assert last["token_accuracy"] == pytest.approx(right / count)


def test_the_last_step_is_evaluated_wherever_the_interval_ends(tiny_run):
    run = tiny_run(eval_docs=documents(5, seed=5), eval_every=4, max_steps=6).run()
    assert [fields["step"] for fields in run.told("eval")] == [4, 6]


def test_training_stops_when_evaluation_no_longer_improves(tiny_run):
    worse = [(tokens[::-1].copy(), trained) for tokens, trained in documents(5, seed=9)]
    run = tiny_run(eval_docs=worse, eval_every=1, early_stopping=2, max_steps=40, learning_rate=5e-2).run()
    losses = [fields["loss"] for fields in run.told("eval")]
    assert run.outcome.reason == "early_stopping"
    assert len(losses) < 40
    assert min(losses[-2:]) >= min(losses[:-2])
    assert run.told("stopping")[-1]["reason"] == "early_stopping"


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd"])
def test_optimizers_by_their_transformers_names(tiny_run, optim):
    run = tiny_run(optim=optim, max_steps=8).run()
    assert run.losses[-1] < run.losses[0]


def test_gradient_checkpointing_changes_no_number(tiny_run):
    plain = tiny_run(lora_dropout=0.2).run()
    checkpointed = tiny_run(lora_dropout=0.2, gradient_checkpointing=True).run()
    assert checkpointed.losses == pytest.approx(plain.losses, abs=1e-6)


def test_biases_and_norms_do_not_decay(tiny_run):
    run = tiny_run("gpt2", method="full", weight_decay=0.1)
    decays = {id(p): group["weight_decay"] for group in run.task.optimizer.param_groups for p in group["params"]}
    for name, parameter in run.model.named_parameters():
        assert decays[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_our_own_bookkeeping_takes_little_time(tiny_run):
    run = tiny_run(max_steps=20, effective_batch_size=8)
    begin = time.perf_counter()
    run.run()
    assert run.outcome.own_seconds < 0.01 * (time.perf_counter() - begin)
