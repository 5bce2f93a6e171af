"""What the user says of his sessions: a file of the table's shape, of which `%session set` writes one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.session import lines, table, times
from colab_magics.session.clock import BootClock, Clock, on_boot_clock
from colab_magics.session.editing import with_value, without
from colab_magics.session.lines import Keys, Kind, Lines
from colab_magics.session.table import Table, load_table, merged
from colab_magics.session.times import dated

VARIABLE = "COLAB_MAGICS_SESSION"
# These are of one machine's life, and are forgotten with it.
OF_THIS_BOOT = ("limit", "start")
# How a limit is called that is told from now on; the file holds it as the date of the end.
LEFT = "left"
_TIMES = (lines.TIME, lines.TIME_OR_END, lines.START)
# A number alone counts seconds; nobody who writes `limit 10` means ten of them.
_FEW = re.compile(r"[0-5]?[0-9](\.[0-9]+)?")


def user_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's file, which need not be there."""
    named = environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path("~/.config/colab_magics/session.toml").expanduser()


@dataclass(frozen=True)
class Change:
    """What was written.

    Attributes
    ----------
    key : str
        The whole key: `session.limit`, `platforms.kaggle.limit`.
    value : str, optional
        As it stands in the file; None where it was taken out.
    for_this_boot : bool
        Whether it is forgotten with this machine.
    """

    path: Path
    key: str
    value: str | None
    for_this_boot: bool = False


def set_value(key: str, text: str, *, environ: Mapping[str, str] = os.environ, clock: Clock | None = None) -> Change:
    """Have `key` be `text` from now on; all else in the user's file stays as it is written, comments too.

    Parameters
    ----------
    key : str
        `limit`, `left`, `idle`, `start`, `platform` for this session; `kaggle.limit`, `colab-pro.units.T4`,
        `T4.memory`, `thresholds.drive` for the table. Upper and lower case are alike.

    Raises
    ------
    ColabMagicsError
        There is no such key (the nearest is named), the text is no value for it, it would end this session at once,
        or the file is broken already.
    """
    clock = clock or BootClock()
    path = user_file(environ)
    current = load_table(path)
    keys, kind = resolve(key, current)
    of_boot = keys[0] == "session" and keys[1] in OF_THIS_BOOT
    held = of_this_life(current, clock)
    if kind in _TIMES and _FEW.fullmatch(text.strip()):
        few = text.strip()
        raise ColabMagicsError(
            f"{key} {few} would be {few} seconds.", "Nothing was changed.", f"Write {few}h or {few}min."
        )
    value = _told_by_this_clock(key, keys[1], text, held, clock) if of_boot else _written(text, kind)
    if keys == ("session", "platform"):
        value = _as_spelt(value, current.platforms)
    try:
        read = kind.read(value)
    except (ValueError, OverflowError):
        shape = dated(text, clock.wall(), past=kind is lines.START) if kind in _TIMES[1:] else ""
        raise ColabMagicsError(
            f"{key} {text} is no {kind.noun}.", "Nothing was changed.", shape or kind.shape
        ) from None
    if keys == ("session", "platform") and read not in current.platforms:
        raise _no_such("platform", read, current.platforms)
    changes: list[tuple[Keys, Any]] = [(keys, value)]
    before = _text(path)
    if of_boot:
        before = without(before, [("session", one) for one in OF_THIS_BOOT if one not in held])
        changes.append((("session", "boot"), clock.boot()))
    after = before
    for at, one in changes:
        after = with_value(after, at, one, str(path))
    merged(load_table(), Lines(str(path), after))
    _write(path, after)
    return Change(path, ".".join(keys), json.dumps(value, ensure_ascii=False), of_boot)


def unset(key: str, *, environ: Mapping[str, str] = os.environ) -> Change:
    """Have `key` be the table's own again.

    Raises
    ------
    ColabMagicsError
        It is not set; what is set is named.
    """
    path = user_file(environ)
    current = load_table(path)
    keys, _ = resolve(key, current)
    if keys not in current.own:
        given = sorted(".".join(one) for one in current.own if one != ("session", "boot"))
        raise ColabMagicsError(
            f"{key} is not set.",
            "It is the table's own, or this machine's.",
            f"Set are: {', '.join(given)}." if given else "Nothing is set.",
        )
    gone = [keys]
    others = [("session", one) for one in OF_THIS_BOOT if ("session", one) != keys]
    if keys[0] == "session" and keys[1] in OF_THIS_BOOT and not any(one in current.own for one in others):
        gone.append(("session", "boot"))
    _write(path, without(_text(path), gone))
    return Change(path, ".".join(keys), None)


def of_this_life(current: Table, clock: Clock) -> dict[str, Any]:
    """What the file says of this session, less what was said in another boot.

    What `set` wrote has its boot beside it. What a person wrote himself has none: of that a date before this boot is
    of another, and all else counts.
    """
    boot = current.session.get("boot")
    if boot is not None:
        gone: tuple[str, ...] = () if boot == clock.boot() else OF_THIS_BOOT
    else:
        dates = {key: one for key in OF_THIS_BOOT if isinstance(one := current.session.get(key), datetime)}
        gone = tuple(key for key, one in dates.items() if on_boot_clock(one, clock) <= clock.started())
    return {key: value for key, value in current.session.items() if key not in gone}


def began(held: Mapping[str, Any], clock: Clock) -> float:
    """When this session was started, on the boot clock: as the user says (`of_this_life`), else with the machine."""
    return on_boot_clock(held["start"], clock) if "start" in held else clock.started()


def keys_of(current: Table) -> Iterator[str]:
    """Every key that can be set, as a person writes it."""
    yield from (key for key in table.SESSION if key != "boot")
    yield LEFT
    yield from (f"thresholds.{key}" for key in table.THRESHOLDS)
    for name, platform in current.platforms.items():
        yield from (f"{name}.{key}" for key, kind in table.PLATFORM.items() if kind is not lines.TEXTS)
        for key in table.BY_ACCELERATOR:
            yield from (f"{name}.{key}.{accelerator}" for accelerator in platform.accelerators)


def resolve(key: str, current: Table) -> tuple[Keys, Kind]:
    """Where `key` stands in the file, and what it may be.

    Raises
    ------
    ColabMagicsError
        There is no such key; the nearest is named.
    """
    words = tuple(_as_spelt(word, _all_words(current)) for word in key.strip().split("."))
    if words[0] in ("session", "platforms", "accelerators") and len(words) > 1:
        words = words[1:]
    if len(words) == 1:
        name = "limit" if words[0] == LEFT else words[0]
        if name in table.SESSION and name != "boot":
            return ("session", name), table.SESSION[name]
        raise _no_such("key", key, keys_of(current), "It is like limit, kaggle.limit, or thresholds.drive.")
    section: Keys
    kinds: Mapping[str, Kind]
    inner: Mapping[str, Kind] = {}
    below: Keys = ()
    if words[0] == "thresholds":
        section, kinds = (), table.THRESHOLDS
    elif words[0] in current.platforms:
        section, kinds = ("platforms",), table.PLATFORM
        inner, below = table.BY_ACCELERATOR, tuple(current.accelerators)
    elif words[0] in current.accelerators:
        section, kinds = ("accelerators",), table.ACCELERATOR
        inner, below = table.BY_PRECISION, table.PRECISIONS
    else:
        raise _no_such("platform", words[0], (*current.platforms, *current.accelerators, "thresholds"))
    name = words[1]
    if len(words) == 2 and name in kinds:
        return (*section, *words), kinds[name]
    if name not in inner:
        raise _no_such("key", key, (f"{words[0]}.{one}" for one in (*kinds, *inner)))
    if len(words) == 3 and words[2] in below:
        return (*section, *words), inner[name]
    if len(words) > 2:
        raise _no_such("accelerator" if inner is table.BY_ACCELERATOR else "precision", words[2], below)
    raise ColabMagicsError(f"{key} holds more than one value.", "There is one for each.", f"Write {key}.{below[0]}.")


def _all_words(current: Table) -> Iterator[str]:
    """All words of which keys are made."""
    yield from ("session", "platforms", "accelerators", "thresholds", LEFT, *table.PRECISIONS)
    yield from (*current.platforms, *current.accelerators)
    for kinds in (table.SESSION, table.THRESHOLDS, table.PLATFORM, table.BY_ACCELERATOR, table.ACCELERATOR):
        yield from kinds
    yield from table.BY_PRECISION


def _as_spelt(word: str, among: Iterable[str]) -> str:
    """The one of `among` that is `word` but for upper and lower case, else `word`."""
    folded = word.strip().lower()
    return next((one for one in among if one.lower() == folded), word)


def _told_by_this_clock(asked: str, key: str, text: str, held: Mapping[str, Any], clock: Clock) -> str:
    """A limit or a start as the file holds it: what is true only now, and a date without an offset, are made dates."""
    text = text.strip()
    moment = times.moment_of(text)
    if key == "limit":
        lasts = times.seconds_of(text)
        if lasts is not None and asked.lower().endswith(LEFT):
            moment = clock.wall() + timedelta(seconds=lasts)
        elif lasts is not None and lasts <= (age := clock.now() - began(held, clock)):
            raise ColabMagicsError(
                f"{text} in all is past.",
                f"A limit counts from the session's start, and this one is {times.said(age)} old.",
                f"Until {text} from now: %session set left {text.replace(' ', '')}.",
            )
        if moment is None:
            return text
        if moment <= clock.wall():
            raise _by_another_clock(
                f"limit {text} is past.", clock, "Or how long it lives from now on: %session set left 2h."
            )
        return moment.isoformat(timespec="seconds")
    ago = times.seconds_of(text)
    if ago is not None:
        moment = clock.wall() - timedelta(seconds=ago)
    if moment is not None and moment > clock.wall():
        raise _by_another_clock(f"start {text} is to come.", clock, "Or how long ago it was: 2h.")
    return text if moment is None else moment.isoformat(timespec="seconds")


def _by_another_clock(what: str, clock: Clock, instead: str) -> ColabMagicsError:
    return ColabMagicsError(
        what,
        f"Here it is {clock.wall().isoformat(timespec='minutes')}.",
        "Write the offset where your clock is another: 2026-11-20T10:00+01:00.",
        instead,
    )


def _no_such(what: str, word: str, among: Iterable[str], instead: str = "") -> ColabMagicsError:
    among = list(among)
    close = nearest(word, among)
    return ColabMagicsError(
        f"There is no {what} {word}.",
        "Nothing was changed.",
        f"Did you mean {close}?" if close else instead or f"It can be {', '.join(among)}.",
    )


def _written(text: str, kind: Kind) -> Any:
    """What the file holds for what a person typed."""
    text = text.strip()
    if kind is lines.TEXTS:
        return [one.strip() for one in text.split(",")]
    if kind is lines.CAPABILITY:
        return [int(one) if one.isdecimal() else one for one in text.split(".")]
    if kind is lines.SWITCH and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind.plain:
        try:
            return int(text) if text.isdecimal() else float(text)
        except ValueError:
            return text
    return text


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # read_text would change the ends of the lines
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    path = Path(os.path.realpath(path))  # a link, to a Drive say, stays one
    try:
        if path.exists() and not path.is_file():
            raise OSError("It is no file")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(text.encode())
        partial.replace(path)
    except (OSError, UnicodeError) as error:
        raise ColabMagicsError(
            f"{path} was not written.",
            f"{getattr(error, 'strerror', None) or error}.",
            f"Name another file in the environment variable {VARIABLE}.",
        ) from None
