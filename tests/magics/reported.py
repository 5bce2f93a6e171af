"""Runs as their report sees them: each a log, and what else is in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from panel.cases import GIB, HOSTILE, evaluations, gpu, in_order, prepared, sampled, saved, steps
from panel.events_of import BEGIN, event

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.report_facts import Facts, gather
from colab_magics.recipe import Recipe
from colab_magics.run import Run
from colab_magics.session.table import Accelerator, Platform, Table

T4 = Accelerator("T4", "Tesla T4", 15 * 2**30, (7, 5), {"fp16": 65e12}, {"fp16": 0.15}, ("T4",))
TABLE = Table(
    {"free": Platform("free", "Free", "2026-09-01", accelerators=("T4",), units={"T4": 2.0}, unit_price=0.1)},
    {"T4": T4}, {}, "2026-10-01", {},
)  # fmt: skip
VERSIONS = {"python": "3.13.7", "colab_magics": "0.1.0", "torch": "2.11.0", "peft": "0.20.0"}
COMPARED = {
    "sampling": {"do_sample": False, "max_new_tokens": 256},
    "trained_on": 1,
    "rows": [
        {
            "prompt": "What is Umoja?",
            "reference": "Unity.",
            "base": "Umoja is a municipality in\n<b>Sweden</b>.",
            "tuned": "Unity: to strive for it in the family.",
        }
    ],
    "base": {"loss": 2.41, "perplexity": 11.13, "exact_match": 0.0},
    "tuned": {"loss": 0.71, "perplexity": 2.03, "exact_match": 0.37, "cut": 1},
    "seconds": 41.0,
}
EXPORTED = [
    {"time": "2026-11-21T06:20:00.000+00:00", "what": "merged", "to": "/content/kwanzaa-merged", "seconds": 92.5,
     "bytes": 2_471_645_608, "dtype": "fp16", "memory": {"peak": 700 * 2**20}},
]  # fmt: skip
RECIPE = Recipe(model="meta-llama/Llama-3.2-1B-Instruct", data="kwanzaa_train.jsonl", eval_data="held.jsonl")


def begun(**more: Any) -> list[dict[str, Any]]:
    """What a run on a T4 tells before its first step, with times between."""
    started, data, plan, model = prepared()
    data = {
        **data,
        "rows": 109,
        "fingerprint": "907e20e13a8231637450c9a7097582a2",
        "dropped": [{"reason": "the answer is empty", "count": 2, "example": "line 12"}],
    }
    plan = {
        **plan,
        "estimate": {"weights": int(1.1 * GIB), "peak": int(5.2 * GIB)},
        "on": {"kind": "cuda", "name": "Tesla T4", "total": 15 * GIB},
    }
    plan["choices"] = {**plan["choices"], "effective_batch": {"value": 8, "reason": "as the recipe says"}}
    told = [
        (0, {**started, "run": "0123", "versions": VERSIONS, "platform": "free", **more}),
        (0, event("progress", phase="importing")),
        (12, event("progress", phase="reading the model's config")),
        (14, event("progress", phase="tokenising")),
        (15.5, {**data, "split": "train"}),
        (15.5, plan),
        (16, event("progress", phase="downloading")),
        (40, event("progress", phase="loading")),
        (61, {**model, "load_peak": int(2.6 * GIB)}),
        (62, event("progress", phase="training")),
    ]
    return [{**one, "time": event("x", at - 62)["time"]} for at, one in told]


def finished() -> list[dict[str, Any]]:
    end = event("finished", at=725, step=120, total_steps=120, reason="completed", first_loss=2.55, last_loss=0.43,
                path="/content/runs/kwanzaa/adapter", seconds=722.0, tokens=432_000)  # fmt: skip
    trained = in_order(
        *({**one, "in_memory": 3600, "peak": int(one["peak"])} for one in steps(1, 120)),
        *evaluations(*range(10, 121, 10)),
        *(saved(step, 6.0 * step + 1) for step in (60, 70, 100, 120)),
        sampled(300, gpu()),
    )
    return [*begun(), *trained, end]


def interrupted() -> list[dict[str, Any]]:
    """Killed at step 55, resumed at 40 with another peft, stopped at step 70."""
    first = [*begun(), *in_order(*steps(1, 55), saved(40, 241.0))]
    again = [
        event("started", at=1000, name="kwanzaa", versions={**VERSIONS, "peft": "0.21.0"}, platform="free"),
        *(one for one in begun() if one["kind"] in ("data", "plan", "model")),
        event("resumed", at=1040, step=40, checkpoint="00000040-a1", lost_steps=15),
        *({**one, "time": event("x", 1100 + 6.0 * one["step"])["time"]} for one in steps(41, 70)),
        event("finished", at=1530, step=70, total_steps=120, reason="stopped", first_loss=2.5, last_loss=0.6),
    ]
    return [*first, *({**one, "attempt": 2} for one in again)]


def failed() -> list[dict[str, Any]]:
    error = ColabMagicsError("There is no model org/nothing.", "No such id.", "Check the spelling (org/name).")
    return [*begun()[:3], event("failed", at=3, error=error.to_dict(), phase="reading")]


def hostile() -> list[dict[str, Any]]:
    told = [*begun(versions={HOSTILE: HOSTILE}), *steps(1, 12), *evaluations(5, 10)]
    return [
        *({**one, "source": HOSTILE, "dropped": [{"reason": HOSTILE, "count": 1, "example": HOSTILE}],
           "sample": [[HOSTILE, True]], "fingerprint": HOSTILE} if one["kind"] == "data" else one for one in told),
        event("failed", at=99, error={"what": HOSTILE, "why": HOSTILE, "next": [HOSTILE]}),
    ]  # fmt: skip


def written(
    root: Path,
    events: list[dict[str, Any]],
    *,
    compared: Any = None,
    exported: list[dict[str, Any]] | None = None,
    recipe: Recipe | None = RECIPE,
    name: str = "kwanzaa",
) -> Run:
    """A run's folder that holds these."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
    if compared is not None:
        (folder / "compare.json").write_text(json.dumps(compared))
    if exported:
        (folder / "exports.jsonl").write_text("".join(json.dumps(one) + "\n" for one in exported))
    return Run(folder)


def facts(run: Run) -> Facts:
    return gather(run, TABLE, now=BEGIN.timestamp() + 9999)


CASES: dict[str, Callable[[Path], Run]] = {
    "finished": lambda root: written(root, finished(), compared=COMPARED, exported=EXPORTED),
    "interrupted": lambda root: written(root, interrupted()),
    "failed": lambda root: written(root, failed(), recipe=None),
}
HOSTILE_COMPARED = {
    "rows": [{"prompt": HOSTILE, "reference": HOSTILE, "base": f"```\n{HOSTILE}", "tuned": [HOSTILE]}, 3],
    "base": {HOSTILE: 1.0, "loss": "nan"},
    "tuned": {"loss": 1e400},
}


def hostile_run(root: Path) -> Run:
    exported = [{"time": HOSTILE, "what": HOSTILE, "to": HOSTILE, "bytes": HOSTILE, "memory": HOSTILE}]
    recipe = replace(RECIPE, data=HOSTILE)
    return written(root, hostile(), compared=HOSTILE_COMPARED, exported=exported, recipe=recipe)
