"""What a run has taken: time by stage, speed, memory, dollars."""

from __future__ import annotations

import statistics

from colab_magics.magics import report_words, session_words
from colab_magics.magics.grid import Grid
from colab_magics.magics.report_facts import Facts
from colab_magics.magics.report_parts import Block, Missing, Text, pairs
from colab_magics.magics.report_stages import stages
from colab_magics.magics.session_cost import page_of, spent
from colab_magics.memory.measured import measured
from colab_magics.panel import words
from colab_magics.panel.fields import amount, count, items, mapping, shown
from colab_magics.session.duration import Duration

_PARTS = (
    ("weights", "weights"), ("adapters", "adapters"), ("gradients", "gradients"), ("optimizer", "optimizer"),
    ("activations", "activations"), ("attention", "attention"), ("dequantised", "weights taken out of 4 bits"),
    ("head", "output head"), ("copies", "16-bit copies of the weights"),
)  # fmt: skip


def by_stage(facts: Facts) -> list[Block]:
    """How long each stage took, by the event log."""
    tested = amount(facts.compared, "seconds")
    found = stages(facts.events, facts.exports, tested)
    total = sum(one.seconds or 0.0 for one in found)
    how = {
        "merge": f"not measured: %export {facts.name} --merge",
        "test": f"not measured: {facts.comparing}",
        "evaluate": "not measured: eval_data",
    }
    rows = [
        (
            one.name,
            report_words.seconds(one.seconds) if one.seconds is not None else how.get(one.name, "not measured"),
            f"{one.seconds / total:.0%}" if one.seconds is not None and total else "",
        )
        for one in found
    ]
    rows.append(("all", report_words.seconds(total), ""))
    attempts = len(facts.of("started"))
    over = f" Over {attempts} attempts." if attempts > 1 else ""
    return [
        Grid(("stage", "time", "share"), tuple(rows)),
        Text(f"From the times in the run's event log.{over}", quiet=True),
    ]


def speed(facts: Facts) -> list[Block]:
    """Tokens, steps and documents a second."""
    speeds = [rate for one in facts.steps if (rate := amount(one, "tokens_per_second"))]
    seconds = [taken for one in facts.steps if (taken := amount(one, "seconds"))]
    if not speeds or not seconds:
        return [Missing("Not measured: it has taken no step.")]
    ordered = sorted(seconds)
    batch = mapping(mapping(facts.newest("plan").get("choices")).get("effective_batch")).get("value")
    rows = [
        ("tokens a second, median", words.count(statistics.median(speeds))),
        ("a step, median", report_words.seconds(statistics.median(seconds))),
        (
            "a step, slowest in a hundred",
            report_words.seconds(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]),
        ),
    ]
    if isinstance(batch, int):
        rows.append((f"{facts.shown.samples} a second", f"{batch * len(seconds) / sum(seconds):.3g}"))
    tokens = facts.shown.tokens
    rows.append(("tokens in all", words.count(tokens) if tokens is not None else ""))
    return [pairs(rows)]


def memory(facts: Facts) -> list[Block]:
    """What was predicted beside what was measured."""
    plans = [mapping(one.get("estimate")) for one in facts.of("plan") if one.get("estimate")]
    estimate = plans[-1] if plans else {}
    seen = measured(facts.events)
    loading = max((peak for one in facts.of("model") if (peak := amount(one, "load_peak"))), default=None)
    peak = max((peak for one in facts.steps if (peak := amount(one, "peak"))), default=None)
    peak = float(seen.peak) if seen is not None else peak
    rows = [(label, words.size(amount(estimate, key)), "") for key, label in _PARTS if amount(estimate, key)]
    predicted = amount(estimate, "peak")
    if predicted is not None or peak is not None:
        rows.append(("peak of a step", words.size(predicted), words.size(peak) if peak else "not measured"))
    if loading is not None:
        rows.append(("peak of loading", "", words.size(loading)))
    for label, value in _machine(facts):
        rows.append((label, "", words.size(value)))
    if not rows:
        return [Missing("Neither predicted nor measured: it ended before its plan.")]
    blocks: list[Block] = [Grid(("", "predicted", "measured"), tuple(rows))]
    if seen is not None and seen.ratio is not None:
        blocks.append(Text(f"Measured is {seen.ratio:.2f} of what was predicted, at step {seen.step:,}."))
    elif peak is None:
        blocks.append(Missing("The peak of a step is measured by torch's allocator on a GPU; this was none."))
    troubles = [("out of memory", facts.of("oom")), ("gone on", facts.of("recovered"))]
    told = [f"{label} {report_words.times(len(found))}" for label, found in troubles if found]
    return [*blocks, *([Text(f"It has run {', and '.join(told)}.")] if told else [])]


def _machine(facts: Facts) -> list[tuple[str, float]]:
    """The most that the cards, the machine and the worker had in use."""
    most: dict[str, float] = {}
    for event in facts.of("memory"):
        found = [
            (f"card {count(card, 'index') or 0} ({shown(card.get('name'), 60)}), most in use", amount(card, "used"))
            for card in map(mapping, items(event.get("devices")))
        ]
        found += [("the worker's own, of the machine's", amount(event, "rss"))]
        found += [("the machine, most in use", amount(mapping(event.get("host")), "used"))]
        for label, value in found:
            if value is not None:
                most[label] = max(value, most.get(label, 0.0))
    return list(most.items())


def cost(facts: Facts) -> list[Block]:
    """What it has used, and what was predicted."""
    attempts = spent(facts.events, facts.table, now=facts.now if facts.state == "running" else None)
    page = page_of(facts.name, facts.events, facts.table, state=facts.state, now=facts.now, kept=facts.kept)
    blocks: list[Block] = [Text(line) for line in page.lines]
    first = attempts[0] if attempts else None
    plan = next((one for one in facts.of("plan") if one.get("duration")), None)
    if first is not None and first.dollars is not None and first.seconds > 0 and plan is not None:
        made = Duration.from_dict(plan["duration"])
        hour = first.dollars / first.seconds
        used = [one.dollars for one in attempts if one.dollars is not None]
        low, mid, high = (session_words.dollars(hour * part) for part in (made.low, made.mid, made.high))
        blocks.append(
            Text(
                f"Predicted for the training: {mid} ({low} to {high}). Used in all: {session_words.dollars(sum(used))}."
            )
        )
    elif first is not None:
        blocks.append(Missing(f"What {first.device or 'this device'} costs here is not in the table: %session table."))
    return [*blocks, *page.grids, *(Text(line, quiet=True) for line in page.foot)]
