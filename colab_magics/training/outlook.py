"""What the plan event tells besides the choices: all from which this job can be planned on another device.

A kernel has no torch and no model: the model's sizes, the probe's verdict and the lengths of the documents let it ask
the same estimates for every platform, from the log alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from colab_magics.data import Documents
from colab_magics.errors import ColabMagicsError
from colab_magics.memory.estimate import estimate
from colab_magics.plan import Device, ModelShape, Plan, Verdict, setup_of
from colab_magics.recipe import Recipe
from colab_magics.session.duration import Duration, Work, from_measured, prior, work_of
from colab_magics.session.settings import user_file
from colab_magics.session.table import Accelerator, Table, accelerator_of, load_table
from colab_magics.training.measure import timed_here


def plan_fields(
    plan: Plan,
    recipe: Recipe,
    shape: ModelShape,
    verdict: Verdict,
    device: Device,
    documents: Documents,
    eval_documents: Documents | None,
    *,
    cache: Path | None,
) -> dict[str, Any]:
    """The fields of the `plan` event: seconds, bytes, tokens.

    Parameters
    ----------
    documents, eval_documents : as they are trained on and scored, truncated
    cache : where a timing of this very device may have been kept
    """
    lengths = np.asarray(documents.samples)
    tokens = int(np.asarray(documents.lengths).sum())
    eval_tokens = int(np.asarray(eval_documents.lengths).sum()) if eval_documents is not None else 0
    parts = estimate(shape, setup_of(plan, recipe, shape, lengths, device))
    work = work_of(plan, lengths, documents=len(lengths), tokens=tokens, eval_tokens=eval_tokens)
    # what was timed here is our own loop's; TRL's has the reference's forward as well
    timed = None if recipe.compares else timed_here(plan, shape, device, cache)
    duration = from_measured(shape, plan, work, *timed) if timed is not None else None
    if duration is None:
        duration = _modelled(plan, shape, device, work)
    if duration is not None and recipe.objective in ("dpo", "kto"):
        # forward and backward are three forwards; the reference's is a fourth, and KTO's two of swapped answers
        duration = duration.times(4 / 3 if recipe.objective == "dpo" else 2)
    return {
        "choices": plan.to_dict(),
        "device": device.shown,
        "on": asdict(device),
        "shape": asdict(shape),
        "verdict": asdict(verdict),
        "estimate": {**asdict(parts), "peak": parts.peak},
        "duration": {**duration.to_dict(), "timed": timed is not None} if duration is not None else None,
        "lengths": [round(one) for one in np.percentile(lengths, range(101)).tolist()] if len(lengths) else [],
        "documents": len(lengths),
        "eval_documents": len(eval_documents.samples) if eval_documents is not None else 0,
        "tokens_per_epoch": tokens,
        "eval_tokens": eval_tokens,
    }


def _modelled(plan: Plan, shape: ModelShape, device: Device, work: Work) -> Duration | None:
    try:
        table = load_table(user_file())
    except ColabMagicsError:  # a mistake in the user's table is told by %session, and stops no training
        table = load_table()
    return prior(shape, plan, accelerator_for(device, table), work)


def accelerator_for(device: Device, table: Table) -> Accelerator | None:
    """The table's row for this device."""
    return table.accelerators.get("cpu") if device.kind == "cpu" else accelerator_of(device.name, table)
