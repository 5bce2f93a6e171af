"""The loops that are compared, each in a process of its own that runs one step when it is told to.

A peer calls its baton after every step. There it says what the step took and waits, using no CPU, until it is its
turn again; so the peers alternate step by step on the same machine, and a noisy neighbour disturbs all of them alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cases import LEARNING_RATE, LORA, MAX_LENGTH, SAMPLES_A_STEP, SEED, Case, Documents, load_model


class Enough(Exception):
    """The benchmark needs no further step of this peer."""


@dataclass
class Baton:
    """One step for each message from the benchmark; CPU seconds are those of all threads of this process."""

    connection: Connection
    cpu: float = 0.0
    wall: float = 0.0

    def wait(self) -> None:
        """Wait for the turn, then start the clocks."""
        if not self.connection.recv():
            raise Enough
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def pass_on(self, loss: float | None = None, **others: Any) -> None:
        """A step is done: report it, and wait for the next turn."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        self.connection.send({"cpu": cpu, "wall": wall, "loss": loss, **others})
        self.wait()


@dataclass(frozen=True)
class Job:
    """What a peer is given: the case's model and documents, and the documents of each step."""

    case: Case
    folder: Path
    steps: list[list[int]]

    @property
    def documents(self) -> Documents:
        return Documents(self.folder / "documents.npz")


Peer = Callable[[Job, Baton], None]


def schedule(optimizer: Any, steps: int) -> Any:
    """A straight line to zero: what TRL does unless told otherwise."""
    from transformers import get_scheduler

    return get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)


def handwritten(micro_batch: int, packed: bool) -> Peer:
    """The 40-line loop, with its documents sorted by length or packed."""

    def run(job: Job, baton: Baton) -> None:
        from handwritten import train

        model = load_model(job.case, job.folder)
        documents = job.documents
        baton.wait()
        train(
            model,
            documents,
            job.steps,
            baton.pass_on,
            rate=LEARNING_RATE,
            schedule=schedule,
            micro_batch=micro_batch,
            packed=packed,
        )

    return run


def trl(micro_batch: int, packed: bool, instructions: str = "", **settings: Any) -> Peer:
    """`SFTTrainer` on the CPU; whatever `settings` leave out is at its default.

    Order and samples of a step are fixed by a sequential sampler over rows laid out in that order. Packed, a row is
    `micro_batch` documents of one step, already packed: TRL's own packing moves documents between steps.
    `instructions` is the most that oneDNN may use of the CPU: it then takes the kernels that it has for a lesser one.
    """

    def run(job: Job, baton: Baton) -> None:
        if instructions:
            os.environ["ONEDNN_MAX_CPU_ISA"] = instructions
        from transformers import AutoTokenizer, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        class Turn(TrainerCallback):
            def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
                losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
                baton.pass_on(losses[-1] if losses else None)  # of the step before: a step is logged after its end

        rows = 1 if packed else micro_batch
        config = SFTConfig(
            output_dir=str(job.folder / "trl"),
            use_cpu=True,
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=SAMPLES_A_STEP // micro_batch,
            packing=packed,
            learning_rate=LEARNING_RATE,
            max_steps=len(job.steps),
            save_strategy="no",
            report_to="none",
            seed=SEED,
            **settings,
        )
        trainer = SFTTrainer(
            model=load_model(job.case, job.folder),
            args=config,
            train_dataset=_rows(job, micro_batch if packed else None),
            processing_class=AutoTokenizer.from_pretrained(job.folder / "model"),
            callbacks=[Turn()],
        )
        baton.wait()
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        baton.pass_on(losses[-1] if losses else None)

    return run


def _rows(job: Job, packed: int | None) -> Any:
    from datasets import Dataset

    documents = job.documents
    table: dict[str, list[Any]] = {"input_ids": [], "labels": []} | ({"seq_lengths": []} if packed else {})
    for ids in job.steps:
        # Sorted by length inside the step, which is kind to TRL: its micro-batches have less padding.
        ordered = sorted(ids, key=lambda id_: -len(documents[id_][0]))
        for start in range(0, len(ordered), packed or 1):
            part = [documents[id_] for id_ in ordered[start : start + (packed or 1)]]
            table["input_ids"].append([token for tokens, _ in part for token in tokens.tolist()])
            table["labels"].append(
                [
                    token if on else -100
                    for tokens, trained in part
                    for token, on in zip(tokens.tolist(), trained, strict=True)
                ]
            )
            if packed:
                table["seq_lengths"].append([len(tokens) for tokens, _ in part])
    return Dataset.from_dict(table)


def ours(packing: bool | str) -> Peer:
    """The loop of this package as its worker runs it: plan, event log, control files."""

    def run(job: Job, baton: Baton) -> None:
        from colab_magics.events import EventLog
        from colab_magics.training.loop import train
        from colab_magics.training.orders import Orders

        task, progress, reason = _task(job, packing)
        run_folder = job.folder / "run"
        run_folder.mkdir()
        log, orders = EventLog(run_folder / "events.jsonl", 1), Orders(run_folder)
        own = [0.0, 0.0]

        def timed(work: Callable[..., Any], *args: Any, **fields: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = work(*args, **fields)
            own[0] += time.perf_counter() - wall
            own[1] += time.thread_time() - cpu
            return result

        def on_event(kind: str, **fields: Any) -> None:
            timed(log.append, kind, **fields)
            if kind == "step":
                spent, own[:] = (own[0], own[1]), (0.0, 0.0)
                baton.pass_on(fields["loss"], own=spent, said=reason)

        baton.wait()
        train(task, progress, on_event, lambda: timed(orders))

    return run


def _task(job: Job, packing: bool | str) -> Any:
    """The task as the worker makes it, with the adapter that all peers start from."""
    import torch

    from colab_magics.memory.devices import this_device
    from colab_magics.memory.estimate import peak
    from colab_magics.plan import Choice, DataFacts, make_plan
    from colab_magics.recipe import Recipe
    from colab_magics.training.measure import settle_packing
    from colab_magics.training.model import describe
    from colab_magics.training.model import load_model as load_planned
    from colab_magics.training.probe import probe
    from colab_magics.training.source import open_model
    from colab_magics.training.task import make_task

    recipe = Recipe(
        model=str(job.folder / "model"),
        data="rows",
        method=job.case.method,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_steps=len(job.steps),
        effective_batch_size=SAMPLES_A_STEP,
        packing=packing,
        seed=SEED,
        r=LORA["r"],
        lora_alpha=LORA["lora_alpha"],
        lora_dropout=LORA["lora_dropout"],
        target_modules=LORA["target_modules"],
    )
    documents = job.documents
    lengths = np.array([len(documents[index][0]) for index in range(len(documents))], np.int32)
    source = open_model(recipe)
    facts = DataFacts(lengths, 0, Choice(MAX_LENGTH, "fixed by the benchmark"))
    shape, device = describe(source, recipe), this_device()
    plan = make_plan(recipe, shape, device, facts, probe(source.config), peak)
    model = load_planned(source, recipe, plan, torch.device("cpu"))
    if job.case.method == "lora":
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(model, load_file(job.folder / "adapter" / "adapter_model.safetensors"))
    task, progress = make_task(model, recipe, plan, documents, None, device=torch.device("cpu"))
    settled = settle_packing(task, progress, plan, shape, device, cache=None)
    return task, progress, settled.choices["packing"].reason
