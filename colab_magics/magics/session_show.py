"""`%session`: what is known of this session, and from where; a display bundle of HTML and text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

from colab_magics.errors import clean, redact
from colab_magics.panel import words
from colab_magics.panel.style import AS_TEXT
from colab_magics.session.flags import Facts, Flag, Usage
from colab_magics.session.folders import DRIVE, layout
from colab_magics.session.here import Session
from colab_magics.session.table import Platform, Table, accelerator_of
from colab_magics.session.times import said

# Of the text's own colour, as all our tables: no theme has to be known.
_STYLE = """
.cm-session{--cm-line:rgba(128,128,128,.32);--cm-dim:.68;font:13px/1.5 var(--jp-ui-font-family,system-ui,
-apple-system,"Segoe UI",Roboto,sans-serif);color:inherit;border:1px solid var(--cm-line);border-radius:8px;
padding:12px 16px;max-width:860px;box-sizing:border-box;font-variant-numeric:tabular-nums;overflow-x:auto}
.cm-session .cm-name{font-weight:600;font-size:15px}
.cm-session .cm-dim{opacity:var(--cm-dim);font-size:12px}
.cm-session .cm-bar{height:6px;border-radius:3px;background:var(--cm-line);margin:10px 0 2px;overflow:hidden}
.cm-session .cm-bar>span{display:block;height:100%;background:#2563eb}
.cm-session .cm-bar>.cm-near{background:#d97706}
.cm-session table{border:0;border-collapse:collapse;margin:8px 0 0;width:100%;font-size:13px;color:inherit}
.cm-session tr,.cm-session tr:nth-child(even),.cm-session tr:hover{background:none}
.cm-session th,.cm-session td{border:0;border-bottom:1px solid var(--cm-line);padding:4px 14px 4px 0;text-align:left;
vertical-align:baseline;white-space:normal;max-width:none;color:inherit}
.cm-session th{font-weight:400;font-size:12px;opacity:var(--cm-dim);white-space:nowrap;width:1%}
.cm-session .cm-flag{border-left:3px solid #dc2626;padding-left:8px;margin:8px 0 0}
.cm-session .cm-foot{margin:6px 0 0;font-size:12px;opacity:var(--cm-dim)}
""".strip().replace("\n", "")


@dataclass(frozen=True)
class Known:
    """All that `%session` shows.

    Attributes
    ----------
    start_is_set : bool
        Whether its age counts from what the user said.
    since_last : float, optional
        Seconds since the cell before this one ended.
    devices : tuple of str
        The GPUs' names, as their driver has them.
    drive : str
        `mounted`, `not mounted`, `waiting`: it has not answered yet, or `silent`: it does not answer.
    now : datetime
        The time of day, with its offset.
    """

    session: Session
    table: Table
    facts: Facts
    flags: tuple[Flag, ...]
    start_is_set: bool
    since_last: float | None
    devices: tuple[str, ...]
    drive: str
    cwd: Path
    now: datetime


Row = tuple[str, str, str]
"""A label, what is known, and from where or how sure."""


def bundle(known: Known) -> dict[str, str]:
    """The session in both forms."""
    return {"text/html": html(known), "text/plain": text(known)}


def rows(known: Known) -> list[Row]:
    """What is known, a row each; what is not known has none."""
    return [
        *_time(known),
        *_activity(known),
        *_week(known),
        *_machine(known),
        *_storage(known),
        *_money(known),
    ]


def _time(known: Known) -> Iterator[Row]:
    here = known.session
    if here.age is not None:
        since = known.now - timedelta(seconds=here.age)
        sure = "as you set it" if known.start_is_set else "when this machine was started"
        yield "running for", said(here.age), f"since {_moment(since, known.now)}, {sure}"
    if here.limit is None:
        yield "time limit", "none" if here.limit_from == "set" else "none is known", _as_set(here)
    elif here.limit_from == "passed":
        yield "time limit", f"{said(here.limit)}, and it is past", "that was an estimate; it may end at any time"
    elif here.left == 0 and here.age is not None and here.limit_from == "set":
        since = known.now - timedelta(seconds=here.age - here.limit)
        yield (
            "time limit",
            f"past since {_moment(since, known.now)}",
            f"{_as_set(here)}; a run stops after its first step",
        )
    else:
        yield "time limit", said(here.limit), _as_set(here) or _how_sure(here.platform, "limit")
    if here.left:
        end = known.now + timedelta(seconds=here.left)
        yield (
            "left",
            said(here.left),
            f"until about {_moment(end, known.now)}; a run saves 15 min and stops 5 min before",
        )


def _as_set(here: Session) -> str:
    return "as you set it" if here.limit_from == "set" else ""


def _activity(known: Known) -> Iterator[Row]:
    here = known.session.platform
    if here.idle is not None:
        own = ("session", "idle") in known.table.own or ("platforms", here.key, "idle") in known.table.own
        yield "idle limit", said(here.idle), "as you set it" if own else _how_sure(here, "idle")
    if here.activity:
        yield "activity is", here.activity, ""
    if known.since_last is not None:
        yield "last cell", words.age(known.since_last), "before this one, in this kernel"


def _week(known: Known) -> Iterator[Row]:
    here = known.session
    for what, limit in (("day", here.platform.daily), ("week", here.platform.weekly)):
        if limit is not None:
            used = f"this session has used {said(here.age)} of it" if here.age is not None and known.devices else ""
            sure = _how_sure(here.platform, "daily" if what == "day" else "weekly")
            yield f"GPU a {what}", said(limit), "; ".join(filter(None, (sure, used)))


def _machine(known: Known) -> Iterator[Row]:
    facts = known.facts
    for device in facts.memory:
        yield "GPU", device.name, f"{_gib(device)} used"
    if not facts.memory:
        yield "GPU", ", ".join(known.devices) or "none", "" if known.devices else "a run trains on the CPU"
    if facts.ram is not None:
        yield "RAM", f"{_gib(facts.ram)} used", _usual(known.session.platform.ram, facts.ram.total)
    if facts.disk is not None:
        yield "disk", f"{_gb(facts.disk)} used", f"of {facts.disk.name}"


def _storage(known: Known) -> Iterator[Row]:
    platform = known.session.platform
    paths = layout(platform, known.cwd)
    if platform.persistent is None:
        where = "this machine's disk" if platform.key == "plain" else "none"
        yield "what stays", where, "" if platform.key == "plain" else "name a replica: s3://…, gs://…, hf://…"
    elif Path(platform.persistent).is_relative_to(DRIVE):
        told = {
            "mounted": "",
            "waiting": "Drive is mounted, and has not answered yet",
            "silent": "Drive is mounted, and does not answer",
        }.get(known.drive, "not mounted: %session setup asks for it")
        yield "what stays", str(paths.root), told
    else:
        only = f"only if {platform.stays_if}" if platform.stays_if else ""
        ours = "" if paths.root == known.cwd else f"our folders in {paths.root}"
        yield "what stays", platform.persistent, "; ".join(filter(None, (only, ours)))
    if known.facts.storage is not None:
        yield "storage", f"{_gb(known.facts.storage)} used", f"of {known.facts.storage.name}"
    if known.facts.drive is not None:
        yield "Drive", f"{_gb(known.facts.drive)} used", "of the account, trash included"


def _money(known: Known) -> Iterator[Row]:
    platform = known.session.platform
    found = next(filter(None, (accelerator_of(name, known.table) for name in known.devices)), None)
    key = found.key if found is not None else "cpu"
    sure = _estimate(platform)
    if key in platform.units:
        rate = platform.units[key]
        price = f" (${rate * platform.unit_price:.2f})" if platform.unit_price is not None else ""
        yield "an hour costs", f"{rate:g} compute units{price}", f"{key}; {sure}"
    elif platform.dollars.get(key):
        yield "an hour costs", f"${platform.dollars[key]:.2f}", f"{key}; {sure}"


def thresholds(table: Table) -> str:
    """At what a red flag is raised, in a line."""
    said_as = {"ram": "RAM", "run": "a run over", "left": "less left than", "idle": "idle within", "drive": "Drive"}
    shown = [f"{said_as.get(key, key)} {_threshold(key, value)}" for key, value in table.thresholds.items()]
    return f"Red flags: {', '.join(shown)}. To change one: %session set drive_limit 12 GB"


def _threshold(key: str, value: float) -> str:
    if key in ("run", "left", "idle"):
        return said(value)
    return f"{value:.0%}" if value <= 1 else f"{value / 1e9:g} GB"


def text(known: Known) -> str:
    """The session as lines of text, without ANSI and control characters."""
    found = rows(known)
    width = max(len(label) for label, _, _ in found)
    lines = [f"{known.session.platform.title}  ({known.session.evidence})"]
    lines += [f"! {flag}" for flag in known.flags]
    lines += [f"{label.ljust(width)}  {value}{f'  ({note})' if note else ''}" for label, value, note in found]
    lines += ["", *_foot(known), thresholds(known.table), _sources(known, brief=True)]
    return "\n".join(_safe(line) for line in lines)


def html(known: Known) -> str:
    """The session as one self-contained piece; all text escaped."""
    body = "".join(_html_row(row) for row in rows(known))
    flagged = "".join(f'<div class="cm-flag" role="alert">{_cell(str(flag))}</div>' for flag in known.flags)
    foot = "".join(f'<div class="cm-foot">{_cell(line)}</div>' for line in _foot(known))
    more = "".join(f"<div>{_cell(line)}</div>" for line in (thresholds(known.table), _sources(known, brief=False)))
    summary = "<summary>When a red flag is raised, and where the facts are from</summary>"
    return (
        f'<div class="cm-session {AS_TEXT}"><style>{_STYLE}</style>'
        f'<span class="cm-name">{_cell(known.session.platform.title)}</span> '
        f'<span class="cm-dim">{_cell(known.session.evidence)}</span>'
        f"{_bar(known.session)}{flagged}<table><tbody>{body}</tbody></table>{foot}"
        f'<details class="cm-foot">{summary}{more}</details></div>'
    )


def _html_row(row: Row) -> str:
    label, value, note = (_cell(one) for one in row)
    dim = f' <span class="cm-dim">{note}</span>' if note else ""
    return f'<tr><th scope="row">{label}</th><td>{value}{dim}</td></tr>'


def _bar(here: Session) -> str:
    """How much of the session is over; a bar without a limit would say nothing."""
    if here.left is None or here.age is None or not here.limit:
        return ""
    over = min(1.0, here.age / here.limit)
    near = ' class="cm-near"' if over > 0.9 else ""
    label = f"{said(here.age)} of {said(here.limit)} are over"
    filled = f'<span{near} style="width:{over:.1%}"></span>'
    return f'<div class="cm-bar" role="img" aria-label="{escape(label)}">{filled}</div>'


def _foot(known: Known) -> list[str]:
    wrong = "Something is wrong? %session set platform NAME, set limit 10h, set idle 60 min, set start 2h"
    return [*known.session.platform.notes, wrong]


def _sources(known: Known, *, brief: bool) -> str:
    platform, among = known.session.platform, known.table.sources
    told = "; ".join(among[key] for key in platform.sources if key in among)
    return f"Facts as of {platform.as_of}" + (
        ": %session table says from where" if brief or not told else f", from {told}"
    )


def _how_sure(platform: Platform, key: str) -> str:
    return f"as of {platform.as_of}" if key in platform.certain else _estimate(platform)


def _estimate(platform: Platform) -> str:
    return f"estimate, as of {platform.as_of}"


def _usual(table: int | None, total: float) -> str:
    """What the platform's usual machine has, where this one is another."""
    if table is None or abs(table - total) < 0.15 * table:
        return ""
    return f"its usual machine has {table / 2**30:.1f} GiB"


def _moment(moment: datetime, now: datetime) -> str:
    """A time of day with its zone, for the reader's clock may be another; with its date where that is not today's."""
    return moment.strftime("%H:%M %Z" if moment.date() == now.date() else "%Y-%m-%d %H:%M %Z")


def _gib(usage: Usage) -> str:
    return f"{usage.used / 2**30:.1f} of {usage.total / 2**30:.1f} GiB"


def _gb(usage: Usage) -> str:
    return f"{usage.used / 1e9:.1f} of {usage.total / 1e9:.1f} GB"


def _safe(line: str) -> str:
    """Text that may hold what the user's own file says."""
    return redact(clean(line).replace("\n", " "))


def _cell(line: str) -> str:
    return escape(_safe(line))
