"""What is known of the platforms and their accelerators: one dated table, every value of which can be overridden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.session import lines
from colab_magics.session.lines import Keys, Kind, Lines

FILE = Path(__file__).with_name("platforms.toml")


@dataclass(frozen=True)
class Accelerator:
    """A device that a platform offers. Bytes; operations a second; `share` is the part of them that training gets.

    Attributes
    ----------
    memory : int
        What torch can have of it, which is less than its name says; 0 for a CPU, which has the platform's RAM.
    capability : tuple of int, optional
        CUDA compute capability; None for a CPU.
    flops : Mapping
        Peak operations a second by precision (`fp16`, `bf16`, `fp32`).
    share : Mapping
        By precision, the part of the peak that fine-tuning has been seen to reach.
    bandwidth : float, optional
        Bytes a second between it and its memory; None where that is not known, as of a CPU.
    names : tuple of str
        Words of which the driver's name for it holds all.
    supported : bool
        Whether the torch of today's Colab and Kaggle has kernels for it.
    """

    key: str
    title: str
    memory: int
    capability: tuple[int, int] | None
    flops: Mapping[str, float]
    share: Mapping[str, float]
    names: tuple[str, ...] = ()
    supported: bool = True
    sources: tuple[str, ...] = ()
    bandwidth: float | None = None


@dataclass(frozen=True)
class Platform:
    """A kind of session. Seconds, bytes, dollars; None where nothing is known or nothing applies.

    Attributes
    ----------
    limit, idle : float, optional
        The session's longest life, and how long it may be idle. Estimates, unless they are among `certain`.
    activity : str
        What counts as activity, in a sentence.
    daily, weekly : float, optional
        GPU seconds a day, and a week.
    accelerators : tuple of str
        Keys of the accelerators that it offers.
    count : Mapping
        How many of an accelerator a session has, where that is not one.
    dollars, units : Mapping
        By accelerator, what an hour costs: dollars (0: it is free), compute units.
    unit_price : float, optional
        Dollars a compute unit.
    monthly, monthly_units : float, optional
        Dollars a month that the plan costs, whatever is used, and the compute units that come with it.
    persistent : str, optional
        The folder that outlives the session.
    stays_if : str, optional
        On what that depends, as in "only if …"; None where it stays by itself.
    follows : str, optional
        The platform whose limit and weekly time, where the user has set them, count here too.
    certain : tuple of str
        The facts that the platform itself publishes, or the user has set; all others are estimates.
    sources : tuple of str
    as_of : str
        The date of the facts, ISO.
    """

    key: str
    title: str
    as_of: str
    limit: float | None = None
    idle: float | None = None
    activity: str = ""
    daily: float | None = None
    weekly: float | None = None
    disk: int | None = None
    ram: int | None = None
    accelerators: tuple[str, ...] = ()
    count: Mapping[str, int] = field(default_factory=dict)
    dollars: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)
    unit_price: float | None = None
    monthly: float | None = None
    monthly_units: float | None = None
    persistent: str | None = None
    stays_if: str | None = None
    follows: str | None = None
    certain: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Both tables, with the user's values in place of ours.

    Attributes
    ----------
    thresholds : Mapping
        When a red flag is raised; one that is absent never is. Seconds; amounts of memory and disk are a share of the
        whole up to 1, else bytes.
    session : Mapping
        What the user's file says of this session itself: platform, limit, idle, start, boot.
    own : frozenset
        The paths of all that is the user's: ("platforms", "kaggle", "limit").
    """

    platforms: Mapping[str, Platform]
    accelerators: Mapping[str, Accelerator]
    thresholds: Mapping[str, float]
    as_of: str
    sources: Mapping[str, str]
    session: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[Keys] = frozenset()


PLATFORM: dict[str, Kind] = {
    "title": lines.TEXT,
    "as_of": lines.DATE,
    "limit": lines.TIME,
    "idle": lines.TIME,
    "activity": lines.TEXT,
    "daily": lines.TIME,
    "weekly": lines.TIME,
    "disk": lines.SIZE,
    "ram": lines.SIZE,
    "accelerators": lines.TEXTS,
    "unit_price": lines.NUMBER,
    "monthly": lines.NUMBER,
    "monthly_units": lines.NUMBER,
    "persistent": lines.TEXT,
    "stays_if": lines.TEXT,
    "follows": lines.TEXT,
    "certain": lines.TEXTS,
    "sources": lines.TEXTS,
    "notes": lines.TEXTS,
}
# tables whose keys are accelerators
BY_ACCELERATOR: dict[str, Kind] = {"count": lines.COUNT, "dollars": lines.NUMBER, "units": lines.NUMBER}
ACCELERATOR: dict[str, Kind] = {
    "title": lines.TEXT,
    "memory": lines.SIZE,
    "capability": lines.CAPABILITY,
    "names": lines.TEXTS,
    "supported": lines.SWITCH,
    "bandwidth": lines.NUMBER,
    "sources": lines.TEXTS,
}
BY_PRECISION: dict[str, Kind] = {"flops": lines.NUMBER, "share": lines.SHARE}
PRECISIONS = ("bf16", "fp16", "fp32")
SESSION: dict[str, Kind] = {
    "platform": lines.TEXT,
    "limit": lines.TIME_OR_END,
    "idle": lines.TIME,
    "start": lines.START,
    "boot": lines.TEXT,
}
THRESHOLDS: dict[str, Kind] = {
    "memory": lines.AMOUNT,
    "ram": lines.AMOUNT,
    "disk": lines.AMOUNT,
    "drive": lines.AMOUNT,
    "run": lines.TIME,
    "left": lines.TIME,
    "idle": lines.TIME,
}


def load_table(user: Path | None = None) -> Table:
    """The table, with what the user's file says in place of ours.

    A file is read again only when it has changed.

    Raises
    ------
    ColabMagicsError
        The user's file is not as it must be; the error names the line.
    """
    if user is None:
        return _ours()
    try:
        found = user.stat()
    except OSError:
        return _ours()
    table = _with_users(user, found.st_mtime_ns, found.st_size, found.st_ino)
    if isinstance(table, ColabMagicsError):
        raise ColabMagicsError(table.what, table.why, *table.next_steps)
    return table


@lru_cache(maxsize=1)
def _ours() -> Table:
    file = Lines(FILE.name, FILE.read_text(encoding="utf-8"))
    return replace(merged(Table({}, {}, {}, "", {}), file), own=frozenset())


@lru_cache(maxsize=4)
def _with_users(user: Path, *_changed: int) -> Table | ColabMagicsError:
    """The table, or what is wrong with the file: a panel asks twice a second, and to find the line takes its time."""
    try:
        return merged(_ours(), Lines(str(user), user.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        return ColabMagicsError(
            f"{user} cannot be read.", f"{error}.", "Remove it, and every value is the table's own again."
        )
    except ColabMagicsError as error:
        return error


_SECTIONS = ("as_of", "sources", "thresholds", "accelerators", "platforms", "session")


def merged(base: Table, file: Lines) -> Table:
    """`base` with the file's values in place of its own.

    Raises
    ------
    ColabMagicsError
        A value, a key, a platform or an accelerator is not what it may be.
    """
    given = file.values
    for key in given:
        if key not in _SECTIONS:
            raise _unknown(file, (key,), "section", _SECTIONS)
    accelerators = dict(base.accelerators)
    for key, written in _tables(file, ("accelerators",)):
        before = accelerators.get(key)
        values = _fields(file, ("accelerators", key), written, ACCELERATOR, BY_PRECISION, PRECISIONS)
        if before is None and not {"title", "memory"} <= values.keys():
            raise _unknown(file, ("accelerators", key), "accelerator", accelerators, "title and memory")
        fresh = before or Accelerator(key, "", 0, None, {}, {})
        accelerators[key] = replace(fresh, **_laid_over(fresh, values))
    platforms = dict(base.platforms)
    for key, written in _tables(file, ("platforms",)):
        kept = platforms.get(key)
        values = _fields(file, ("platforms", key), written, PLATFORM, BY_ACCELERATOR, accelerators)
        if kept is None and "title" not in values:
            raise _unknown(file, ("platforms", key), "platform", platforms, "a title")
        for name in values.get("accelerators", ()):
            if name not in accelerators:
                raise _unknown(file, ("platforms", key, "accelerators"), "accelerator", accelerators, named=name)
        new = kept or Platform(key, "", "")
        set_here = tuple(values) if base.platforms else ()
        laid = replace(new, **_laid_over(new, values))
        platforms[key] = replace(laid, certain=(*laid.certain, *set_here))
    _follow(file, platforms)
    thresholds = {**base.thresholds, **_section(file, "thresholds", THRESHOLDS)}
    session = _section(file, "session", SESSION)
    sources = file.values.get("sources", {}).items()
    chosen = session.get("platform")
    if chosen is not None and chosen not in platforms:
        raise _unknown(file, ("session", "platform"), "platform", platforms, named=chosen)
    return replace(
        base,
        platforms=platforms,
        accelerators=accelerators,
        thresholds={key: value for key, value in thresholds.items() if value is not None},
        as_of=file.read(("as_of",), given["as_of"], lines.DATE) if "as_of" in given else base.as_of,
        sources={**base.sources, **{name: file.read(("sources", name), said, lines.TEXT) for name, said in sources}},
        session=session,
        own=frozenset(_paths(given)),
    )


def _follow(file: Lines, platforms: dict[str, Platform]) -> None:
    """Have what the file says of one platform count for those that follow it, unless it says another thing of them."""
    said = file.values.get("platforms", {})
    for key, platform in platforms.items():
        if platform.follows is None:
            continue
        leader = platforms.get(platform.follows)
        if leader is None:
            raise _unknown(file, ("platforms", key, "follows"), "platform", platforms, named=platform.follows)
        names = [one for one in ("limit", "weekly") if one in said.get(leader.key, {}) and one not in said.get(key, {})]
        values = {one: getattr(leader, one) for one in names}
        platforms[key] = replace(platform, **values, certain=(*platform.certain, *names))


def _tables(file: Lines, path: Keys) -> list[tuple[str, dict[str, Any]]]:
    """The tables below `path`."""
    found = file.values.get(path[0], {})
    if not isinstance(found, dict):
        raise file.wrong(path, f"{path[0]} is no table.", f"It stands in {file.name}.", f"Write [{path[0]}.NAME].")
    for key, table in found.items():
        if not isinstance(table, dict):
            where = ".".join((*path, key))
            raise file.wrong((*path, key), f"{where} is no table.", f"It stands in {file.name}.", f"Write [{where}].")
    return list(found.items())


def _section(file: Lines, name: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    found = file.values.get(name, {})
    if not isinstance(found, dict):
        raise file.wrong((name,), f"{name} is no table.", f"It stands in {file.name}.", f"Write [{name}].")
    return _fields(file, (name,), found, kinds, {}, ())


def _fields(
    file: Lines,
    path: Keys,
    written: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    inner: Mapping[str, Kind],
    inner_keys: Any,
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in written.items():
        at = (*path, key)
        if key in kinds:
            values[key] = file.read(at, value, kinds[key])
        elif key not in inner:
            raise _unknown(file, at, "key", (*kinds, *inner))
        elif not isinstance(value, dict):
            raise file.wrong(
                at, f"{key} = {value!r} is no table.", f"It stands in {file.name}.", f"Write {key} = {{ NAME = … }}."
            )
        else:
            for name in value:
                if name not in inner_keys:
                    raise _unknown(
                        file, (*at, name), "precision" if inner is BY_PRECISION else "accelerator", inner_keys
                    )
            values[key] = {name: file.read((*at, name), one, inner[key]) for name, one in value.items()}
    return values


def _laid_over(before: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values; those by accelerator or precision with what was there before beside them."""
    return {k: {**getattr(before, k), **v} if isinstance(v, dict) else v for k, v in values.items()}


def _paths(values: Mapping[str, Any], above: Keys = ()) -> list[Keys]:
    found: list[Keys] = []
    for key, value in values.items():
        found += _paths(value, (*above, key)) if isinstance(value, dict) else [(*above, key)]
    return found


def _unknown(
    file: Lines, path: Keys, what: str, among: Any, new_needs: str = "", named: str | None = None
) -> ColabMagicsError:
    word = named or path[-1]
    close = nearest(word, among)
    return file.wrong(
        path,
        f"there is no {what} {word}.",
        f"It stands in {file.name}.",
        f"Did you mean {close}?" if close else f"It can be {', '.join(among)}.",
        f"A new {what} needs {new_needs}." if new_needs and not close else "",
    )


_WORD = re.compile(r"[a-z0-9]+")
# a slice of a card, or the smaller one of a laptop, is called like the whole
_OTHERS = {"mig", "laptop", "max"}


def accelerator_of(name: str, table: Table) -> Accelerator | None:
    """The accelerator that a driver calls `name`: "Tesla T4" is T4; None for one that the table does not have."""
    words = set(_WORD.findall(name.lower()))
    if words & _OTHERS:
        return None
    best, most = None, 0
    for accelerator in table.accelerators.values():
        for pattern in accelerator.names:
            wanted = set(_WORD.findall(pattern.lower()))
            if wanted <= words and len(wanted) > most:
                best, most = accelerator, len(wanted)
    return best
