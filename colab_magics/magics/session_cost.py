"""`%session cost`: what a run has used so far, against what was expected of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import session_words as words_of
from colab_magics.magics.grid import Grid, Page
from colab_magics.magics.session_plan import root_of, steps_kept
from colab_magics.session.budget import evaluations_left, seconds_of_evaluation
from colab_magics.session.duration import Duration
from colab_magics.session.forecast import Forecast, forecast
from colab_magics.session.offers import quota, rate
from colab_magics.session.table import Table, accelerator_of

USAGE = "%session cost [RUN] [--root DIR]"
HEAD = ("attempt", "platform", "device", "began", "time", "steps", "GPU quota", "units", "costs")
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Spent:
    """What one attempt has used.

    Attributes
    ----------
    platform, device : str
        As a person calls them; the key of the device in the table is `accelerator`.
    seconds : float
        From its first event to its last; to now, where it is at work.
    first, last : int, optional
        The steps that it took.
    quota : tuple, optional
        How many weeks' or days' worth of GPU time that is, as (0.1, "week").
    units, dollars : float, optional
        None where the table has no rate for that device there.
    """

    attempt: int
    platform: str
    accelerator: str
    device: str
    began: str
    seconds: float
    first: int | None
    last: int | None
    quota: tuple[float, str] | None
    units: float | None
    dollars: float | None
    as_of: str


def cost(words: Sequence[str], root: Path) -> dict[str, str]:
    """What `%session cost WORDS` shows, as a display bundle.

    Parameters
    ----------
    words : what follows `cost` on the line: a run's name, or nothing
    root : where runs are kept

    Raises
    ------
    ColabMagicsError
        More than a name, or a run that there is not.
    """
    from colab_magics.run import find_run
    from colab_magics.session.settings import user_file
    from colab_magics.session.table import load_table

    if set(words) & {"-h", "-?", "--help"}:
        return {"text/plain": f"{USAGE}: what a run has used so far, against the estimate, and what is to come"}
    name, given = _read(words)
    run = find_run(name, root_of(given, root))
    table = load_table(user_file())
    state = run.state
    events = run.events()
    return page_of(run.name, events, table, state=state, now=time.time(), kept=steps_kept(run, events)).bundle()


def _read(words: Sequence[str]) -> tuple[str | None, str | None]:
    """(the run, the root), as far as the line names them."""
    name, root, rest = None, None, list(words)
    while rest:
        word = rest.pop(0)
        if word == "--root" and rest:
            root = rest.pop(0)
        elif word.startswith("--root="):
            root = word.partition("=")[2]
        elif word.startswith("-") or name is not None:
            raise ColabMagicsError(
                f"%session cost takes no {word}." if word.startswith("-") else "%session cost takes one run.",
                "It shows what that run has used.",
                f"Write {USAGE}.",
            )
        else:
            name = word
    return name, root


def page_of(name: str, events: Sequence[Event], table: Table, *, state: str, now: float, kept: int = 0) -> Page:
    """The page of a run's events.

    Parameters
    ----------
    state : `running`, `finished`, `failed` or `unfinished`
    now : seconds since the epoch; counted up to where the run is at work
    kept : the steps that need not be taken again
    """
    attempts = spent(events, table, now=now if state == "running" else None)
    if not attempts:
        return Page(name, ["It has not started, and has used nothing."])
    rows = [_row(one) for one in attempts]
    if len(attempts) > 1:
        rows.append(_total(attempts))
    lines = [_expected(events), *_to_come(events, attempts[-1], state, kept)]
    dates = sorted({one.as_of for one in attempts if one.as_of})
    foot = ["Counted from each worker's start to its end. The platform counts the whole session."]
    if dates:
        foot.append(f"Rates as of {dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}: estimates.")
    return Page(f"{name}: what it has used", list(filter(None, lines)), [Grid(HEAD, tuple(rows))], foot)


def spent(events: Sequence[Event], table: Table, *, now: float | None = None) -> list[Spent]:
    """What each attempt has used; the last one up to `now`, if that is given."""
    by_attempt: dict[int, list[Event]] = {}
    for event in events:
        by_attempt.setdefault(int(event.get("attempt", 1)), []).append(event)
    newest = max(by_attempt, default=0)
    return [
        _spent(number, told, table, now if number == newest else None) for number, told in sorted(by_attempt.items())
    ]


def _spent(number: int, told: Sequence[Event], table: Table, now: float | None) -> Spent:
    clocks = [clock for event in told if (clock := _clock(event)) is not None]
    end = max([*clocks, *([now] if now is not None else [])], default=0.0)
    seconds = end - min(clocks, default=end)
    key = next((str(event["platform"]) for event in told if event["kind"] == "started" and event.get("platform")), "")
    platform = table.platforms.get(key)
    shown = next((str(event.get("device", "")) for event in reversed(told) if event["kind"] == "plan"), "")
    accelerator = accelerator_of(shown.partition(",")[0], table)
    units, dollars = (
        rate(platform, accelerator.key) if platform is not None and accelerator is not None else (None,) * 2
    )
    steps = [int(event["step"]) for event in told if event["kind"] == "step"]
    return Spent(
        attempt=number,
        platform=platform.title if platform is not None else key or "not told",
        accelerator=accelerator.key if accelerator is not None else "",
        device=shown.partition(",")[0],
        began=str(told[0].get("time", ""))[:16].replace("T", " "),
        seconds=seconds,
        first=steps[0] if steps else None,
        last=steps[-1] if steps else None,
        quota=quota(platform, accelerator, seconds) if platform is not None and accelerator is not None else None,
        units=None if units is None else units * seconds / 3600,
        dollars=None if dollars is None else dollars * seconds / 3600,
        as_of=platform.as_of if platform is not None and dollars is not None else "",
    )


def _clock(event: Event) -> float | None:
    try:
        return datetime.fromisoformat(str(event["time"])).timestamp()
    except (KeyError, ValueError):
        return None


def _row(one: Spent) -> tuple[str, ...]:
    steps = "none" if one.first is None else f"{one.first:,} to {one.last:,}"
    return (
        str(one.attempt),
        one.platform,
        one.device,
        one.began,
        words_of.spoken(one.seconds),
        steps,
        "" if one.quota is None else words_of.share(*one.quota),
        "" if one.units is None else words_of.count(one.units),
        "not known" if one.dollars is None else words_of.dollars(one.dollars),
    )


def _total(attempts: Sequence[Spent]) -> tuple[str, ...]:
    units = [one.units for one in attempts if one.units is not None]
    dollars = [one.dollars for one in attempts if one.dollars is not None]
    costs = "" if not dollars else words_of.dollars(sum(dollars))
    if dollars and len(dollars) < len(attempts):
        costs += ", and what is not known"
    return (
        "all",
        "",
        "",
        "",
        words_of.spoken(sum(one.seconds for one in attempts)),
        "",
        "",
        words_of.count(sum(units)) if units else "",
        costs,
    )


def _expected(events: Sequence[Event]) -> str:
    """The first attempt's estimate, and what the steps so far say of it."""
    plans = [event for event in events if event["kind"] == "plan"]
    if not plans:
        return ""
    mine = [event for event in events if event.get("attempt") == plans[0].get("attempt")]
    plan = [event for event in mine if event["kind"] == "plan"][-1]  # the second knows what was timed before step 1
    try:
        made = Duration.from_dict(plan["duration"])
        total = int(plan["choices"]["total_steps"]["value"])
    except (KeyError, TypeError, ValueError):
        return "How long it would take was not estimated."
    line = f"Expected at its start on {plan.get('device', '?')}: {words_of.band(made)} of training"
    # what a later attempt took, perhaps on another device, is no answer to what was expected of this one
    steps = [event for event in mine if event["kind"] == "step"]
    if not steps or not total:
        return f"{line}."
    taken = sum(float(event.get("seconds") or 0.0) for event in mine if event["kind"] in ("step", "eval"))
    done = int(steps[-1]["step"]) - int(steps[0]["step"]) + 1
    whole = taken * total / done
    missed = "" if made.low <= whole <= made.high else ", outside of what was expected"
    if done >= total:
        return f"{line}; it took {words_of.spoken(taken)}{missed}."
    return f"{line}; at the speed of its {done:,} steps it is {words_of.spoken(whole)}{missed}."


def _to_come(events: Sequence[Event], last: Spent, state: str, kept: int) -> list[str]:
    """What is still to be spent where the newest attempt was, or is."""
    if state not in ("running", "unfinished"):
        return []
    made = rest(events, last.attempt, kept)
    if made is None:
        return ["What is to come is known after two steps."]
    again = last.last - kept if state == "unfinished" and last.last is not None else 0
    line = f"To come: {words_of.spoken(made.p50)}, with nine chances in ten under {words_of.spoken(made.p90)}"
    if last.dollars is not None and last.seconds > 0:
        further = last.dollars / last.seconds * made.p50
        units = f"{words_of.count(last.units / last.seconds * made.p50)} units, " if last.units else ""
        line += f" ({units}{words_of.dollars(further)} there)"
    lost = f", {again:,} steps that no checkpoint holds among it" if again > 0 else ""
    return [f"{line}{lost}."]


def rest(events: Sequence[Event], attempt: int, kept: int) -> Forecast | None:
    """When the run ends that goes on after step `kept`, from the steps, evaluations and saves of one attempt.

    None below two steps.
    """
    mine = [event for event in events if event.get("attempt") == attempt]
    steps = [event for event in mine if event["kind"] == "step" and event.get("seconds")]
    if not steps:
        return None
    seconds = [float(event["seconds"]) for event in steps]
    total = int(steps[-1].get("total_steps") or steps[-1]["step"])
    left = max(0, total - kept)
    # saves come as often as they came
    stalls = sum(float(event.get("stall") or 0.0) for event in mine if event["kind"] == "checkpoint")
    return forecast(seconds, left, other=stalls / len(steps) * left + _evaluating(mine, steps[-1], kept, total))


def _evaluating(mine: Sequence[Event], newest: Event, step: int, total: int) -> float:
    """Seconds of the evaluations that are still to come."""
    plan: Event = next((event for event in reversed(mine) if event["kind"] == "plan"), {})
    evals = [event for event in mine if event["kind"] == "eval"]
    tokens = plan.get("eval_tokens")
    if not evals and not tokens:
        return 0.0
    every = (plan.get("choices") or {}).get("eval_every", {}).get("value")
    took = [float(event["seconds"]) for event in evals if event.get("seconds")]
    scored = max((int(event["step"]) for event in evals if int(event["step"]) <= step), default=0)
    left = evaluations_left(total, every, step, scored)
    return left * seconds_of_evaluation(took, tokens, newest.get("tokens_per_second"))
