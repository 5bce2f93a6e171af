"""What a run has learnt, and from what: evaluation, answers before and after, the curve, the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from colab_magics.data.overlap import learnt_by_heart
from colab_magics.magics.grid import Grid
from colab_magics.magics.report_facts import Facts, compared_figures, compared_rows
from colab_magics.magics.report_parts import Answers, Block, Curves, Missing, Sample, Text, pairs
from colab_magics.panel import words
from colab_magics.panel.chart import described
from colab_magics.panel.fields import count, items, mapping, number, shown
from colab_magics.panel.state import PanelState

_MOST_EVALS = 12
_MOST_ANSWERS = 8
_LONG = 1200


def evaluation(facts: Facts) -> list[Block]:
    """Base against tuned, and held-out rows while it trained."""
    blocks: list[Block] = []
    rows = _figures(facts)
    if rows:
        blocks.append(Grid(("", "base", "tuned"), tuple(rows), title=_compared(facts)))
        blocks += [*_on_what(facts), *_when(facts)]
    else:
        blocks.append(Missing(f"Base against tuned was not measured: {facts.comparing} measures it."))
    evals = facts.evals
    if not evals:
        blocks.append(
            Missing("Held-out rows were not scored: eval_data in the recipe has them scored while it trains.")
        )
        return blocks
    familiar, of = _trained_too(facts)
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
    title = "Evaluation rows" if familiar else "Held-out rows"
    blocks.append(
        Grid(("step", "loss", "perplexity", "tokens right"), tuple(rows_), title=f"{title}, while it trained")
    )
    if familiar:
        blocks.append(Text(f"Of the evaluation data {learnt_by_heart(familiar, of)}."))
    if len(chosen) < len(evals):
        blocks.append(Text(f"{len(chosen)} of {len(evals)} evaluations.", quiet=True))
    return blocks


def _trained_too(facts: Facts) -> tuple[int, int]:
    """How many of the evaluation's documents are trained as well, and of how many."""
    told = next((one for one in reversed(facts.of("data")) if one.get("split") == "eval"), {})
    return count(told, "among_trained") or 0, count(told, "documents") or 0


def _on_what(facts: Facts) -> list[Block]:
    """What the figures rest on: how many cases, how their texts were made, and what makes them worth less."""
    cases = len(items(facts.compared.get("rows")))
    drawn = mapping(facts.compared.get("sampling"))
    how = ", ".join(f"{shown(name, 60)} {shown(value, 60)}" for name, value in drawn.items() if name != "do_sample")
    kind = "texts that were drawn" if drawn.get("do_sample") else "texts of the likeliest tokens"
    said = [f"On {cases:,} {'case' if cases == 1 else 'cases'}{f'; {kind} ({how})' if drawn else ''}."]
    cut = [
        f"{found:,} of {side}" for side in ("base", "tuned") if (found := count(compared_figures(facts, side), "cut"))
    ]
    if cut:
        said.append(f"Cut before their end, which is no exact match: {', '.join(cut)}.")
    if familiar := count(facts.compared, "trained_on"):
        said.append(f"Of these rows {learnt_by_heart(familiar, cases)}.")
    return [Text(" ".join(said))]


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
        name
        for name in dict.fromkeys((*base, *tuned))
        if name != "cut" and (number(base, name), number(tuned, name)) != (None, None)
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


def samples(facts: Facts) -> list[Block]:
    """What base and tuned have said to the same prompts."""
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


def learning(facts: Facts) -> list[Block]:
    """The curve of the loss."""
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
    return [pairs(rows)] if any(value for _, value in rows) else []


def data(facts: Facts) -> list[Block]:
    """Each split: its rows, what was dropped, one document."""
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
        known = [("rows read", words.count(rows) if rows is not None else ""), *facts_of.items()]
        known.append(("fingerprint", shown(event.get("fingerprint"), 80)))
        blocks.append(pairs(known, f"The {split} data"))
        dropped = [
            (f"{count(one, 'count') or 0:,}", shown(one.get("reason"), 200), shown(one.get("example"), 200))
            for one in map(mapping, items(event.get("dropped")))
        ]
        if dropped:
            blocks.append(Grid(("rows", "dropped because", "the first"), tuple(dropped)))
        if split in folded and folded[split].sample:
            blocks += [
                Text(f"One {folded[split].kind.removesuffix('s')}, the trained part marked:", quiet=True),
                Sample(folded[split].sample),
            ]
    return blocks
