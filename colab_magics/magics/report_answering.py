"""How fast a run's result answers, as `%generate --bench` has left it in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from colab_magics.magics.grid import Grid
from colab_magics.magics.report_facts import Facts
from colab_magics.magics.report_parts import Block, Missing, Text
from colab_magics.panel import words
from colab_magics.panel.fields import amount, count, items, shown

_MOST = 24
_HEAD = ("batch", "prompt", "tokens a second", "first token", "p50", "p90", "p99")


def answering(facts: Facts) -> list[Block]:
    """New tokens a second, the time to the first, and the latencies of the others."""
    measured = [one for one in items(facts.bench.get("rows"))[:_MOST] if isinstance(one, Mapping)]
    if not measured and not facts.newest("finished").get("path"):
        return [Missing("Not measured: it has no result that could be asked.")]
    if not measured:
        return [Missing(f"Not measured: %generate --run {facts.name} --bench measures it.")]
    told = facts.bench
    title = ", ".join(filter(None, (shown(told.get("device"), 60), shown(told.get("dtype"), 20))))
    new = {count(one, "new_tokens") for one in measured} - {None}
    each = f"; {new.pop():,} new tokens each" if len(new) == 1 else ""
    how = f"Medians of {count(told, 'repeats') or 1} after a warm-up{each}; p50 to p99 of the time between two tokens."
    blocks: list[Block] = [
        Grid(_HEAD, tuple(map(_row, measured)), title=f"On {title}" if title else ""),
        Text(how, quiet=True),
    ]
    step, now = count(told, "step"), facts.shown.step
    if step is not None and step != now:
        blocks.append(Text(f"Measured at step {step:,}; it is at step {now:,} now."))
    return blocks


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        words.count(count(one, "batch") or 0),
        f"{count(one, 'prompt_length') or 0:,}",
        f"{decode:,.1f}" if (decode := amount(one, "decode")) is not None else "",
        *(_milliseconds(amount(one, name)) for name in ("first", "p50", "p90", "p99")),
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.1f} ms"
