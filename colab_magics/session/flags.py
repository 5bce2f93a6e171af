"""Red flags: what will end a session or a run before its time, told while there is still something to do.

A pure function of facts and thresholds. Whoever gathers the facts must not touch a mount that may hang.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from colab_magics.session.here import Session
from colab_magics.session.times import said

_FREE_DRIVE = 16e9  # bytes: the account that costs nothing has 15 GB
_NEARLY_FULL = 0.95


@dataclass(frozen=True)
class Usage:
    """Bytes used of something that has `total`.

    Attributes
    ----------
    name : str
        Whose they are: "Tesla T4", "/content".
    """

    name: str
    used: float
    total: float


@dataclass(frozen=True)
class Facts:
    """What is known of this machine now; None where nothing is.

    Attributes
    ----------
    memory : tuple of Usage
        The GPUs'.
    ram, disk, storage, drive : Usage, optional
        `storage` is that of the folder that outlives the session, where that is another disk; `drive` is the
        account's, as the mount tells it.
    run : tuple of (str, float), optional
        The living run's name, and for how many seconds its worker has been at it.
    session : Session, optional
    idle : float, optional
        Seconds since a cell was run, where none is running.
    """

    memory: tuple[Usage, ...] = ()
    ram: Usage | None = None
    disk: Usage | None = None
    storage: Usage | None = None
    drive: Usage | None = None
    run: tuple[str, float] | None = None
    session: Session | None = None
    idle: float | None = None


@dataclass(frozen=True)
class Flag:
    """One red flag: its threshold's key, what is the matter, and what can be done; a sentence each."""

    key: str
    said: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.said} {self.todo}".rstrip()


def flags(facts: Facts, thresholds: Mapping[str, float], own: frozenset[str] = frozenset()) -> tuple[Flag, ...]:
    """What is red, the most urgent first.

    Parameters
    ----------
    thresholds : Mapping
        As the table has them: seconds; an amount up to 1 is a share of the whole, above it bytes. One that is not there
        raises nothing.
    own : frozenset of str
        The thresholds that the user has set.
    """
    return tuple(
        flag
        for found in (
            _time(facts, thresholds),
            _memory(facts, thresholds),
            _disk(facts.disk, thresholds, "%checkpoint prune deletes checkpoints that are not needed."),
            _disk(facts.storage, thresholds, "A full one takes no more copies; save_total_limit keeps fewer."),
            _drive(facts, thresholds, "drive" in own),
            _run(facts, thresholds),
        )
        for flag in found
    )


def _time(facts: Facts, thresholds: Mapping[str, float]) -> Iterator[Flag]:
    here = facts.session
    if here is None:
        return
    least = thresholds.get("left", 0.0)
    left = here.left
    if here.limit_from == "passed" and here.limit is not None and here.age is not None:
        yield Flag(
            "left",
            f"This session is {said(here.age)} old, past the usual {said(here.limit)}: it may end at any time.",
            "What is not copied elsewhere by then is lost with it.",
        )
    elif left == 0 and here.limit_from == "set" and here.limit is not None and here.age is not None:
        yield Flag(
            "left",
            f"The limit that you set passed {said(here.age - here.limit)} ago: a run stops after its first step.",
            f"%session unset {here.limit_key} forgets it; %session set left 2h sets another.",
        )
    elif left is not None and left < least:
        kind = "as you set it" if here.limit_from == "set" else "by an estimate"
        yield Flag(
            "left",
            f"{said(left)} of this session are left, {kind}.",
            "What is not copied elsewhere by then is lost with it."
            if here.limit_from == "set"
            else f"If yours lives longer: %session set limit {2 * (here.limit or 0) / 3600:g}h.",
        )
    weekly = here.platform.weekly
    if weekly is not None and here.age is not None and facts.memory and weekly - here.age < least:
        yield Flag(
            "weekly",
            f"This session has used {said(here.age)} of the week's {said(weekly)} of GPU.",
            "A session ends with the week's time: %session set limit says when.",
        )
    idle = here.platform.idle
    if idle is not None and facts.idle is not None and idle - facts.idle < thresholds.get("idle", 0.0):
        yield Flag(
            "idle",
            f"No cell was run for {said(facts.idle)}; {here.platform.title} ends an idle session after "
            f"about {said(idle)}.",
            f"What counts: {here.platform.activity}" if here.platform.activity else "",
        )


def _memory(facts: Facts, thresholds: Mapping[str, float]) -> Iterator[Flag]:
    for device in facts.memory:
        if _over(device, thresholds.get("memory")):
            yield Flag(
                "memory",
                f"{device.name}: {_gib(device.used)} of {_gib(device.total)} GiB are used.",
                "Another kernel holds its memory until it is restarted; max_memory in the recipe caps ours.",
            )
    if facts.ram is not None and _over(facts.ram, thresholds.get("ram")):
        yield Flag(
            "ram",
            f"RAM: {_gib(facts.ram.used)} of {_gib(facts.ram.total)} GiB are used.",
            "Beyond that the machine ends a process, often the kernel.",
        )


def _disk(disk: Usage | None, thresholds: Mapping[str, float], todo: str) -> Iterator[Flag]:
    if disk is not None and _over(disk, thresholds.get("disk")):
        yield Flag("disk", f"The disk of {disk.name}: {_gb(disk.used)} of {_gb(disk.total)} GB are used.", todo)


def _drive(facts: Facts, thresholds: Mapping[str, float], own: bool) -> Iterator[Flag]:
    drive = facts.drive
    if drive is None:
        return
    # the table's figure is meant for the free account: a paid one may hold more for years
    counts = own or drive.total <= _FREE_DRIVE
    if drive.used >= _NEARLY_FULL * drive.total or (counts and _over(drive, thresholds.get("drive"))):
        yield Flag(
            "drive",
            f"Drive: {_gb(drive.used)} of {_gb(drive.total)} GB are used.",
            "A full one takes no more copies. Its trash counts until you empty it; save_total_limit keeps fewer.",
        )


def _run(facts: Facts, thresholds: Mapping[str, float]) -> Iterator[Flag]:
    longest = thresholds.get("run")
    if facts.run is not None and longest is not None and facts.run[1] > longest:
        name, seconds = facts.run
        yield Flag(
            "run",
            f"{name} has been training for {said(seconds)}.",
            "Few free sessions live longer; %checkpoint list shows what is safe.",
        )


def _over(usage: Usage, threshold: float | None) -> bool:
    if threshold is None:
        return False
    return usage.used > (threshold * usage.total if threshold <= 1 else threshold)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"
