"""`%session plan`: this job on each platform: whether it fits, how long it takes, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import session_words as words_of
from colab_magics.magics.grid import Grid, Page
from colab_magics.magics.session_plan_line import USAGE, read_words
from colab_magics.session.duration import Duration
from colab_magics.session.offers import Job, Offer, job_of, offers
from colab_magics.session.scenarios import Outcome, outcome, scenarios
from colab_magics.session.table import Table

if TYPE_CHECKING:
    from colab_magics.run import Run

HELP = """\
%session plan [RUN]        this job on each platform: whether it fits, hours, sessions, money; of a run that is
                           unfinished, what is left of it. Without RUN: the living run, else the newest
%%session plan             the same for the recipe below it
%session plan --hours 6-8  what so many hours of a GPU cost

  --hours 3                count this, in place of what the job is estimated to take
  --platform kaggle,colab  only these; a beginning stands for all that begin so
  --gpu t4,a100            only these devices
  --markdown               as Markdown, to be copied
  --root DIR               where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)\
"""
HEAD = ("platform", "device", "fits", "trained as", "time", "sessions", "GPU quota", "costs")
_WHOLE = ("time", "GPU quota")


@dataclass(frozen=True)
class _Asked:
    """What is planned: its name, the job, and what is known of it already."""

    title: str
    job: Job | None = None
    lines: tuple[str, ...] = ()


def plan(
    words: Sequence[str],
    root: Path,
    *,
    body: str | None = None,
    namespace: MutableMapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """What `%session plan WORDS` shows, as a display bundle; without `text/html` where Markdown was asked for.

    Parameters
    ----------
    words : what follows `plan` on the line, split as in a shell
    root : where runs are kept
    body : the recipe of `%%session plan`
    namespace : the notebook's variables, which the recipe may name
    say : told the notes on the recipe, a line each

    Raises
    ------
    ColabMagicsError
        An unknown option, platform or device (the nearest is named); a run that there is not; whatever is wrong with
        the recipe, its model or its data.
    """
    from colab_magics.memory.estimate import peak
    from colab_magics.session.here import this_session
    from colab_magics.session.settings import user_file
    from colab_magics.session.table import load_table

    if set(words) & {"-h", "-?", "--help"}:
        return {"text/plain": HELP}
    table = load_table(user_file())
    line = read_words(words, table)
    root = root_of(line.root, root)
    if line.run is not None and body is not None and body.strip():
        raise ColabMagicsError(
            f"{line.run} is a run, and the cell has a recipe.", "One job is planned at a time.", f"Write {USAGE}."
        )
    if line.run is None and body is not None and body.strip():
        asked = _of_recipe(body, root, namespace if namespace is not None else {}, say)
    elif line.run is None and line.hours is not None:
        asked = _Asked(f"{words_of.hours(line.hours)} of GPU on each platform")
    else:
        asked = _of_run(line.run, root)
    found = offers(
        table, asked.job, peak, hours=line.hours, platforms=line.platforms, accelerators=line.accelerators
    )  # fmt: skip
    page = page_of(
        asked.title,
        asked.lines,
        found,
        table,
        narrowed=bool(line.platforms or line.accelerators),
        here=this_session().platform.key,
        given=line.hours,
    )
    return {"text/plain": page.markdown()} if line.markdown else page.bundle()


def root_of(given: str | None, root: Path) -> Path:
    """Where runs are kept, if the line says so."""
    if given is None:
        return root
    from colab_magics.magics.durable import rooms
    from colab_magics.run import runs_root

    return rooms(runs_root(given)).root


def _of_run(name: str | None, root: Path) -> _Asked:
    """A run there is: all of it, or what is left of it."""
    from colab_magics.run import find_run

    run = find_run(name, root)
    events = run.events()
    job = _job(run.recipe, events, steps_kept(run, events))
    if job is None:
        raise ColabMagicsError(
            f"{run.name} has no plan from which another could be made.",
            "It ended before its plan, or it is of an older version.",
            "Write %%session plan with the recipe below it.",
        )
    whole = f"{run.name}: {job.recipe.model}, {job.total_steps:,} steps"
    if job.left < 1:
        whole += f", of which {round(job.left * job.total_steps):,} are left"
    return _Asked(whole, job, _here(events, job))


def steps_kept(run: Run, events: Sequence[Mapping[str, Any]]) -> int:
    """The steps that need not be taken again: of a run that is unfinished those in its newest checkpoint."""
    from colab_magics.magics.again import newest_entry

    if run.state == "running":
        return next((int(event["step"]) for event in reversed(events) if event["kind"] == "step"), 0)
    newest = newest_entry(run) if run.state == "unfinished" else None
    return newest.step if newest is not None else 0


def _of_recipe(
    body: str, root: Path, namespace: MutableMapping[str, Any], say: Callable[[str], None]
) -> _Asked:  # fmt: skip
    """A recipe, through the same preflight as a run's."""
    from colab_magics.magics.cell import Cell
    from colab_magics.magics.display import Nowhere
    from colab_magics.magics.options import Options
    from colab_magics.magics.reports import look

    cell = Cell(Options(command="recipe"), body, namespace, root, Nowhere(), said=say)
    recipe, events = look(cell, "plan")
    job = _job(recipe, events, 0)
    assert job is not None, "a preflight that passed has a plan"
    return _Asked(f"{recipe.model}, {job.total_steps:,} steps", job, _here(events, job))


def _job(recipe: Any, events: Sequence[Mapping[str, Any]], done: int) -> Job | None:
    told = [event for event in events if event["kind"] == "plan"]
    return job_of(recipe, told[-1], done=done) if told else None


def _here(events: Sequence[Mapping[str, Any]], job: Job) -> tuple[str, ...]:
    """What the plan said of the machine on which it was made."""
    event = [event for event in events if event["kind"] == "plan"][-1]
    lines = [f"{job.documents:,} {job.recipe.samples}, {job.tokens:,} tokens an epoch"]
    try:
        made = Duration.from_dict(event["duration"])
    except (KeyError, TypeError, ValueError):
        return tuple(lines)
    timed = "timed there" if event["duration"].get("timed") else "estimated"
    lines.append(f"Planned on {event.get('device', '?')}: {words_of.band(made)} for the whole run, {timed}")
    return tuple(lines)


def page_of(
    title: str,
    lines: Sequence[str],
    found: Sequence[Offer],
    table: Table,
    *,
    narrowed: bool = False,
    here: str = "",
    given: Duration | None = None,
) -> Page:
    """The offers, with the platform marked on which this is; and the scenarios where nothing was left out.

    Parameters
    ----------
    narrowed : only some platforms or devices were asked for
    here : the platform on which this is: it comes first, then what costs nothing
    given : the hours, where the user said them
    """
    shown = [offer for offer in found if narrowed or offer.dollars is not None or offer.hours is None]
    bare = given is not None and all(offer.need is None for offer in found)  # there is no job that might not fit
    useless = [offer for offer in shown if bare and not offer.possible]
    shown = [offer for offer in shown if offer not in useless]
    first = sorted(shown, key=lambda offer: (not offer.possible, offer.platform.key != here, offer.outlay != 0))
    grids = [_offer_grid(first, here, given)]
    as_of, ways = scenarios()
    foot = []
    if not found:
        foot.append("No platform of those has such a device.")
    for why in dict.fromkeys(offer.why for offer in useless):
        them = _devices_by_platform(offer for offer in useless if offer.why == why)
        foot.append(f"Left out, as {why}: {'; '.join(them)}.")
    if unpriced := [offer for offer in found if offer not in shown and offer not in useless]:
        foot.append(f"The table has no price for {'; '.join(_devices_by_platform(unpriced))}.")
    if set_up := max((offer.set_up for offer in found), default=0.0):
        foot.append(f"Costs and quotas count {words_of.spoken(set_up)} of set-up for each session.")
    if not narrowed:
        grids.append(_scenario_grid([outcome(way, found) for way in ways], given))
        foot.append(
            "A scenario's first place is the fastest that costs nothing beyond its plan; the most is what it comes to "
            f"if all takes as long as it may, and the second does the whole job again. The scenarios are of {as_of}."
        )
    return Page(title, lines, grids, [*foot, _as_of(found, table, estimated=given is None)])


def _offer_grid(found: Sequence[Offer], here: str, given: Duration | None) -> Grid:
    """A row an offer; what a platform cannot do for one reason is one row."""
    rows: list[tuple[str, ...]] = []
    off: dict[tuple[str, str], int] = {}
    for offer in found:
        row = _row(offer, here, given)
        key = (offer.platform.key, offer.why)
        if offer.possible or offer.need is not None:
            if not offer.possible:
                off[(offer.platform.key, offer.accelerator.key)] = len(rows)
            rows.append(row)
        elif key in off:
            before = rows[off[key]]
            rows[off[key]] = (before[0], f"{before[1]}; {row[1]}", *before[2:])
        else:
            off[key] = len(rows)
            rows.append(row)
    return Grid(HEAD, tuple(rows), off=set(off.values()), whole=_WHOLE)


def _devices_by_platform(found: Iterable[Offer]) -> list[str]:
    by_platform: dict[str, list[str]] = {}
    for offer in found:
        by_platform.setdefault(offer.platform.title, []).append(offer.accelerator.title)
    return [f"{platform} ({', '.join(devices)})" for platform, devices in by_platform.items()]


def _row(offer: Offer, here: str, given: Duration | None) -> tuple[str, ...]:
    number = offer.platform.count.get(offer.accelerator.key, 1)
    device = offer.accelerator.title + (f", one of {number}" if number > 1 else "")
    made = offer.hours
    return (
        f"{offer.platform.title} (here)" if offer.platform.key == here else offer.platform.title,
        device,
        _fit(offer),
        _trained_as(offer),
        _time(made, given) if made is not None else "not known" if offer.possible else "",
        words_of.sessions(offer),
        "" if offer.quota is None else words_of.share(*offer.quota),
        words_of.money(offer),
    )


def _time(made: Duration, given: Duration | None) -> str:
    return words_of.band(made) if given is None else words_of.hours(given)


def _fit(offer: Offer) -> str:
    figures = ""
    if offer.need is not None and offer.room is not None:
        figures = f"{offer.need / 2**30:.1f} of {words_of.gib(offer.room)}"
    if offer.fits == "unknown":
        return offer.why
    return ": ".join(filter(None, [offer.fits, "; ".join(filter(None, [offer.why, figures, offer.caution]))]))


def _trained_as(offer: Offer) -> str:
    if offer.plan is None or not offer.possible:
        return ""
    chosen = f"{offer.plan['method']}, {offer.plan['precision']}"
    return f"{chosen}, checkpointing" if offer.plan["gradient_checkpointing"] else chosen


def _scenario_grid(outcomes: Sequence[Outcome], given: Duration | None) -> Grid:
    head = ("scenario", "first", "time", "sessions", "such jobs a month", "then", "a month", "at most", "meant")
    return Grid(
        head,
        tuple(_scenario_row(made, given) for made in outcomes),
        "What it comes to, by how a project is paid for",
        whole=_WHOLE,
    )


def _scenario_row(made: Outcome, given: Duration | None) -> tuple[str, ...]:
    way, first, second = made.scenario, made.first, made.second
    most = "" if made.most is None else words_of.dollars(made.most)
    if made.within is False:
        most += ", too much"
    return (
        way.title,
        _place(first) or "nothing there holds it",
        _time(first.hours, given) if first is not None and first.hours is not None else "",
        words_of.sessions(first) if first is not None else "",
        "" if made.times is None else words_of.count(made.times) if made.times >= 1 else "less than one",
        _place(second),
        "" if made.usual is None else words_of.dollars(made.usual),
        most,
        words_of.dollars(way.dollars),
    )


def _place(offer: Offer | None) -> str:
    return f"{offer.platform.title}, {offer.accelerator.title}" if offer is not None else ""


def _as_of(found: Sequence[Offer], table: Table, *, estimated: bool) -> str:
    dates = sorted({offer.platform.as_of for offer in found if offer.platform.as_of})
    when = table.as_of if not dates else dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    times = "; times are within a factor of two" if estimated else ""
    return (
        f"All of this is an estimate, from prices, limits and rates as of {when}{times}. "
        "%session set KEY VALUE corrects the table."
    )
