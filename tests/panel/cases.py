"""Runs as their panel shows them: each a state and the moment at which it is looked at."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.session.here import Session
from colab_magics.session.table import Platform

from .events_of import BEGIN, event

GIB = 2**30
HOURS = 3600.0
HOSTILE = "<script>alert(1)</script>\x1b[31m\" onload=x '<img src=x onerror=y>"
COLAB = Platform("colab", "Colab Free", "2026-08-19", limit=12 * HOURS, idle=1.5 * HOURS)
PLAIN = Platform("plain", "This machine", "2026-08-19")


def prepared(
    name: str = "kwanzaa",
    source: str = "kwanzaa_train.jsonl",
    model: str = "meta-llama/Llama-3.2-1B-Instruct",
    device: str = "Tesla T4, 14.6 GiB",
    total: int = 120,
) -> list[dict[str, Any]]:
    """What a run tells before its first step."""
    return [
        event("started", name=name),
        event(
            "data", split="train", source=source, format="messages", documents=107, tokens=48_211,
            trained_tokens=20_111, lengths={"p50": 311, "p99": 1022, "max": 1380}, max_length=1024, truncated=2,
            dropped=[{"reason": "the answer is empty", "count": 2}], mask_method="prefix difference",
            sample=[["What is Umoja?\n", False], ["Unity.", True]],
        ),
        event(
            "plan", device=device, estimate={"weights": 1.1 * GIB, "peak": 5.2 * GIB},
            duration={"low": 500.0, "mid": 740.0, "high": 1180.0},
            choices={
                "precision": {"value": "fp16", "reason": "capability 7.5: bf16 would be emulated"},
                "total_steps": {"value": total, "reason": "9 epochs of 107 documents"},
            },
        ),
        event("model", id=model, method="qlora", parameters=1_235_814_400, trainable_parameters=11_272_192),
    ]  # fmt: skip


def steps(first: int, last: int, *, total: int = 120, each: float = 6.0, gpu: bool = True) -> Iterator[dict[str, Any]]:
    """Steps with the noise of small batches, the same at every call."""
    for step in range(first, last + 1):
        noise = random.Random(step).gauss(0, 0.13)
        part = step / total
        told: dict[str, Any] = {"allocated": 4.4 * GIB, "reserved": 5.3 * GIB, "peak": 4.9 * GIB} if gpu else {}
        yield event(
            "step", at=each * step, step=step, total_steps=total, epoch=9 * part,
            loss=0.45 + 2.1 * math.exp(-7 * part) + noise * math.exp(-part), learning_rate=2e-4 * (1 - part),
            tokens=3600 * step, tokens_per_second=3600 / each, seconds=0.98 * each, **told,
        )  # fmt: skip


def evaluations(*at: int, total: int = 120, each: float = 6.0) -> list[dict[str, Any]]:
    """Evaluations that are a little worse than the training, and get worse at the end."""
    return [
        event(
            "eval", at=each * step + 1, step=step, loss=0.62 + 1.9 * math.exp(-7 * step / total) + 0.2 * step / total,
            perplexity=2.1, token_accuracy=0.71, seconds=0.9,
        )
        for step in at
    ]  # fmt: skip


def gpu(index: int = 0, used: float = 5.72, name: str = "Tesla T4", total: float = 14.56) -> dict[str, Any]:
    return {"index": index, "name": name, "total": total * GIB, "used": used * GIB, "utilisation": 97.0,
            "temperature": 68.0, "power": 66.0}  # fmt: skip


def sampled(at: float, *devices: dict[str, Any], **torch: float) -> dict[str, Any]:
    host = {"total": 12.7 * GIB, "used": 3.4 * GIB}
    return event("memory", at=at, devices=list(devices), host=host, rss=2.1 * GIB, cpu=104.0, **torch)


def saved(step: int, at: float) -> dict[str, Any]:
    return event("checkpoint", at=at, action="saved", name=f"{step:08d}-a1", step=step, bytes=129 * 2**20,
                 stall=0.018, stall_share=0.0003)  # fmt: skip


def copied(step: int, at: float, state: str = "confirmed", **more: Any) -> dict[str, Any]:
    return event("replica", at=at, state=state, where="/content/drive/MyDrive/colab_magics/kwanzaa",
                 checkpoint=f"{step:08d}-a1", step=step, **more)  # fmt: skip


def at(seconds: float, age: float | None = 0.6 * HOURS, platform: Platform = COLAB, **more: Any) -> Moment:
    """So many seconds after the run began, in a session of that age."""
    return Moment(now=BEGIN.timestamp() + seconds, session=Session(platform, age=age, limit=platform.limit), **more)


def in_order(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(events, key=lambda one: one["time"])


def told(last: int) -> list[dict[str, Any]]:
    """A run on a T4 up to a step, with a copy on Drive."""
    done = 6.0 * last
    seen = list(range(10, last + 1, 10))
    return [
        *prepared(),
        *in_order(
            *steps(1, last),
            *evaluations(*seen),
            sampled(done - 1, gpu()),
            *(saved(step, 6.0 * step + 1) for step in seen),
            *(copied(step, 6.0 * step + 40) for step in seen if 6.0 * step + 40 < done),
        ),
    ]


def folded(*events: dict[str, Any]) -> PanelState:
    return PanelState().fold_all(events)


def starting() -> tuple[PanelState, Moment]:
    return PanelState(name="kwanzaa"), at(1)


def downloading() -> tuple[PanelState, Moment]:
    progress = event("progress", phase="downloading", done=1.3e9, total=2.47e9, unit="bytes")
    return folded(*prepared(), sampled(0, gpu(used=0.1)), progress), at(30)


def one_point() -> tuple[PanelState, Moment]:
    return folded(*prepared(), sampled(0, gpu()), *steps(1, 1)), at(8)


def fifty_points() -> tuple[PanelState, Moment]:
    return folded(*told(55)), at(6.0 * 55 + 2)


@cache
def fifty_thousand_points() -> tuple[PanelState, Moment]:
    total, each = 60_000, 0.5
    state = folded(*prepared(name="long", total=total), sampled(0, gpu()), *steps(1, 50_000, total=total, each=each))
    state = state.fold_all(evaluations(*range(500, 50_001, 500), total=total, each=each))
    state = state.fold_all([saved(49_800, 24_900.0), copied(49_000, 24_600.0)])
    return replace(state, eval_every=500), at(25_001.0, age=7.2 * HOURS)


def cpu() -> tuple[PanelState, Moment]:
    device = "CPU with 2 cores, 12.7 GiB"
    state = folded(*prepared(model="demo", device=device, total=60), *steps(1, 30, total=60, each=1.0, gpu=False))
    state = state.fold_all([*evaluations(10, 20, 30, total=60, each=1.0), sampled(30), saved(25, 26.0)])
    return replace(state, estimate=None), at(31, age=None, platform=PLAIN)


def four_gpus() -> tuple[PanelState, Moment]:
    cards = [gpu(index, 61.2 + index, "NVIDIA A100-SXM4-80GB", 79.3) | {"power": 66.0 + index} for index in range(4)]
    torch = {"allocated": 48 * GIB, "reserved": 58 * GIB, "peak": 52.5 * GIB}
    events = prepared(name="four", device="4 x NVIDIA A100-SXM4-80GB", model="Qwen/Qwen3-32B")
    state = folded(*events, *steps(1, 40, gpu=False), sampled(240, *cards, **torch), saved(40, 230.0))
    return replace(state, estimate=50 * GIB), at(241, platform=PLAIN)


def resumed() -> tuple[PanelState, Moment]:
    on = event("resumed", at=900, step=40, checkpoint="00000040-a1", lost_steps=15,
               skipped=[{"name": "00000050-a1", "reason": "optimizer.safetensors was altered"}],
               changes=[["learning_rate", "0.0002", "0.0001", "0.0001"]])  # fmt: skip
    again = [{**one, "attempt": 2} for one in (*prepared(), on, *steps(41, 70), *evaluations(50, 60, 70))]
    return folded(*told(55), *again, sampled(420, gpu()), saved(70, 421)), at(425)


def recovered_from_oom() -> tuple[PanelState, Moment]:
    more = [
        event("oom", at=331, step=56, micro_batch=2, documents=2, message="tried to allocate 2.1 GiB"),
        event("recovered", at=335, step=56, micro_batch=1, gradient_checkpointing=True),
    ]
    full = {"allocated": 13.1 * GIB, "reserved": 13.9 * GIB, "peak": 13.9 * GIB}
    flags = ("Drive: 0.9 GiB of 15 GiB are free.", "GPU memory is above 14 GiB of 14.6.")
    state = folded(*told(55), *more, *steps(56, 60), sampled(361, gpu(used=14.4), **full))
    return replace(state, estimate=8.1 * GIB), at(362, flags=flags)


def failed() -> tuple[PanelState, Moment]:
    error = ColabMagicsError(
        "One document alone does not fit: document 31 has 8,190 tokens.",
        "It needs about 2.1 GiB more than the Tesla T4 has.",
        "Set max_length: 4096, which cuts 3 documents.",
    )
    return folded(*told(55), event("failed", at=332, error=error.to_dict(), phase="training")), Moment()


def interrupted() -> tuple[PanelState, Moment]:
    end = [
        event("stopping", at=331, reason="stop"),
        saved(55, 332.0),
        event("finished", at=333, step=55, total_steps=120, reason="stopped", seconds=331.0, tokens=198_000,
              first_loss=2.5, last_loss=0.53, path="/content/runs/kwanzaa/adapter"),
        copied(55, 340.0),
    ]  # fmt: skip
    return folded(*told(55), *end), Moment()


def not_a_number() -> tuple[PanelState, Moment]:
    odd = [event("step", at=6.0 * step, step=step, total_steps=120, loss=None) for step in (41, 42, 43, 50)]
    good = [one for one in steps(1, 55) if one["step"] not in (41, 42, 43, 50)]
    return folded(*prepared(), sampled(0, gpu()), *in_order(*good, *odd)), at(332)


def lost_gpu() -> tuple[PanelState, Moment]:
    """Its driver answers no more; torch's own numbers still come."""
    gone = dict.fromkeys(("total", "used", "utilisation", "temperature", "power"))
    return folded(*told(55), sampled(331, {"index": 0, **gone})), at(332)


def mig() -> tuple[PanelState, Moment]:
    """A MIG instance tells its memory, and no utilisation."""
    instance = gpu(used=4.1, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", total=4.75) | {"utilisation": None}
    torch = {"allocated": 2.2 * GIB, "reserved": 3.6 * GIB, "peak": 2.4 * GIB}
    device = "NVIDIA A100-SXM4-40GB MIG 1g.5gb, 4.8 GiB"
    state = folded(*prepared(device=device), *steps(1, 30, gpu=False), sampled(181, instance, **torch))
    return replace(state, estimate=2.6 * GIB), at(182)


def cached() -> tuple[PanelState, Moment]:
    """A bar that is full of what torch keeps and nobody uses."""
    torch = {"allocated": 4.4 * GIB, "reserved": 13.9 * GIB, "peak": 4.9 * GIB}
    return folded(*told(55), sampled(331, gpu(used=14.3), **torch)), at(332)


def spiked() -> tuple[PanelState, Moment]:
    """One step of 120 with a loss of 400 times the usual."""
    events = [one if one["step"] != 77 else {**one, "loss": 244.7} for one in steps(1, 110)]
    return folded(*prepared(), sampled(0, gpu()), *in_order(*events, *evaluations(40, 80))), at(662)


def tiny_losses() -> tuple[PanelState, Moment]:
    events = [{**one, "loss": one["loss"] * 2e-5} for one in steps(1, 100)]
    return folded(*prepared(), sampled(0, gpu()), *events), at(602)


def no_finite_loss() -> tuple[PanelState, Moment]:
    """As a cell that waits draws it: the error itself is the cell's own."""
    error = ColabMagicsError("The loss is not a finite number at step 56; the weights were not touched by it.")
    state = folded(*told(55), event("failed", at=332, error=error.to_dict(), phase="training"))
    return replace(state, failure=()), Moment()


def crowded() -> tuple[PanelState, Moment]:
    """More warnings than there is room for."""
    long = "&" * 400
    warnings = [event("warning", at=300, message=f"Warning {number}: {long}") for number in range(8)]
    cards = [gpu(index, 10.0, total=14.6) for index in range(8)]
    resumed = event("resumed", step=3, checkpoint="00000003-a1", differs=[f"{number}{long}" for number in range(4)])
    return folded(*prepared(), resumed, *steps(4, 60), *warnings, sampled(361, *cards)), at(362)


def does_not_finish() -> tuple[PanelState, Moment]:
    state = folded(*prepared(total=3000), sampled(0, gpu()), *steps(1, 200, total=3000, each=30.0))
    return state.fold_all([saved(195, 5900.0), copied(180, 5600.0)]), at(6001.0, age=2.1 * HOURS)


def silent() -> tuple[PanelState, Moment]:
    return folded(*told(55)), at(330 + 260, idle=2000.0)


def finished() -> tuple[PanelState, Moment]:
    end = event("finished", at=725, step=120, total_steps=120, reason="completed", first_loss=2.55, last_loss=0.43,
                path="/content/runs/kwanzaa/adapter", seconds=722.0, tokens=432_000)  # fmt: skip
    return folded(*told(120), end, copied(120, 761.0)), Moment()


def detached() -> tuple[PanelState, Moment]:
    return folded(*told(55)).put_aside(), Moment()


CASES: dict[str, Callable[[], tuple[PanelState, Moment]]] = {
    case.__name__: case
    for case in (
        starting, downloading, one_point, fifty_points, fifty_thousand_points, cpu, four_gpus, resumed,
        recovered_from_oom, failed, interrupted, not_a_number, does_not_finish, silent, finished, detached,
        lost_gpu, mig, cached, spiked, tiny_losses, no_finite_loss, crowded,
    )
}  # fmt: skip


def hostile() -> tuple[PanelState, Moment]:
    """A log, a machine and a table in which every text attacks."""
    events = [
        *prepared(name=HOSTILE, source=HOSTILE, model=HOSTILE, device=HOSTILE),
        event("progress", phase=HOSTILE, done=1, total=2, unit=HOSTILE),
        *steps(1, 3),
        *evaluations(2),
        sampled(3, gpu(name=HOSTILE), gpu(1, name=HOSTILE)),
        event("memory", devices=[{"name": HOSTILE, "index": HOSTILE, "total": HOSTILE, "used": HOSTILE}]),
        event("warning", message=HOSTILE),
        event("oom", step=1, message=HOSTILE),
        event("checkpoint", action="failed", step=1, message=HOSTILE),
        event("replica", state=HOSTILE, where=HOSTILE, checkpoint=HOSTILE, step=1, message=HOSTILE),
        event("resumed", step=1, checkpoint=HOSTILE, skipped=[{"name": HOSTILE, "reason": HOSTILE}],
              changes=[[HOSTILE] * 4], differs=[HOSTILE]),
        event("data", split="eval", source=HOSTILE, format=HOSTILE, dropped=[{"reason": HOSTILE, "count": 1}],
              sample=[[HOSTILE, True], [HOSTILE, False]], documents=1, tokens=3, mask_method=HOSTILE),
        event("plan", device=HOSTILE, choices={HOSTILE: {"value": HOSTILE, "reason": HOSTILE}}),
        event("failed", error={"what": HOSTILE, "why": HOSTILE, "next": [HOSTILE], "details": [HOSTILE]}),
    ]  # fmt: skip
    platform = Platform(HOSTILE, HOSTILE, HOSTILE, limit=HOURS, idle=HOURS, activity=HOSTILE, notes=(HOSTILE,))
    return folded(*events), at(9, platform=platform, idle=100.0, flags=(HOSTILE, HOSTILE))
