"""One attempt at a run, from its recipe to its result: preflight, weights, loop, result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.linked import commit_linked
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.replica import start as start_replica
from colab_magics.events import EventLog
from colab_magics.plan import Plan
from colab_magics.recipe import Recipe
from colab_magics.run import Run, cache_folder
from colab_magics.session.deadline import Deadline
from colab_magics.training import imported
from colab_magics.training.cap import HostCap, cap_gpu, cap_host
from colab_magics.training.loop import Control, Keeper, OnEvent, Outcome, Progress, Task, Trainee, train
from colab_magics.training.measure import settle_packing
from colab_magics.training.model import import_peft, load_model, load_reference
from colab_magics.training.oom_record import observe
from colab_magics.training.optim import import_schedules
from colab_magics.training.orders import Orders
from colab_magics.training.preflight import Ready, Reporter, Wish, first_start, preflight
from colab_magics.training.quiet import quiet_libraries
from colab_magics.training.reporting import Reports
from colab_magics.training.result import save_result
from colab_magics.training.resume import (
    Origin,
    changed_keys,
    data_changed,
    device_facts,
    find_origin,
    lost_steps,
    put_aside,
    same_device,
    take_over,
)
from colab_magics.training.saving import Saver
from colab_magics.training.settle import settle
from colab_magics.training.source import (
    fetch_weights,
)
from colab_magics.training.state import arrangement_of, put_back
from colab_magics.training.task import make_task
from colab_magics.training.trackers import dashboards
from colab_magics.training.versions import versions
from colab_magics.training.watch import allocator, forget_peak, watch


def work(folder: Path, wish: Wish, log: EventLog, orders: Orders) -> None:
    """Do the whole attempt; it ends with a `finished` event, or raises."""
    deadline = Deadline(wish.deadline, tell=lambda said: log.append("warning", message=said))
    orders.session_left = deadline.left
    report = Reporter(log, orders)
    origin = None
    if wish.resume is not None:
        report("checking the checkpoints", 0, None, "files")
        origin = take_over(find_origin(wish.resume), folder, Run(folder).id)
    ready = preflight(folder, wish, origin, log, report)
    if wish.until is not None or ready is None:
        return
    before, folder = folder, settle(folder, wish.name)
    orders.moved(folder)
    if origin is not None:
        origin = origin.moved(before, folder)
    if (said := deadline.warning()) is not None:
        log.append("warning", message=said)
    _keep_what_a_resume_needs(folder, before, ready, log)
    if wish.replica is not None:
        start_replica(folder, wish.replica, ready.recipe.save_total_limit)
    device = torch.device("cuda:0" if ready.device.kind == "cuda" else "cpu")
    observe(device)
    host = _cap(ready, device, log)

    boards = dashboards(folder, ready.recipe)
    reports = Reports(folder / "events.jsonl", log.attempt, boards, lambda said: log.append("warning", message=said))
    memory = watch(device, log.append)
    reports.start()
    memory.start()
    try:
        finished = _train(folder, ready, origin, device, host, deadline, log, orders, report)
    finally:
        if host is not None:
            host.lift()  # what is told of the end must find room
        memory.stop()
        reports.stop()
    log.append("finished", **finished, session_left=deadline.left())


def _cap(ready: Ready, device: torch.device, log: EventLog) -> HostCap | None:
    """Have allocations beyond the recipe's `max_memory` fail; a CPU's cap is returned, which must be told what is
    loaded."""
    cap = ready.recipe.max_memory_bytes
    if cap is None:
        return None
    if device.type == "cuda":
        cap_gpu(cap, device)
        return None
    _import_what_trains(ready.recipe, ready.plan)
    host = cap_host(cap)
    if not host.works:
        log.append(
            "warning", message="max_memory: this system cannot hold a run on its CPU to it; the plan keeps to it"
        )
        return None
    return host


def _import_what_trains(recipe: Recipe, plan: Plan) -> None:
    """All of it that would be imported later: of a small cap the libraries take more than the tensors do."""
    import_peft(bitsandbytes=plan["method"] == "qlora")
    import_schedules()
    if "bit" in plan["optim"]:
        import_module("bitsandbytes")
    if recipe.compares:
        from colab_magics.training.preferences.library import trainer_of

        trainer_of(recipe.objective)


def _train(
    folder: Path,
    ready: Ready,
    origin: Origin | None,
    device: torch.device,
    host: HostCap | None,
    deadline: Deadline,
    log: EventLog,
    orders: Orders,
    report: Reporter,
) -> dict[str, Any]:
    """From the weights to the result; returns what the `finished` event says."""
    fetch_weights(ready.source, lambda done, total: report("downloading", done, total, "bytes"))
    report("loading", 0, None, "tensors")
    if host is not None:
        host.for_loading(ready.source.weight_bytes)
    with quiet_libraries(lambda done, total: report("loading", done, total, "tensors")):
        model = load_model(ready.source, ready.recipe, ready.plan, device)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    load_peak = allocator(device).get("peak")
    if host is not None:
        host.for_training(weights)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    log.append(
        "model",
        id=ready.source.id,
        revision=ready.source.revision,
        architecture=ready.shape.architecture,
        parameters=ready.shape.parameters,
        trainable_parameters=trainable,
        method=ready.plan["method"],
        bytes=weights,
        load_peak=load_peak,
    )
    task, progress, plan, steps = _prepared(ready, model, device, log)
    saver = _saver(folder, ready, plan, task, progress, log, orders)
    saver.left = deadline.left
    if host is not None:
        saver.make_room = host.lift
    if origin is not None:
        _go_on(origin, ready, task, progress, saver, log)
    forget_peak(device)  # of loading and of what was tried: from here on it is the training's
    report("training", progress.step, task.total_steps, "steps")
    orders.on_terminate, orders.is_late = saver.terminated, saver.stops
    orders.training_begins()
    try:
        outcome = steps(progress, log.append, orders, saver)
        if outcome.reason in ("completed", "early_stopping"):
            saver.now("finished")
    finally:
        saver.wait()

    orders.phase = "writing the result"
    path = _write_result(folder, ready, model, outcome)
    return {
        "step": progress.step,
        "total_steps": task.total_steps,
        "reason": outcome.reason,
        "first_loss": progress.first_loss,
        "last_loss": progress.last_loss,
        "eval_loss": progress.eval_loss,
        "path": os.fspath(path) if path is not None else None,
        "checkpoint": saver.parent,
        "seconds": outcome.seconds,
        "tokens": progress.tokens,
        "stall": sum(saver.stalls),
        "limit_from": deadline.origin,
    }


def _prepared(
    ready: Ready, model: torch.nn.Module, device: torch.device, log: EventLog
) -> tuple[Trainee, Progress, Plan, Callable[[Progress, OnEvent, Control, Keeper], Outcome]]:
    """What is trained, where it stands, the plan as it was settled, and what takes the steps."""
    recipe, plan = ready.recipe, ready.plan
    if not recipe.compares:
        task, progress = make_task(model, recipe, plan, ready.documents, ready.eval_documents, device=device)
        plan = settle_packing(task, progress, plan, ready.shape, ready.device, cache=cache_folder())
        if plan is not ready.plan:
            log.append("plan", **ready.event(plan))
        return task, progress, plan, partial(train, task)
    # TRL's trainers are imported by who wants them
    from colab_magics.training.preferences.compare import compare
    from colab_magics.training.preferences.tuning import make_tuning

    reference = None
    if plan["method"] == "full" and recipe.objective != "orpo":
        with quiet_libraries():
            reference = load_reference(ready.source, recipe, plan, device)
    if recipe.lora_dropout:
        log.append("warning", message="lora_dropout has no effect here: TRL compares without dropout")
    documents = (ready.documents, ready.eval_documents)
    tuning, progress = make_tuning(model, reference, ready.tokenizer, recipe, plan, *documents, device=device)
    return tuning, progress, plan, partial(compare, tuning)


def _keep_what_a_resume_needs(folder: Path, before: Path, ready: Ready, log: EventLog) -> None:
    """The prepared data and the tokenizer, in the run's own folder: sources, caches and machines go away.

    What was read from that folder is kept there already, also where it was called `before` at the time.
    """
    try:
        if not (folder / "tokenizer").is_dir():
            ready.tokenizer.save_pretrained(folder / "tokenizer")
        (folder / "prepared").mkdir(exist_ok=True)
        for split, data in (("train", ready.data), ("eval", ready.eval_data)):
            target = folder / "prepared" / split
            if data is None or data.folder.is_relative_to(before):
                continue
            if target.exists():
                shutil.rmtree(target)
            manifest = Manifest(
                "data", Run(folder).id, {}, facts={"fingerprint": data.fingerprint, "made_for": ready.made_for[split]}
            )
            commit_linked(target, sorted(data.folder.iterdir()), manifest)
    except OSError as error:
        message = f"the prepared data could not be kept with the run: {error.strerror or error}"
        log.append("warning", message=f"{message}; a resume will need {ready.recipe.data} again")


def _saver(
    folder: Path, ready: Ready, plan: Plan, task: Trainee, progress: Progress, log: EventLog, orders: Orders
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
            "clock": first_start(folder).isoformat(),
        },
        on_event=log.append,
        asked=orders.save_is_asked,
    )


def _go_on(origin: Origin, ready: Ready, task: Trainee, progress: Progress, saver: Saver, log: EventLog) -> None:
    """Put the loop where the checkpoint was, and say what of it is not as it was."""
    saved = origin.saved
    if saved.imported is not None:
        assert isinstance(task, Task)  # the preflight refuses it for a comparison
        changes, differs = [], imported.begin(task, progress, saved, ready.recipe)
    else:
        changes = changed_keys(saved, ready.recipe)
        differs = put_back(task, progress, saved)
        if not same_device(saved, ready.device):
            differs.append(f"the device is {ready.device.name}: the same samples, rounded otherwise")
        if data_changed(saved, ready.fingerprints):
            differs.append("the data is other data: its order begins where the samples taken so far end")
        if not changes and same_device(saved, ready.device):
            progress.arrangement = arrangement_of(saved)
    forked = origin.entry.attempt == 0 and log.attempt == 1  # later it is the run's own beginning
    for problem in () if forked else put_aside(origin):
        log.append("warning", message=problem)
    saver.parent = origin.entry.name
    log.append(
        "resumed",
        step=progress.step,
        checkpoint=origin.entry.name,
        lost_steps=lost_steps(Run(saver.folder).events(), log.attempt, progress.step) if not forked else 0,
        skipped=[{"name": entry.name, "reason": entry.broken} for entry in origin.skipped],
        changes=changes,
        exact=not changes and not differs,
        differs=differs,
    )
    if changes or origin.rewound:
        saver.now("resumed")  # what it goes on from was taken under another recipe, or is not the newest


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
    if ready.recipe.compares:
        facts["learnt by"] = f"{ready.recipe.objective}, {ready.recipe.loss} loss, beta {ready.recipe.beta:g} (TRL)"
        facts |= {f"rewards, {name}": f"{value:.4f}" for name, value in outcome.figures.items()}
    return save_result(folder, model, ready.tokenizer, source=ready.source, recipe=ready.recipe, facts=facts)


def _shown(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"
