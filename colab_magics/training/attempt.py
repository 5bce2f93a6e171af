"""One attempt at a run, from its recipe to its result: preflight, weights, loop, result."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch

from colab_magics import worker
from colab_magics.checkpoints.linked import commit_linked
from colab_magics.checkpoints.manifest import Broken, Manifest
from colab_magics.checkpoints.verify import verify
from colab_magics.data import Documents, Prepared, Source, load_prepared, prepare
from colab_magics.data.report import data_event
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog, read_events
from colab_magics.memory.devices import this_device
from colab_magics.memory.estimate import peak
from colab_magics.plan import DataFacts, Device, ModelShape, Plan, choose_max_length, make_plan
from colab_magics.recipe import Recipe
from colab_magics.run import Run, is_starting
from colab_magics.training.batches import Order
from colab_magics.training.loop import Outcome, Progress, Task, train
from colab_magics.training.measure import settle_packing
from colab_magics.training.model import describe, load_model
from colab_magics.training.optim import check_bitsandbytes
from colab_magics.training.orders import Orders
from colab_magics.training.probe import probe
from colab_magics.training.quiet import quiet_libraries
from colab_magics.training.result import save_result
from colab_magics.training.resume import (
    Origin,
    changed_keys,
    data_changed,
    device_facts,
    find_origin,
    lost_steps,
    plan_for,
    plan_to_the_end,
    put_aside,
    same_device,
)
from colab_magics.training.saving import Every, Saver
from colab_magics.training.source import (
    ModelSource,
    fetch_weights,
    imported_meanwhile,
    load_tokenizer,
    open_model,
)
from colab_magics.training.state import arrangement_of, put_back
from colab_magics.training.task import make_task
from colab_magics.training.versions import versions

_BETWEEN_PROGRESS = 0.25  # seconds: more would fill the log and tell nobody anything


@dataclass(frozen=True)
class Ready:
    """What the preflight has found and decided; nothing of the model's weights is loaded yet."""

    recipe: Recipe
    source: ModelSource
    tokenizer: Any
    shape: ModelShape
    device: Device
    plan: Plan
    data: Prepared
    documents: Documents
    eval_data: Prepared | None
    eval_documents: Documents | None

    @property
    def fingerprints(self) -> dict[str, str]:
        """What tells each split's tokens from others."""
        splits = {"train": self.data, "eval": self.eval_data}
        return {split: data.fingerprint for split, data in splits.items() if data is not None}


class Reporter:
    """Turns what the phases tell into `progress` events, not more than four a second, and looks for orders."""

    def __init__(self, log: EventLog, orders: Orders) -> None:
        self._log = log
        self._orders = orders
        self._last = ("", 0.0)

    def __call__(self, phase: str, done: float, total: float | None, unit: str) -> None:
        self._orders.phase = phase
        self._orders.stop_if_told()
        now = time.monotonic()
        last_phase, last_time = self._last
        if phase != last_phase or done == total or now - last_time >= _BETWEEN_PROGRESS:
            self._last = (phase, now)
            self._log.append("progress", phase=phase, done=done, total=total, unit=unit)


@dataclass(frozen=True)
class Wish:
    """What the command line asks of an attempt.

    Attributes
    ----------
    name : str, optional
        What a run's temporary folder is called once the preflight has passed.
    until : str, optional
        Stop after that phase ("data" or "plan").
    resume : Path, optional
        A `checkpoints` folder, or one checkpoint's, to go on from.
    anew : bool
        Prepare the data from its source, although the run keeps what was prepared: the recipe changed.
    deadline : float, optional
        Seconds until the session ends.
    replica : str, optional
        Where the checkpoints are copied to.
    """

    name: str | None = None
    until: str | None = None
    resume: Path | None = None
    anew: bool = False
    deadline: float | None = None
    replica: str | None = None


def work(folder: Path, wish: Wish, log: EventLog, orders: Orders) -> None:
    """Do the whole attempt; it ends with a `finished` event, or raises."""
    began = time.monotonic()
    report = Reporter(log, orders)
    origin = None
    if wish.resume is not None:
        report("checking the checkpoints", 0, None, "files")
        origin = find_origin(wish.resume)
    ready = _preflight(folder, wish, origin, log, report)
    if wish.until is not None or ready is None:
        return
    folder = _settle(folder, wish.name)
    orders.moved(folder)
    _keep_what_a_resume_needs(folder, ready, log)
    if wish.replica is not None:
        from colab_magics.checkpoints import replica

        replica.start(folder, wish.replica, ready.recipe.save_total_limit)
    device = torch.device("cuda:0" if ready.device.kind == "cuda" else "cpu")
    cap = ready.recipe.max_memory_bytes
    if cap is not None and device.type == "cuda":
        # beyond it torch raises as on a full card, which the loop recovers from
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap / ready.device.total), device)

    fetch_weights(ready.source, lambda done, total: report("downloading", done, total, "bytes"))
    report("loading", 0, None, "tensors")
    with quiet_libraries(lambda done, total: report("loading", done, total, "tensors")):
        model = load_model(ready.source, ready.recipe, ready.plan, device)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    log.append(
        "model",
        id=ready.source.id,
        revision=ready.source.revision,
        architecture=ready.shape.architecture,
        parameters=ready.shape.parameters,
        trainable_parameters=trainable,
        method=ready.plan["method"],
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in model.parameters()),
    )
    task, progress = make_task(model, ready.recipe, ready.plan, ready.documents, ready.eval_documents, device=device)
    plan = settle_packing(task, progress, ready.plan, ready.shape, ready.device, cache=_cache())
    if plan is not ready.plan:
        log.append("plan", choices=plan.to_dict(), device=ready.device.shown)
    saver = _saver(folder, ready, plan, task, progress, log, orders)
    if wish.deadline is not None:
        saver.deadline = began + wish.deadline
    if origin is not None:
        _go_on(origin, ready, task, progress, saver, log)
    report("training", progress.step, task.total_steps, "steps")
    orders.on_terminate, orders.is_late = saver.terminated, saver.stops
    orders.training_begins()
    try:
        outcome = train(task, progress, log.append, orders, saver)
        if outcome.reason in ("completed", "early_stopping"):
            saver.now("finished")
    finally:
        saver.wait()

    orders.phase = "writing the result"
    path = _write_result(folder, ready, model, outcome)
    log.append(
        "finished",
        step=progress.step,
        total_steps=task.total_steps,
        reason=outcome.reason,
        first_loss=progress.first_loss,
        last_loss=progress.last_loss,
        eval_loss=progress.eval_loss,
        path=os.fspath(path) if path is not None else None,
        checkpoint=saver.parent,
        seconds=outcome.seconds,
        tokens=progress.tokens,
        stall=sum(saver.stalls),
    )


def _preflight(folder: Path, wish: Wish, origin: Origin | None, log: EventLog, report: Reporter) -> Ready | None:
    """Everything that can go wrong before a weight is loaded goes wrong here."""
    recipe = Recipe.from_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    cache = _cache()
    report("reading the model's config", 0, None, "files")
    source = open_model(recipe)
    tokenizer = load_tokenizer(source, recipe)

    def prepared(split: Literal["train", "eval"], limit: int | None) -> Prepared | None:
        if split not in inputs:
            return None
        if origin is not None and not wish.anew and (kept := _kept_data(folder, split)) is not None:
            return kept
        where = Source.from_dict(inputs[split])
        if where.path is not None:
            where = Source(where.kind, where.name, os.fspath(folder / where.path), where.split)
        if origin is not None and where.path is not None and not Path(where.path).is_file():
            raise _data_is_gone(folder, where)
        clock = _first_start(folder)
        return prepare(
            where,
            tokenizer,
            recipe,
            split=split,
            cache=cache,
            now=clock,
            progress=report,
            limit=limit,
        )

    with imported_meanwhile(source):
        data = prepared("train", recipe.max_train_samples)
        eval_data = prepared("eval", recipe.max_eval_samples)
    assert data is not None
    shape = describe(source, recipe)
    max_length = choose_max_length(recipe, data.lengths, shape.positions)
    documents = data.documents(max_length.value)
    eval_documents = eval_data.documents(max_length.value) if eval_data is not None else None
    for split, found, views in (("train", data, documents), ("eval", eval_data, eval_documents)):
        if found is not None and views is not None:
            log.append("data", split=split, **data_event(found, views, inputs[split], tokenizer))
    if wish.until == "data":
        return None

    report("probing", 0, None, "layers")
    verdict = probe(source.config, cache, trust_remote_code=recipe.trust_remote_code)
    device = this_device(cuda=torch.version.cuda is not None)
    facts = DataFacts(documents.lengths, len(eval_documents or ()), max_length)
    plan = make_plan(recipe, shape, device, facts, verdict, peak)
    ready = Ready(recipe, source, tokenizer, shape, device, plan, data, documents, eval_data, eval_documents)
    if origin is not None:
        changed = bool(changed_keys(origin.saved, recipe)) or data_changed(origin.saved, ready.fingerprints)
        plan = plan_for(origin.saved, plan, changed=changed, device=device)
        if changed:
            order = Order(len(documents), plan["effective_batch"], recipe.seed)
            plan = plan_to_the_end(plan, recipe, origin.saved, order)
        ready = replace(ready, plan=plan)
    check_bitsandbytes(plan["method"], plan["optim"], device.kind)
    _check_disk(folder, shape, plan)
    log.append("plan", choices=plan.to_dict(), device=device.shown)
    return ready


def _kept_data(folder: Path, split: str) -> Prepared | None:
    """The data that the run keeps for its resumes, if every byte of it is as it was."""
    kept = folder / "prepared" / split
    try:
        verify(kept)
    except Broken:
        return None
    return load_prepared(kept)


def _data_is_gone(folder: Path, source: Source) -> ColabMagicsError:
    return ColabMagicsError(
        f"The data of {folder.name} is gone: {source.name} is not there any more.",
        f"What was prepared of it is not in {folder / 'prepared'} either, or was altered.",
        "Upload the data again, or %checkpoint fetch the run from its replica.",
    )


def _keep_what_a_resume_needs(folder: Path, ready: Ready, log: EventLog) -> None:
    """The prepared data and the tokenizer, in the run's own folder: sources, caches and machines go away."""
    try:
        if not (folder / "tokenizer").is_dir():
            ready.tokenizer.save_pretrained(folder / "tokenizer")
        (folder / "prepared").mkdir(exist_ok=True)
        for split, data in (("train", ready.data), ("eval", ready.eval_data)):
            target = folder / "prepared" / split
            if data is None or data.folder == target:
                continue
            if target.exists():
                shutil.rmtree(target)
            manifest = Manifest("data", Run(folder).id, {}, facts={"fingerprint": data.fingerprint})
            commit_linked(target, sorted(data.folder.iterdir()), manifest)
    except OSError as error:
        message = f"the prepared data could not be kept with the run: {error.strerror or error}"
        log.append("warning", message=f"{message}; a resume will need {ready.recipe.data} again")


def _saver(
    folder: Path, ready: Ready, plan: Plan, task: Task, progress: Progress, log: EventLog, orders: Orders
) -> Saver:
    recipe, run = ready.recipe, Run(folder)
    return Saver(
        folder=folder,
        task=task,
        progress=progress,
        run=run.id,
        attempt=log.attempt,
        every=Every.of(recipe.save_every),
        limit=recipe.save_total_limit,
        facts={
            "name": run.name,
            "model": ready.source.id,
            "revision": ready.source.revision,
            "method": plan["method"],
            "recipe": recipe.fingerprint(),
            "data": ready.fingerprints,
            "versions": versions(),
        },
        state={
            "recipe": recipe.values(),
            "data": ready.fingerprints,
            "plan": plan.to_dict(),
            "device": device_facts(ready.device),
            "clock": _first_start(folder).isoformat(),
        },
        on_event=log.append,
        asked=orders.save_is_asked,
    )


def _go_on(origin: Origin, ready: Ready, task: Task, progress: Progress, saver: Saver, log: EventLog) -> None:
    """Put the loop where the checkpoint was, and say what of it is not as it was."""
    saved = origin.saved
    changes = changed_keys(saved, ready.recipe)
    differs = put_back(task, progress, saved)
    if not same_device(saved, ready.device):
        differs.append(f"the device is {ready.device.name}: the same samples, rounded otherwise")
    if data_changed(saved, ready.fingerprints):
        differs.append("the data is other data: its order begins where the samples taken so far end")
    if not changes and same_device(saved, ready.device):
        progress.arrangement = arrangement_of(saved)
    own = origin.entry.folder.is_relative_to(saver.folder)
    for problem in put_aside(origin) if own else ():
        log.append("warning", message=problem)
    saver.parent = origin.entry.name if own else None
    log.append(
        "resumed",
        step=progress.step,
        checkpoint=origin.entry.name,
        lost_steps=lost_steps(Run(saver.folder).events(), log.attempt, progress.step) if own else 0,
        skipped=[{"name": entry.name, "reason": entry.broken} for entry in origin.skipped],
        changes=changes,
        exact=not changes and not differs,
        differs=differs,
    )
    if changes or not own:
        saver.now("resumed")  # what it goes on from is of another recipe, or lies elsewhere


def _cache() -> Path:
    return Path(os.environ.get("COLAB_MAGICS_CACHE") or Path.home() / ".cache" / "colab_magics").expanduser()


def _first_start(folder: Path) -> datetime:
    """When the run's first attempt began: the clock under which templates that print a date are rendered."""
    first = next(event for event in read_events(folder / "events.jsonl") if event["kind"] == "started")
    return datetime.fromisoformat(first["time"])


def _check_disk(folder: Path, shape: ModelShape, plan: Plan) -> None:
    """The result must fit, twice for a moment: it is written beside an older one and then takes its place."""
    weights = shape.parameters if plan["method"] == "full" else shape.lora_parameters
    need = 2 * 4 * weights + 32 * 2**20
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ColabMagicsError(
            f"The disk of {folder.parent} is too full for the result.",
            f"It needs about {need / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free.",
            "Make room, or name another place with --root.",
        )


def _settle(folder: Path, name: str | None) -> Path:
    """Give the run's folder its name, now that the preflight has passed.

    What an earlier attempt has left there (its result so far) moves along; its log is in the new folder already, and
    the orders it was given are none of ours.

    Raises
    ------
    ColabMagicsError
        Another worker has the name by now: two cells were run at about the same time. Its folder is left alone.
    """
    if name is None or not is_starting(folder):
        return folder
    target = folder.parent / name
    try:
        folder.rename(target)  # the system refuses where somebody has put a folder there that holds anything
        return target
    except OSError:
        if not target.is_dir():
            raise
    lock = _lock_of_the_dead(target)
    try:
        # our log began with that of the attempts before ours; one more there is somebody else's
        if lock is None or Run(target).attempts >= Run(folder).attempts:
            raise ColabMagicsError(
                f"{name} is being trained already." if lock is None else f"{name} has been trained meanwhile.",
                "Another cell started it while this one was preparing, and its folder is left as it is.",
                "Run the cell again to attach to it." if lock is None else "Run the cell again to see it.",
            )
        for kept in target.iterdir():
            if kept.name != "control" and not (folder / kept.name).exists():
                kept.rename(folder / kept.name)
        aside = folder.with_name(folder.name + ".replaced")
        target.rename(aside)
        folder.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)
    return target


def _lock_of_the_dead(folder: Path) -> int | None:
    """The lock of a folder on which nobody works, so that nobody begins to; None where somebody does."""
    try:
        lock = worker.hold_lock(folder)
        if lock is None:
            return None
        # whoever waited for it may hold the lock of a folder that is gone, and another has its name
        there = os.path.samestat(os.fstat(lock), (folder / worker.LOCK).stat())
    except FileNotFoundError:
        return None
    if there and worker.alive_pid(folder) is None:
        return lock
    os.close(lock)
    return None


def _write_result(folder: Path, ready: Ready, model: torch.nn.Module, outcome: Outcome) -> Path | None:
    """The result so far; none if there was no step to learn from."""
    progress = outcome.progress
    if not progress.step:
        return None
    facts: dict[str, Any] = {
        "steps": f"{progress.step} ({outcome.reason})",
        "training loss": f"{_shown(progress.first_loss)} → {_shown(progress.last_loss)}",
        "evaluation loss": _shown(progress.eval_loss),
        "tokens": f"{progress.tokens:,}",
        "data fingerprint": f"`{ready.data.fingerprint}`",
        "method": ready.plan["method"],
    }
    return save_result(folder, model, ready.tokenizer, source=ready.source, recipe=ready.recipe, facts=facts)


def _shown(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"
