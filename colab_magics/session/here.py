"""This session: on which platform, since when, and until when."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.session.clock import BootClock, Clock, on_boot_clock
from colab_magics.session.detect import VARIABLE, detect
from colab_magics.session.lines import Lines
from colab_magics.session.settings import began, of_this_life, user_file
from colab_magics.session.table import Platform, Table, load_table

_CLOCK = BootClock()


@dataclass(frozen=True)
class Session:
    """The life of this machine, as far as it is known. Seconds.

    Attributes
    ----------
    platform : Platform
        With the user's own values in place of the table's.
    evidence : str
        How the platform was known, in a few words.
    age : float, optional
        Since the machine (or its container) was started; None where that says nothing.
    limit : float, optional
        Its longest life; None where there is none, or none is known.
    limit_from : str
        `table` (an estimate), `set` (by the user), or `passed` (the age is beyond the table's, which was wrong).
    limit_key : str
        By which key the user has set it: `limit`, `kaggle.limit`.
    """

    platform: Platform
    evidence: str = ""
    age: float | None = None
    limit: float | None = None
    limit_from: Literal["table", "set", "passed"] = "table"
    limit_key: str = "limit"

    @property
    def left(self) -> float | None:
        """Seconds until the session's end; None where nobody knows."""
        if self.age is None or self.limit is None or self.limit_from == "passed":
            return None
        return max(0.0, self.limit - self.age)


def this_session(
    *,
    environ: Mapping[str, str] = os.environ,
    modules: Collection[str] = sys.modules,
    clock: Clock = _CLOCK,
    files: Path = Path("/"),
) -> Session:
    """The session of this process. Cheap when called again: files are read only when they have changed.

    The platform is the one that the user set, else COLAB_MAGICS_PLATFORM, else what the machine looks like.

    Parameters
    ----------
    environ, modules, files : where the platform's marks are looked for
    clock : what the age is counted by

    Raises
    ------
    ColabMagicsError
        The user's file is not as it must be, or names no platform of the table.
    """
    path = user_file(environ)
    table = load_table(path)
    own = of_this_life(table, clock)
    chosen = table.session.get("platform")
    key, evidence = (chosen, f"set in {path}") if chosen else detect(environ, modules, files)
    platform = table.platforms.get(key) or table.platforms.get(key.lower())
    if platform is None:
        raise _unknown(key, table)
    if "idle" in table.session:
        platform = replace(platform, idle=table.session["idle"])
    age = clock.now() - began(own, clock)
    if age < 0 and "boot" not in own:  # what `set` wrote was true when it was written: a clock has jumped since
        raise _to_come(path, own["start"], clock)
    limit = own.get("limit")
    if isinstance(limit, datetime):
        limit = on_boot_clock(limit, clock) - began(own, clock)
    age = max(0.0, age)
    if "limit" in own:
        return Session(platform, evidence, age, limit, "set")
    for row in filter(None, (platform.key, platform.follows)):
        if ("platforms", row, "limit") in table.own:
            return Session(platform, evidence, age, platform.limit, "set", f"{row}.limit")
    passed = platform.limit is not None and age > platform.limit
    return Session(platform, evidence, age, platform.limit, "passed" if passed else "table")


def for_worker() -> dict[str, str]:
    """What to add to the environment of a process that this one starts, so that it knows where it is.

    `google.colab` is a module of the kernel; no process that it starts can see it.
    """
    return {VARIABLE: this_session().platform.key}


def _to_come(path: Path, start: datetime, clock: Clock) -> ColabMagicsError:
    """That a start, as a person wrote it into the file, is no start."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        text = ""
    return Lines(str(path), text).wrong(
        ("session", "start"),
        f"start = {start.isoformat()} is to come.",
        f"It stands in {path}; here it is {clock.wall().isoformat(timespec='minutes')}.",
        "Write when the session was started, with the offset where your clock is another: 2026-11-20T10:00+01:00.",
    )


def _unknown(key: str, table: Table) -> ColabMagicsError:
    close = nearest(key, table.platforms)
    return ColabMagicsError(
        f"There is no platform {key}.",
        f"The environment variable {VARIABLE} names it.",
        f"Did you mean {close}?" if close else f"It can be {', '.join(table.platforms)}.",
    )
