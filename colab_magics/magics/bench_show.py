"""`%generate --bench`: what was measured, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from colab_magics.inference.bench import BATCHES, LENGTHS, NEW_TOKENS, REPEATS, Bench, Timing
from colab_magics.inference.bench import bench as measure
from colab_magics.inference.generate import Where
from colab_magics.inference.recorded import record_bench
from colab_magics.inference.subject import Subject
from colab_magics.magics.generate_line import Asked
from colab_magics.magics.grid import Grid, Page
from colab_magics.sizes import size

_HEAD = ("batch", "prompt", "first token", "prefill", "decode", "p50", "p90", "p99", "limit", "of the limit")


def bench(asked: Asked, subject: Subject, where: Where) -> Bench:
    """Measure what the line asks for, and show it."""
    from colab_magics.magics.vram import show

    progress = where.progress
    made = measure(
        subject,
        where,
        batches=asked.batch or BATCHES,
        lengths=asked.prompt_length or LENGTHS,
        new_tokens=int(asked.sampling.given.get("max_new_tokens", NEW_TOKENS)),
        repeats=asked.repeats or REPEATS,
        tell=lambda what: progress(what, 0, None),
    )
    over: Any = getattr(progress, "over", None)
    if over is not None:
        over()
    shown = page(made)
    of_its_result = not asked.base and asked.checkpoint is None and asked.model is None
    if of_its_result and subject.run is not None and record_bench(made, subject):
        shown = replace(shown, foot=[*shown.foot, f"%report {subject.run.name} shows it, too."])
    show(shown.bundle())
    return made


def page(made: Bench) -> Page:
    """The table."""
    title = f"{made.label} on {made.device}, {made.dtype}"
    new = made.rows[0].new_tokens
    lines = [
        f"Medians of {made.repeats} after a warm-up; {new:,} new tokens each.",
        "Prefill and decode in tokens a second of the whole batch, latency a token in ms.",
    ]
    if made.bandwidth is None:
        foot = ["No memory bandwidth is known of this device, so no limit is shown."]
    else:
        speed = f"{made.bandwidth / 1e9:,.0f} GB/s by NVIDIA's data sheet"
        foot = [f"The limit: each step reads {size(made.weights)} of weights and the cache, at {speed}."]
    return Page(title, lines, [Grid(_HEAD, tuple(map(_row, made.rows)), whole=_HEAD)], [*foot, *made.skipped])


def _row(one: Timing) -> tuple[str, ...]:
    return (
        str(one.batch),
        f"{one.prompt_length:,}",
        f"{one.first * 1e3:,.0f} ms",
        f"{one.prefill:,.0f}",
        f"{one.decode:,.1f}",
        *(f"{value * 1e3:,.1f}" for value in (one.p50, one.p90, one.p99)),
        "" if one.limit is None else f"{one.limit:,.0f}",
        "" if one.limit is None else f"{one.decode / one.limit:.0%}",
    )
