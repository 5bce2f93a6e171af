"""The sections of a report, each from the run's own facts; what was not measured says so, and how it would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from colab_magics.errors import redact
from colab_magics.magics import report_words
from colab_magics.magics.grid import Grid
from colab_magics.magics.report_answering import answering
from colab_magics.magics.report_facts import Facts
from colab_magics.magics.report_learnt import data, evaluation, learning, samples
from colab_magics.magics.report_next import advice
from colab_magics.magics.report_own import of_own_loop
from colab_magics.magics.report_parts import Block, Code, Missing, Report, Section, Steps, Text, pairs
from colab_magics.magics.report_taken import by_stage, cost, memory, speed
from colab_magics.panel import words
from colab_magics.panel.answers import standing
from colab_magics.panel.fields import amount, clock, count, mapping, shown


def report_of(facts: Facts) -> Report:
    """The whole report."""
    state = facts.shown
    begun = clock(facts.events[0]) if facts.events else None
    of = f" at step {state.step:,} of {state.total_steps:,}" if state.total_steps and state.own is None else ""
    lines = [standing(state) + of]
    lines += [words.subject(state), f"Begun {words.instant(begun)}" if begun is not None else ""]
    sections = [
        Section("What to do next", [Steps(tuple(advice(facts)))]),
        Section("Evaluation", evaluation(facts)),
        Section("Before and after", samples(facts)),
        Section("Learning", learning(facts)),
        Section("Data", data(facts)),
        Section("Time by stage", by_stage(facts)),
        Section("Speed", speed(facts)),
        Section("Speed of its answers", answering(facts)),
        Section("Memory", memory(facts)),
        Section("Checkpoints and interruptions", _safety(facts)),
        Section("Cost", cost(facts)),
        Section("What was delivered", _delivered(facts)),
        Section("Recipe", _recipe(facts)),
        Section("Environment", _environment(facts)),
    ]
    if state.own is not None:
        sections = of_own_loop(state, state.own, facts.events, sections)
    return Report(f"{facts.name}: report", [line for line in lines if line], sections)


def _safety(facts: Facts) -> list[Block]:
    saved = [one for one in facts.of("checkpoint") if one.get("action") == "saved" and one.get("bytes")]
    failed = [one for one in facts.of("checkpoint") if one.get("action") == "failed"]
    blocks: list[Block] = []
    if saved:
        stall = sum(amount(one, "stall") or 0.0 for one in saved)
        trained = sum((amount(one, "seconds") or 0.0) * (count(one, "steps") or 1) for one in facts.of("step"))
        rows = [
            ("saved", f"{report_words.times(len(saved))}, the newest of step {count(saved[-1], 'step') or 0:,}"),
            ("size", words.size(amount(saved[-1], "bytes"))),
            (
                "the training waited",
                report_words.seconds(stall) + (f" ({stall / trained:.2%} of its time)" if trained else ""),
            ),
            ("could not be saved", report_words.times(len(failed)) if failed else ""),
        ]
        copied = facts.shown.copied
        rows.append(("copy elsewhere", f"{copied.state}: {copied.where}" if copied is not None else "none"))
        blocks.append(pairs(rows))
    else:
        blocks.append(Missing("No checkpoint was saved."))
    blocks.append(Grid(("attempt", "began", "from", "to", "ended"), tuple(_attempts(facts)), title="Attempts"))
    lost = sum(count(one, "lost_steps") or 0 for one in facts.of("resumed"))
    blocks.append(Text(f"{lost:,} steps had to be taken again." if lost else _unsaved(facts, saved)))
    return blocks


def _unsaved(facts: Facts, saved: Sequence[Mapping[str, Any]]) -> str:
    """Of a run that did not come to its end: what no checkpoint has."""
    newest = max((count(one, "step") or 0 for one in saved), default=0)
    missing = facts.shown.step - newest if facts.state in ("failed", "unfinished") else 0
    if missing <= 0:
        return "No step was lost."
    return f"The last {missing:,} steps are in no checkpoint." if saved else f"None of its {missing:,} steps was saved."


def _attempts(facts: Facts) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number_ in sorted({int(event.get("attempt", 1)) for event in facts.events}):
        mine = [event for event in facts.events if event.get("attempt", 1) == number_]
        steps = [int(event["step"]) for event in mine if event["kind"] == "step"]
        resumed = next((event for event in mine if event["kind"] == "resumed"), None)
        begun = clock(mine[0])
        rows.append(
            (
                str(number_),
                words.instant(begun) if begun is not None else "",
                f"step {count(resumed, 'step') or 0:,} (resumed)" if resumed is not None else "the beginning",
                f"step {steps[-1]:,}" if steps else "no step",
                _ended(mine, alive=facts.state == "running" and mine[-1] is facts.events[-1]),
            )
        )
    return rows


def _ended(mine: Sequence[Mapping[str, Any]], *, alive: bool) -> str:
    last = next((event for event in reversed(mine) if event["kind"] in ("finished", "failed")), None)
    if last is None:
        return "is at work" if alive else "without a word: killed, or the machine ended"
    if last["kind"] == "failed":
        return f"failed: {shown(mapping(last.get('error')).get('what'), 200)}"
    return shown(last.get("reason"), 40) or "completed"


def _delivered(facts: Facts) -> list[Block]:
    if not facts.exports:
        return [Missing(f"Nothing yet: %export {facts.name} delivers it.")]
    rows = [
        (
            shown(one.get("time"))[:16].replace("T", " "),
            shown(one.get("what"), 20),
            words.size(amount(one, "bytes")),
            report_words.seconds(seconds) if (seconds := amount(one, "seconds")) is not None else "",
            words.size(held) if (held := amount(mapping(one.get("memory")), "peak")) else "",
            shown(one.get("to"), 200),
        )
        for one in list({shown(one.get("to"), 200): one for one in facts.exports}.values())[-20:]  # the newest of each
    ]
    return [Grid(("when (UTC)", "", "size", "time", "memory", "to"), tuple(rows))]


def _recipe(facts: Facts) -> list[Block]:
    blocks: list[Block] = []
    plan = [(choice.key, choice.value, choice.reason) for choice in facts.shown.plan]
    if plan:
        blocks.append(Grid(("", "chosen", "because"), tuple(plan), title="The plan", whole=("",)))
    if facts.recipe is None:
        return [*blocks, Missing("The recipe is not in the run's folder.")]
    return [
        *blocks,
        Text("The complete recipe; as a cell it trains the same:"),
        Code(redact(facts.recipe.to_yaml()).rstrip(), "yaml"),
    ]


def _environment(facts: Facts) -> list[Block]:
    started = facts.of("started")
    if not started:
        return [Missing("Not known: it has not started.")]
    last = started[-1]
    versions = mapping(last.get("versions"))
    rows = [("device", facts.shown.device), ("platform", shown(last.get("platform"), 60))]
    rows += [(shown(name, 40), shown(version, 60)) for name, version in versions.items()]
    changed = sorted(
        {
            shown(name, 40)
            for one in started
            for name, version in mapping(one.get("versions")).items()
            if versions.get(name) != version
        }
    )
    blocks: list[Block] = [pairs(rows)]
    if changed:
        blocks.append(Text(f"Earlier attempts had another {', '.join(changed)}."))
    return blocks
