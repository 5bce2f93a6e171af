"""`%session set`, `unset` and `table`: what is believed of the platforms, and your own word on it."""

from __future__ import annotations

from colab_magics.session.folders import outlives
from colab_magics.session.here import this_session
from colab_magics.session.settings import Change, set_value, unset, user_file
from colab_magics.session.table import FILE, Platform, load_table
from colab_magics.session.times import said

# How people call the thresholds for what is used, and the two limits that are no thresholds.
SPELT = {f"{name}_limit": f"thresholds.{name}" for name in ("memory", "ram", "disk", "drive", "run")}
SPELT |= {"time_limit": "limit", "idle_limit": "idle"}


def change(key: str, text: str) -> str:
    """Have `key` be `text`; what that means from now on."""
    done = set_value(SPELT.get(key.lower(), key), text)
    stays = outlives(done.path, this_session().platform)
    until = "for every session" if stays and not done.for_this_boot else "until this machine ends"
    told = [f"{done.key} = {done.value}, {until}. It stands in {done.path}.", *_consequence(done)]
    if not stays and not done.for_this_boot:
        told.append("That file is on a disk that dies with the machine: keep this line in the notebook.")
    return "\n".join(told)


def undo(key: str) -> str:
    """Have `key` be the table's own again."""
    done = unset(SPELT.get(key.lower(), key))
    return f"{done.key} is not set any more: what the table or the machine says counts again."


def _consequence(done: Change) -> list[str]:
    """What a change of this session's life means for a run that trains now."""
    here = this_session()
    of_this = done.key.startswith("session.") or done.key == f"platforms.{here.platform.key}.limit"
    if not of_this or here.age is None:
        return []
    if here.limit is None:
        return [f"{here.platform.title}, {said(here.age)} old, without a limit."]
    if here.left is None or here.left <= 0:
        if here.limit_from == "passed":
            return [f"This session is {said(here.age)} old, past the usual {said(here.limit)}: it may end at any time."]
        told = f"This session is {said(here.age)} old, and past its limit: a run that trains now stops after its step."
        return [
            f"{told} %session unset {done.key.removeprefix('session.').removeprefix('platforms.')} takes that back."
        ]
    return [f"This session is {said(here.age)} old and lives for {said(here.left)} more."]


def listing() -> str:
    """The platforms in short, where the whole table is, and how a value of it is overridden."""
    path = user_file()
    table = load_table(path)
    rows: list[tuple[str, ...]] = [("platform", "what", "limit", "idle", "GPU a week", "as of")]
    rows += [_row(one) for one in table.platforms.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    own = sorted(".".join(one) for one in table.own if one != ("session", "boot"))
    return "\n".join(
        [
            *lines,
            "",
            f"The whole table, with its sources: {FILE}",
            f"Your own values: {path}" + ("" if path.exists() else " (not there yet)"),
            *([f"You have set: {', '.join(own)}"] if own else []),
            "%session set kaggle.limit 9h writes one of them; %session unset kaggle.limit takes it back.",
        ]
    )


def _row(platform: Platform) -> tuple[str, ...]:
    times = (platform.limit, platform.idle, platform.weekly)
    shown = [said(one) if one is not None else "-" for one in times]
    return (platform.key, platform.title, *shown, platform.as_of)
