"""The sections of a report, each from the run's own facts; what was not measured says so, and how it would be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from colab_magics.errors import redact
from colab_magics.magics import session_words
from colab_magics.magics.grid import Grid
from colab_magics.magics.report_answering import answering
from colab_magics.magics.report_facts import Facts, compared_figures, compared_rows
from colab_magics.magics.report_next import advice
from colab_magics.magics.report_own import of_own_loop
from colab_magics.magics.report_parts import (
    Answers,
    Block,
    Code,
    Curves,
    Missing,
    Report,
    Sample,
    Section,
    Steps,
    Text,
)
from colab_magics.magics.report_stages import stages
from colab_magics.magics.session_cost import page_of, spent
from colab_magics.memory.measured import measured
from colab_magics.panel import words
from colab_magics.panel.answers import standing
from colab_magics.panel.chart import described
from colab_magics.panel.fields import amount, clock, count, items, mapping, number, shown
from colab_magics.panel.state import PanelState
from colab_magics.session.duration import Duration

_MOST_EVALS = 12
_MOST_ANSWERS = 8
_LONG = 1200
_PARTS = (
    ("weights", "weights"), ("adapters", "adapters"), ("gradients", "gradients"), ("optimizer", "optimizer"),
    ("activations", "activations"), ("attention", "attention"), ("dequantised", "weights taken out of 4 bits"),
    ("head", "output head"), ("peak", "peak"),
)  # fmt: skip


def report_of(facts: Facts) -> Report:
    """The whole report."""
    state = facts.shown
    begun = clock(facts.events[0]) if facts.events else None
    of = f" at step {state.step:,} of {state.total_steps:,}" if state.total_steps and state.own is None else ""
    lines = [standing(state) + of]
    lines += [words.subject(state), f"Begun {words.instant(begun)}" if begun is not None else ""]
    sections = [
        Section("What to do next", [Steps(tuple(advice(facts)))]),
        Section("Evaluation", _evaluation(facts)),
        Section("Before and after", _samples(facts)),
        Section("Learning", _learning(facts)),
        Section("Data", _data(facts)),
        Section("Time by stage", _time(facts)),
        Section("Speed", _speed(facts)),
        Section("Speed of its answers", answering(facts)),
        Section("Memory", _memory(facts)),
        Section("Checkpoints and interruptions", _safety(facts)),
        Section("Cost", _cost(facts)),
        Section("What was delivered", _delivered(facts)),
        Section("Recipe", _recipe(facts)),
        Section("Environment", _environment(facts)),
    ]
    if state.own is not None:
        sections = of_own_loop(state, state.own, facts.events, sections)
    return Report(f"{facts.name}: report", [line for line in lines if line], sections)


def _pairs(rows: Sequence[tuple[str, str]]) -> Grid:
    return Grid(("", ""), tuple((label, value) for label, value in rows if value))


def _evaluation(facts: Facts) -> list[Block]:
    blocks: list[Block] = []
    rows = _figures(facts)
    if rows:
        blocks.append(Grid(("", "base", "tuned"), tuple(rows), title=_compared(facts)))
        blocks += _when(facts)
    else:
        blocks.append(Missing(f"Base against tuned was not measured: {facts.comparing} measures it."))
    evals = facts.evals
    if not evals:
        blocks.append(
            Missing("Held-out rows were not scored: eval_data in the recipe has them scored while it trains.")
        )
        return blocks
    best = min(evals, key=lambda one: number(one, "loss") or float("inf"))
    chosen = _thinned(evals, best)
    rows_ = [
        (
            f"{int(one['step']):,}" + (" (best)" if one is best else ""),
            words.number(number(one, "loss")),
            words.number(number(one, "perplexity")),
            f"{accuracy:.1%}" if (accuracy := number(one, "token_accuracy")) is not None else "",
        )
        for one in chosen
    ]
    blocks.append(
        Grid(("step", "loss", "perplexity", "tokens right"), tuple(rows_), title="Held-out rows, while it trained")
    )
    if len(chosen) < len(evals):
        blocks.append(Text(f"{len(chosen)} of {len(evals)} evaluations.", quiet=True))
    return blocks


def _compared(facts: Facts) -> str:
    on = shown(facts.compared.get("on"), 200)
    return f"Base against tuned, on {on}" if on else "Base against tuned"


def _when(facts: Facts) -> list[Block]:
    """A word where it was compared before its last steps were taken."""
    compared, now = count(facts.compared, "step"), facts.shown.step
    if compared is None or compared == now:
        return []
    return [Text(f"Compared at step {compared:,}; it is at step {now:,} now: {facts.comparing}.")]


def _figures(facts: Facts) -> list[tuple[str, ...]]:
    """Of both sides, what the comparison has measured."""
    base, tuned = compared_figures(facts, "base"), compared_figures(facts, "tuned")
    names = [
        name for name in dict.fromkeys((*base, *tuned)) if (number(base, name), number(tuned, name)) != (None, None)
    ]
    return [
        (shown(name, 60).replace("_", " "), *(_figure(name, number(side, name)) for side in (base, tuned)))
        for name in names
    ]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1%}" if name in ("exact_match", "token_accuracy") and 0 <= value <= 1 else words.number(value)


def _thinned(evals: Sequence[Any], best: Any) -> list[Any]:
    """The first, the best, the last, and some between them."""
    if len(evals) <= _MOST_EVALS:
        return list(evals)
    places = {round(n * (len(evals) - 1) / (_MOST_EVALS - 1)) for n in range(_MOST_EVALS)}
    return [one for place, one in enumerate(evals) if place in places or one is best]


def _samples(facts: Facts) -> list[Block]:
    rows = compared_rows(facts)
    if not rows:
        return [Missing(f"No prompts were asked of base and tuned: {facts.comparing} asks them.")]
    blocks: list[Block] = []
    for row in rows[:_MOST_ANSWERS]:
        said = tuple((name, text) for name in ("reference", "base", "tuned") if (text := _text(row.get(name))))
        blocks.append(Answers(_text(row.get("prompt")), said))
    if len(rows) > _MOST_ANSWERS:
        blocks.append(
            Text(f"{_MOST_ANSWERS} of {len(rows)} prompts; all are in its folder, in compare*.json.", quiet=True)
        )
    return blocks


def _text(value: object) -> str:
    """What a person or a model has written: its lines are kept."""
    text = "\n".join(shown(line, _LONG) for line in str(value).splitlines()) if value is not None else ""
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _learning(facts: Facts) -> list[Block]:
    state = facts.shown
    if len(state.curve.drawn()) < 2:
        return [Missing("No curve: it has taken fewer than two steps.")]
    compared = state.margin is not None or state.preferred is not None
    unit = [Text("In nats per trained token.", quiet=True)] if state.own is None and not compared else []
    return [Curves(state), Text(f"{described(state)}."), *_preferences(state), *unit]


def _preferences(state: PanelState) -> list[Block]:
    """Where answers were compared: by how much, and how often, the preferred one is the model's own as well."""
    rows = [
        ("reward margin", words.number(state.margin) if state.margin is not None else ""),
        ("preferred in", f"{state.preferred:.0%} of the pairs" if state.preferred is not None else ""),
    ]
    return [_pairs(rows)] if any(value for _, value in rows) else []


def _data(facts: Facts) -> list[Block]:
    told = {str(one.get("split") or "train"): one for one in facts.of("data")}
    if not told:
        return [Missing("Not known: it ended before its data was read.")]
    blocks: list[Block] = []
    folded = {one.split: one for one in facts.shown.data}
    for split, event in told.items():
        facts_of = dict(words.data_facts(folded[split])) if split in folded else {}
        facts_of.pop("split", None)
        facts_of.pop("dropped", None)
        rows = count(event, "rows")
        pairs = [("rows read", words.count(rows) if rows is not None else ""), *facts_of.items()]
        pairs.append(("fingerprint", shown(event.get("fingerprint"), 80)))
        blocks.append(Grid(("", ""), tuple((a, b) for a, b in pairs if b), title=f"The {split} data"))
        dropped = [
            (f"{count(one, 'count') or 0:,}", shown(one.get("reason"), 200), shown(one.get("example"), 200))
            for one in map(mapping, items(event.get("dropped")))
        ]
        if dropped:
            blocks.append(Grid(("rows", "dropped because", "the first"), tuple(dropped)))
        if split in folded and folded[split].sample:
            blocks += [Text("One document, the trained part marked:", quiet=True), Sample(folded[split].sample)]
    return blocks


def _time(facts: Facts) -> list[Block]:
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
            _seconds(one.seconds) if one.seconds is not None else how.get(one.name, "not measured"),
            f"{one.seconds / total:.0%}" if one.seconds is not None and total else "",
        )
        for one in found
    ]
    rows.append(("all", _seconds(total), ""))
    attempts = len(facts.of("started"))
    over = f" Over {attempts} attempts." if attempts > 1 else ""
    return [
        Grid(("stage", "time", "share"), tuple(rows)),
        Text(f"From the times in the run's event log.{over}", quiet=True),
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else words.duration(value)


def _speed(facts: Facts) -> list[Block]:
    speeds = [speed for one in facts.steps if (speed := amount(one, "tokens_per_second"))]
    seconds = [taken for one in facts.steps if (taken := amount(one, "seconds"))]
    if not speeds or not seconds:
        return [Missing("Not measured: it has taken no step.")]
    ordered = sorted(seconds)
    batch = mapping(mapping(facts.newest("plan").get("choices")).get("effective_batch")).get("value")
    rows = [
        ("tokens a second, median", words.count(statistics.median(speeds))),
        ("a step, median", _seconds(statistics.median(seconds))),
        ("a step, slowest in a hundred", _seconds(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))])),
    ]
    if isinstance(batch, int):
        rows.append(("documents a second", f"{batch * len(seconds) / sum(seconds):.3g}"))
    tokens = facts.shown.tokens
    rows.append(("tokens in all", words.count(tokens) if tokens is not None else ""))
    return [_pairs(rows)]


def _memory(facts: Facts) -> list[Block]:
    plans = [mapping(one.get("estimate")) for one in facts.of("plan") if one.get("estimate")]
    estimate = plans[-1] if plans else {}
    seen = measured(facts.events)
    loading = max((peak for one in facts.of("model") if (peak := amount(one, "load_peak"))), default=None)
    peak = max((peak for one in facts.steps if (peak := amount(one, "peak"))), default=None)
    peak = float(seen.peak) if seen is not None else peak
    rows = [(label, words.size(amount(estimate, key)), "") for key, label in _PARTS[:-1] if amount(estimate, key)]
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
    told = [f"{label} {_times(len(found))}" for label, found in troubles if found]
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


def _safety(facts: Facts) -> list[Block]:
    saved = [one for one in facts.of("checkpoint") if one.get("action") == "saved" and one.get("bytes")]
    failed = [one for one in facts.of("checkpoint") if one.get("action") == "failed"]
    blocks: list[Block] = []
    if saved:
        stall = sum(amount(one, "stall") or 0.0 for one in saved)
        trained = sum((amount(one, "seconds") or 0.0) * (count(one, "steps") or 1) for one in facts.of("step"))
        rows = [
            ("saved", f"{_times(len(saved))}, the newest of step {count(saved[-1], 'step') or 0:,}"),
            ("size", words.size(amount(saved[-1], "bytes"))),
            ("the training waited", _seconds(stall) + (f" ({stall / trained:.2%} of its time)" if trained else "")),
            ("could not be saved", _times(len(failed)) if failed else ""),
        ]
        copied = facts.shown.copied
        rows.append(("copy elsewhere", f"{copied.state}: {copied.where}" if copied is not None else "none"))
        blocks.append(_pairs(rows))
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


def _times(number_: int) -> str:
    return "once" if number_ == 1 else f"{number_:,} times"


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


def _cost(facts: Facts) -> list[Block]:
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


def _delivered(facts: Facts) -> list[Block]:
    if not facts.exports:
        return [Missing(f"Nothing yet: %export {facts.name} delivers it.")]
    rows = [
        (
            shown(one.get("time"))[:16].replace("T", " "),
            shown(one.get("what"), 20),
            words.size(amount(one, "bytes")),
            _seconds(seconds) if (seconds := amount(one, "seconds")) is not None else "",
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
    return [*blocks, Text("The complete recipe; as a cell it trains the same:"), Code(_cell(facts), "yaml")]


def _cell(facts: Facts) -> str:
    assert facts.recipe is not None
    return redact(facts.recipe.to_yaml()).rstrip()


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
    blocks: list[Block] = [_pairs(rows)]
    if changed:
        blocks.append(Text(f"Earlier attempts had another {', '.join(changed)}."))
    return blocks
