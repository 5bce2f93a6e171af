"""Comparing answers with TRL inside the worker: it learns what TRL learns, stops as told, and goes on bit for bit."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed (an extra: colab-magics[trl])")

from compared import Compared, rows
from continued import assert_same_tensors, newest, tensors_of

from colab_magics.errors import ColabMagicsError
from colab_magics.training.preferences.library import on_one_device, trainer_of
from colab_magics.training.preferences.trainer import _undo, parts_of
from colab_magics.training.state import put_back

Make = Callable[..., Compared]
OBJECTIVES = ["dpo", "kto", "orpo"]


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> Iterator[None]:
    """accelerate collects at the start of each training, which takes 0.7 s of what the tests have imported alone."""
    for objective in OBJECTIVES:
        trainer_of(objective)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def compared(make_model: Callable[..., Path], tmp_path: Path) -> Make:
    counter = itertools.count()

    def make(made: list[dict[str, Any]] | None = None, **changes: Any) -> Compared:
        return Compared(make_model("qwen3"), tmp_path / f"data{next(counter)}", made, **changes)

    return make


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_recipes_own_numbers_reach_trls_loss(compared: Make, objective: str) -> None:
    keys = {"dpo": {"label_smoothing": 0.2}, "kto": {"desirable_weight": 1.5, "undesirable_weight": 0.5}, "orpo": {}}
    trainer = compared(objective=objective, beta=0.37, **keys[objective]).task.trainer
    told = {name: getattr(trainer, name) for name in ("beta", *keys[objective])}
    assert told == {"beta": 0.37, **keys[objective]}


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "method"), [("dpo", "lora"), ("kto", "lora"), ("orpo", "lora"), ("dpo", "full"), ("kto", "full")]
)
def test_the_preferred_answers_are_preferred_in_the_end(compared: Make, objective: str, method: str) -> None:
    rate = 1e-3 if method == "full" else 1e-2
    run = compared(
        objective=objective, method=method, learning_rate=rate, held_out=rows(4, seed=9), eval_every=None
    ).run()
    assert run.outcome is not None
    assert run.outcome.reason == "completed"
    steps, scores = run.told("step"), run.told("eval")
    assert [step["step"] for step in steps] == list(range(1, 7))
    assert scores[-1]["rewards"]["margins"] > 0.0
    if objective != "orpo":  # which rewards by the model itself, with no reference
        assert steps[0]["rewards"].get("margins", 0.0) == 0.0
    assert {"loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds"} <= steps[-1].keys()
    assert scores[-1]["step"] == 6
    assert run.progress.eval_loss == scores[-1]["loss"]


def plain_trl(run: Compared, folder: Path) -> list[float]:
    """The losses of TRL's own trainer as anybody would use it: the same rows in the same order, and its own tokens."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    trainer_class, config = trainer_of(run.recipe.objective)
    order = [one for _, ids in run.task.order.steps(0, run.task.total_steps) for one in ids]
    made = rows()
    if run.recipe.objective == "kto":
        single = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in made
            for side in ("chosen", "rejected")
        ]
        made = single
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=1e-2,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        logging_steps=1,
        logging_strategy="steps",
        save_strategy="no",
        report_to="none",
        seed=run.recipe.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    torch.manual_seed(run.recipe.seed)
    tokenizer = run.tokenizer
    tokenizer.bos_token = None  # ORPO puts one before each prompt, which this tokenizer does not do itself
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(run.source.folder, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list([made[one] for one in order]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_losses_are_those_of_plain_trl(compared: Make, objective: str, tmp_path: Path) -> None:
    steps = 8 if objective == "kto" else 4  # one epoch
    run = compared(objective=objective, max_steps=steps).run()
    assert np.allclose(run.losses, plain_trl(run, tmp_path / "plain"), rtol=2e-4, atol=2e-5)


def test_every_sample_weighs_the_same_where_a_micro_batch_is_smaller_than_the_others(compared: Make) -> None:
    whole = compared(rows(7), effective_batch_size=7, per_device_train_batch_size=7, max_steps=2).run()
    parts = compared(rows(7), effective_batch_size=7, per_device_train_batch_size=7, max_steps=2)
    parts.progress.arrangement = type(parts.progress.arrangement)(3, False, False, 64)
    assert parts_of(list(range(7)), 3) == [[0, 1], [2, 3], [4, 5, 6]]
    assert np.allclose(parts.run().losses, whole.losses, atol=1e-5)


def test_gradient_checkpointing_changes_no_loss(compared: Make) -> None:
    with_it = compared(gradient_checkpointing=True, max_steps=2).run()
    assert np.allclose(with_it.losses, compared(gradient_checkpointing=False, max_steps=2).run().losses, atol=1e-5)


# --- going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "method"), [("dpo", "lora"), ("kto", "lora"), ("orpo", "lora"), ("dpo", "full")])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    compared: Make, objective: str, method: str, tmp_path: Path
) -> None:
    """Over the end of an epoch, whose last step is smaller than the others."""
    options = {"objective": objective, "method": method, "learning_rate": 1e-3, "weight_decay": 0.01}
    made = rows(5) if objective == "kto" else rows(10)  # ten samples, four a step
    whole = compared(made, **options).run()
    first = compared(made, **options)
    first.run(lambda: "stop" if first.progress.step == 2 else None, first.saver(tmp_path / "run"))
    again = compared(made, **options)
    torch.manual_seed(987)
    torch.rand(31)
    assert put_back(again.task, again.progress, newest(tmp_path / "run")) == []
    again.run()
    assert [step["step"] for step in again.told("step")] == [3, 4, 5, 6]
    assert again.losses == whole.losses[2:]
    assert_same_tensors(tensors_of(again), tensors_of(whole))


def test_the_reference_of_a_resumed_run_is_the_base_model_and_not_the_checkpoint(
    compared: Make, tmp_path: Path
) -> None:
    first = compared()
    first.run(lambda: "stop" if first.progress.step == 4 else None, first.saver(tmp_path / "run"))
    again = compared()
    put_back(again.task, again.progress, newest(tmp_path / "run"))
    again.run()
    assert again.told("step")[0]["rewards"]["margins"] > 0.1


def test_a_run_that_is_done_takes_no_step_and_scores_what_was_not_scored(compared: Make, tmp_path: Path) -> None:
    run = compared(max_steps=2, held_out=rows(4), eval_every=None)
    run.run(saver=run.saver(tmp_path / "run"))
    run.progress.evaluated = 0
    run.events.clear()
    run.run()
    assert [kind for kind, _ in run.events] == ["eval"]


# --- orders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "reason"), [("stop", "stopped"), ("deadline", "deadline")])
def test_an_order_ends_it_after_the_step_with_a_checkpoint(
    compared: Make, order: str, reason: str, tmp_path: Path
) -> None:
    run = compared()
    run.run(lambda: order if run.progress.step == 3 else None, run.saver(tmp_path / "run"))
    assert run.outcome is not None
    assert (run.outcome.reason, run.progress.step) == (reason, 3)
    assert run.told("stopping") == [{"reason": "deadline" if order == "deadline" else "stop", "step": 3}]
    assert newest(tmp_path / "run").state["progress"]["step"] == 3


def test_stop_now_drops_the_step_under_way(compared: Make, tmp_path: Path) -> None:
    whole = compared(max_steps=2).run()
    run, asked = compared(max_steps=2), itertools.count(1)
    # asked before each of two micro-batches and after the step: the fifth time is inside of the second step
    run.run(lambda: "stop-now" if next(asked) == 5 else None, run.saver(tmp_path / "run"))
    assert run.progress.step == 1
    assert newest(tmp_path / "run").state["progress"]["step"] == 1
    again = compared(max_steps=2)
    assert put_back(again.task, again.progress, newest(tmp_path / "run")) == []
    assert_same_tensors(tensors_of(again.run()), tensors_of(whole))


def test_an_evaluation_is_broken_off_by_an_order(compared: Make, tmp_path: Path) -> None:
    run = compared(held_out=rows(8), eval_every=2)

    def control() -> str | None:
        return "stop" if run.progress.step == 2 and run.task.trainer.model.training is False else None

    run.run(control, run.saver(tmp_path / "run"))
    assert run.progress.step == 2
    assert run.told("eval") == []


def test_a_pending_evaluation_comes_before_the_next_step(compared: Make) -> None:
    run = compared(held_out=rows(4), eval_every=2, max_steps=4)
    run.run(lambda: "stop" if run.progress.step == 2 else None)
    assert run.told("eval") == []
    run.events.clear()
    run.run()
    assert [kind for kind, _ in run.events][:2] == ["eval", "step"]


def test_checkpoints_come_as_often_as_the_recipe_says(compared: Make, tmp_path: Path) -> None:
    run = compared()
    run.run(saver=run.saver(tmp_path / "run", every=2))
    assert [one["step"] for one in run.told("checkpoint")] == [2, 4, 6]


def test_it_stops_early_where_the_held_out_pairs_gain_nothing(compared: Make) -> None:
    run = compared(held_out=rows(4), eval_every=1, early_stopping=2, learning_rate=1e-9, max_steps=20).run()
    assert run.outcome is not None
    assert run.outcome.reason == "early_stopping"
    assert run.progress.step < 20


# --- what goes wrong ----------------------------------------------------------------------------------------------


def fails_at(run: Compared, step: int, error: Exception | None = None) -> None:
    """Let the run's forward fail (or its loss be no number) in that step."""
    loss = run.task.trainer.compute_loss

    def failing(*args: Any, **more: Any) -> Any:
        if run.progress.step == step - 1 and error is not None:
            raise error
        found = loss(*args, **more)
        return found * math.nan if run.progress.step == step - 1 else found

    run.task.trainer.compute_loss = failing


def test_running_out_of_memory_is_an_explained_stop_and_no_other_batch(compared: Make, tmp_path: Path) -> None:
    run = compared()
    fails_at(run, 3, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    with pytest.raises(ColabMagicsError) as raised:
        run.run(saver=run.saver(tmp_path / "run"))
    (told,) = run.told("oom")
    assert raised.value.facts["oom"] == told
    assert (told["step"], told["micro_batch"], told["documents"], len(told["tokens"])) == (3, 2, 2, 2)
    said = str(raised.value)
    assert "Out of memory at step 3: 2 pairs" in said
    assert "per_device_train_batch_size: 1" in said
    assert "gradient_checkpointing: true" in said
    assert newest(tmp_path / "run").state["progress"]["step"] == 2


def test_what_was_done_before_the_memory_ran_out_is_gone_on_with(compared: Make, tmp_path: Path) -> None:
    whole, run = compared(), compared()
    fails_at(run, 3, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(ColabMagicsError):
        run.run(saver=run.saver(tmp_path / "run"))
    again = compared()
    put_back(again.task, again.progress, newest(tmp_path / "run"))
    assert_same_tensors(tensors_of(again.run()), tensors_of(whole.run()))


def test_kto_is_never_told_to_take_one_answer_at_a_time(compared: Make) -> None:
    run = compared(objective="kto")
    fails_at(run, 1, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(ColabMagicsError) as raised:
        run.run()
    assert "2 answers" in str(raised.value)
    assert "per_device_train_batch_size" not in str(raised.value)


def test_an_optimizer_that_runs_out_is_told_as_such_and_nothing_is_saved(compared: Make, tmp_path: Path) -> None:
    run = compared()

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    run.task.optimizer.step = full
    with pytest.raises(ColabMagicsError, match="optimizer's states do not fit"):
        run.run(saver=run.saver(tmp_path / "run"))
    assert run.told("oom")[0]["phase"] == "optimizer"
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_an_evaluation_that_runs_out_is_a_warning(compared: Make) -> None:
    run = compared(held_out=rows(4), eval_every=2, max_steps=3)
    loss = run.task.trainer.compute_loss

    def failing(*args: Any, **more: Any) -> Any:
        if not run.model.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(*args, **more)

    run.task.trainer.compute_loss = failing
    run.run()
    assert run.progress.step == 3
    assert "ran out of memory" in run.told("warning")[0]["message"]


def test_a_loss_that_is_no_number_ends_it_before_a_weight_is_touched(compared: Make, tmp_path: Path) -> None:
    run = compared()
    fails_at(run, 2)
    with pytest.raises(ColabMagicsError, match="The loss is not a finite number at step 2"):
        run.run(saver=run.saver(tmp_path / "run"))
    assert all(np.isfinite(weight).all() for weight in run.weights().values())
    assert newest(tmp_path / "run").state["progress"]["step"] == 1


# --- what TRL does that is taken back -----------------------------------------------------------------------------


def test_the_reference_of_an_adapter_is_the_model_without_it_and_no_copy(compared: Make) -> None:
    for objective in ("dpo", "kto"):
        run = compared(objective=objective)
        assert list(run.model.peft_config) == ["default"]
        assert run.task.trainer.ref_model is None
        assert run.model.active_adapters == ["default"]


def test_adapters_that_trl_cast_to_bf16_are_fp32_again() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.data = layer.weight.data.to(torch.bfloat16)
    _undo(SimpleNamespace(accelerator=SimpleNamespace(scaler=None)), layer, torch.device("cpu"))
    assert layer.weight.dtype == torch.float32


def test_fp16_begins_at_a_scale_that_does_not_overflow() -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(scaler=torch.amp.GradScaler("cpu")))
    _undo(trainer, torch.nn.Linear(2, 2), torch.device("cpu"))
    assert trainer.accelerator.scaler.get_scale() == 2.0**12


def test_a_second_visible_gpu_is_left_alone() -> None:
    class PretendedArguments:
        """As TrainingArguments: `n_gpu` is read from what was counted when it was made."""

        _n_gpu = 2

        @property
        def n_gpu(self) -> int:
            return self._n_gpu

    arguments = PretendedArguments()
    on_one_device(arguments)
    assert arguments.n_gpu == 1


def test_nothing_is_sent_and_nothing_is_written_by_trl(
    compared: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import tempfile

    import trl.trainer.base_trainer as trainers

    def sent(*_: Any, **__: Any) -> None:
        raise AssertionError("telemetry was sent")

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(trainers, "send_telemetry", sent, raising=False)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    compared(max_steps=1).run()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_tokenizer_that_goes_into_the_result_is_as_it_was(compared: Make) -> None:
    run = compared()
    assert run.tokenizer.pad_token == "<pad>"
    assert run.task.trainer.processing_class is not run.tokenizer


def test_kto_swaps_the_answers_inside_a_micro_batch(compared: Make) -> None:
    run = compared(rows(3), objective="kto", effective_batch_size=3, per_device_train_batch_size=3)
    documents = run.task.rows.documents
    batch = run.task.rows.batch([0, 1, 2])
    for place, (asked, said) in enumerate([(0, 2), (1, 0), (2, 1)]):
        tokens, trained = documents[asked]
        answer, judged = documents[said]
        expected = np.concatenate([tokens[: trained.argmax()], answer[judged.argmax() :]])
        seen = int(batch["KL_attention_mask"][place].sum())
        assert batch["KL_input_ids"][place, :seen].tolist() == expected.tolist()


def test_an_answer_alone_is_not_swapped_with_itself(compared: Make) -> None:
    batch = compared(objective="kto").task.rows.batch([0])
    width = min(batch["KL_input_ids"].shape[1], batch["input_ids"].shape[1])
    assert batch["KL_input_ids"][0, :width].tolist() != batch["input_ids"][0, :width].tolist()
