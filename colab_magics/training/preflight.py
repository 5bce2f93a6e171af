"""The worker's first phase: everything that can go wrong before a weight is loaded goes wrong here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from colab_magics.checkpoints.manifest import Broken
from colab_magics.checkpoints.remote import check as check_replica
from colab_magics.checkpoints.verify import verify
from colab_magics.data import Documents, Prepared, Source, load_prepared, prepare
from colab_magics.data.judgements import check_both_judged
from colab_magics.data.overlap import among, learnt_by_heart
from colab_magics.data.report import data_event
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog, read_events
from colab_magics.memory.devices import this_device
from colab_magics.memory.estimate import peak
from colab_magics.plan import (
    Choice,
    DataFacts,
    Device,
    ModelShape,
    Plan,
    Verdict,
    choose_max_length,
    length_that_fits,
    make_plan,
)
from colab_magics.recipe import Recipe
from colab_magics.run import cache_folder
from colab_magics.training import imported
from colab_magics.training.batches import Order
from colab_magics.training.fitting import check_fit
from colab_magics.training.model import describe
from colab_magics.training.optim import check_bitsandbytes
from colab_magics.training.orders import Orders
from colab_magics.training.outlook import plan_fields
from colab_magics.training.preferences.library import check_trl, import_trl
from colab_magics.training.probe import probe
from colab_magics.training.resume import Origin, changed_keys, data_changed, plan_for, plan_to_the_end
from colab_magics.training.source import ModelSource, imported_meanwhile, load_tokenizer, open_model
from colab_magics.training.trackers import check_trackers

_BETWEEN_PROGRESS = 0.25  # seconds: more would fill the log and tell nobody anything


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
    deadline : float, optional
        Seconds until the session ends.
    replica : str, optional
        Where the checkpoints are copied to.
    kernel_holds : int
        Bytes of the GPU that the notebook's kernel holds itself.
    """

    name: str | None = None
    until: str | None = None
    resume: Path | None = None
    deadline: float | None = None
    replica: str | None = None
    kernel_holds: int = 0


@dataclass(frozen=True)
class Ready:
    """What the preflight has found and decided; nothing of the model's weights is loaded yet."""

    recipe: Recipe
    source: ModelSource
    tokenizer: Any
    shape: ModelShape
    verdict: Verdict
    device: Device
    plan: Plan
    data: Prepared
    documents: Documents
    eval_data: Prepared | None
    eval_documents: Documents | None
    made_for: Mapping[str, str]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What tells each split's tokens from others."""
        splits = {"train": self.data, "eval": self.eval_data}
        return {split: data.fingerprint for split, data in splits.items() if data is not None}

    def event(self, plan: Plan) -> dict[str, Any]:
        """The fields of the `plan` event, for this plan."""
        seen = (self.shape, self.verdict, self.device, self.documents, self.eval_documents)
        return plan_fields(plan, self.recipe, *seen, cache=cache_folder())


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


def preflight(folder: Path, wish: Wish, origin: Origin | None, log: EventLog, report: Reporter) -> Ready | None:
    """Everything that can go wrong before a weight is loaded goes wrong here."""
    recipe = Recipe.from_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
    check_trackers(recipe)
    check_trl(recipe)
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    cache = cache_folder()
    report("reading the model's config", 0, None, "files")
    source = open_model(recipe, to_train=wish.until is None)
    if not source.weight_bytes:
        log.append("warning", message=f"{recipe.model} has no weights yet: it can be planned, and not trained.")
    tokenizer = load_tokenizer(source, recipe)
    if origin is not None and origin.saved.imported is not None:
        imported.check_recipe(origin.saved, source, recipe)

    made_for = {split: _made_for(recipe, told) for split, told in inputs.items()}

    def prepared(split: Literal["train", "eval"], limit: int | None) -> Prepared | None:
        if split not in inputs:
            return None
        if origin is not None and (kept := _kept_data(folder, split, made_for[split])) is not None:
            return kept
        where = Source.from_dict(inputs[split])
        if where.path is not None:
            where = Source(where.kind, where.name, os.fspath(folder / where.path), where.split)
        if origin is not None and where.path is not None and not Path(where.path).is_file():
            raise _data_is_gone(folder, where)
        clock = first_start(folder)
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
    device = this_device(cuda=torch.version.cuda is not None)
    verdict = None
    if wish.until != "data":
        report("probing", 0, None, "layers")
        verdict = probe(source.config, cache, trust_remote_code=recipe.trust_remote_code)
        whole = data.lengths.reshape(-1, data.together).max(1)
        held = DataFacts(np.minimum(whole, max_length.value).astype(np.int32), 0, max_length)
        splits = {"train": data, "eval": eval_data}
        prints = {split: found.fingerprint for split, found in splits.items() if found is not None}
        kept = _kept_length(origin, recipe, prints)
        max_length = kept or length_that_fits(recipe, shape, device, held, verdict, peak)
    documents = data.documents(max_length.value)
    check_both_judged(documents, Source.from_dict(inputs["train"]), data.dropped)
    eval_documents = eval_data.documents(max_length.value) if eval_data is not None else None
    for split, found, views in (("train", data, documents), ("eval", eval_data, eval_documents)):
        if found is not None and views is not None:
            trained = among((views[number][0] for number in range(len(views))), documents) if split == "eval" else 0
            told = {"among_trained": trained} if trained else {}
            log.append("data", split=split, **data_event(found, views, inputs[split], tokenizer), **told)
            if trained:
                log.append("warning", message=f"eval_data: {learnt_by_heart(trained, len(views))}.")
    if verdict is None:
        return None

    evaluated = len(eval_documents.samples) if eval_documents is not None else 0
    facts = DataFacts(documents.samples, evaluated, max_length)
    plan = make_plan(recipe, shape, device, facts, verdict, peak)
    ready = Ready(
        recipe, source, tokenizer, shape, verdict, device, plan, data, documents, eval_data, eval_documents, made_for
    )
    if origin is not None and origin.saved.imported is not None:
        imported.check_steps(origin.saved, plan)
    elif origin is not None:
        changed = bool(changed_keys(origin.saved, recipe)) or data_changed(origin.saved, ready.fingerprints)
        plan = plan_for(origin.saved, plan, changed=changed, device=device)
        if changed:
            order = Order(len(documents.samples), plan["effective_batch"], recipe.seed)
            plan = plan_to_the_end(plan, recipe, origin.saved, order)
        ready = replace(ready, plan=plan)
    check_bitsandbytes(plan["method"], plan["optim"], device.kind)
    if wish.until is None:  # who only looks is shown what there is
        import_trl(recipe)
        caution = check_fit(
            plan,
            recipe,
            source,
            shape,
            verdict,
            device,
            facts,
            kernel_holds=wish.kernel_holds,
            tracing=lambda: report("estimating the memory", 0, None, "layers"),
        )
        if caution is not None:
            log.append("warning", message=caution)
    _check_disk(folder, shape, plan)
    if wish.replica is not None:
        report("looking at the replica", 0, None, "files")
        for note in check_replica(wish.replica, 3 * 4 * _trained(shape, plan), run_folder=folder):
            log.append("warning", message=note)
    log.append("plan", **ready.event(plan))
    return ready


def _made_for(recipe: Recipe, told: Mapping[str, Any]) -> str:
    """What tells whether kept tokens are those that the recipe's rows would become."""
    keys = ("model", "hub_revision", "columns", "prompt_template", "system", "format", "loss_on")
    limits = (recipe.max_train_samples, recipe.max_eval_samples)
    parts = [told.get("identity"), limits, [getattr(recipe, key) for key in keys]]
    if recipe.compares:
        parts.append(recipe.objective)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _kept_length(origin: Origin | None, recipe: Recipe, fingerprints: Mapping[str, str]) -> Choice | None:
    """The length that an unchanged run was cut to: what fits may be another on another day, its tokens must not be."""
    if origin is None or origin.saved.imported is not None or "max_length" not in origin.saved.plan:
        return None
    if changed_keys(origin.saved, recipe) or data_changed(origin.saved, fingerprints):
        return None
    return Plan.from_dict(origin.saved.plan).choices["max_length"]


def _kept_data(folder: Path, split: str, made_for: str) -> Prepared | None:
    """The data that the run keeps for its resumes, if it is that of the recipe and every byte is as it was."""
    kept = folder / "prepared" / split
    try:
        if verify(kept).facts.get("made_for") != made_for:
            return None
    except Broken:
        return None
    return load_prepared(kept)


def _data_is_gone(folder: Path, source: Source) -> ColabMagicsError:
    return ColabMagicsError(
        f"The data of {folder.name} is gone: {source.name} is not there any more.",
        f"What was prepared of it is not in {folder / 'prepared'} either, or was altered.",
        "Upload the data again, or %checkpoint fetch the run from its replica.",
    )


def first_start(folder: Path) -> datetime:
    """The clock under which templates that print a date are rendered: when the run's first attempt began.

    Trials share one, and so does the full run of the best of them: their tokens are the same.
    """
    first = next(event for event in read_events(folder / "events.jsonl") if event["kind"] == "started")
    return datetime.fromisoformat(first.get("clock") or first["time"])


def _trained(shape: ModelShape, plan: Plan) -> int:
    """How many parameters are trained, each of 4 bytes; its optimizer's states are at most twice as much."""
    return shape.parameters if plan["method"] == "full" else shape.lora_parameters


def _check_disk(folder: Path, shape: ModelShape, plan: Plan) -> None:
    """The result must fit, twice for a moment: it is written beside an older one and then takes its place."""
    need = 2 * 4 * _trained(shape, plan) + 32 * 2**20
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ColabMagicsError(
            f"The disk of {folder.parent} is too full for the result.",
            f"It needs about {need / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free.",
            "Make room, or name another place with --root.",
        )
