"""Who copies a run to a store now: so that two sessions do not write over each other there.

A lease is a small file that its holder renews. It is a courtesy among our own sessions, no lock: nothing there is
destroyed if two hold it for a moment, because every attempt writes checkpoints under names of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.commit import DELETING
from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest
from colab_magics.checkpoints.stores import LEASE, MOST_MANIFEST, Store, read
from colab_magics.checkpoints.verify import ASIDE

STALE = 600.0
"""Seconds without renewal after which a lease counts no more."""
_LENGTH = 511
_MOST = 64 * 2**10
_HEAD = 256 * 2**20


class Refused(Exception):
    """The store holds another run of that name, or another session copies to it now; the text says which."""


@dataclass(frozen=True)
class Lease:
    """The holder: a process of a machine, as of `time` (seconds since 1970, by its own clock).

    `every` is how often it means to renew it, in seconds: whoever watches for a sign of life must watch longer.
    """

    run: str
    attempt: int
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    boot_id: str = field(default_factory=worker.boot_id)
    pid: int = field(default_factory=os.getpid)
    start_time: float | None = field(default_factory=lambda: worker.start_time(os.getpid()))
    time: float = field(default_factory=time.time)
    every: float = 60.0

    def to_json(self) -> bytes:
        # always of the same length: it is written over in its place
        return (json.dumps(asdict(self)).ljust(_LENGTH) + "\n").encode()

    @staticmethod
    def from_json(text: bytes) -> Lease | None:
        """The lease that `to_json` wrote; None for anything else."""
        try:
            told = json.loads(text)
            started = told["start_time"]
            return Lease(
                *(str(told["run"]), int(told["attempt"]), str(told["session"]), str(told["host"])),
                *(str(told["boot_id"]), int(told["pid"]), None if started is None else float(started)),
                *(float(told["time"]), float(told["every"])),
            )
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return None

    def is_living(self) -> bool:
        """Whether its holder may still be at work.

        Not if it was not renewed for ten minutes, nor if it is of a time that is yet to come, nor if its process was
        one of this machine and is gone.
        """
        age = time.time() - self.time
        if not -STALE <= age <= STALE:
            return False
        if self.is_of_this_machine:
            return worker.start_time(self.pid) is not None and worker.start_time(self.pid) == self.start_time
        return True

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its holder runs, or ran, since this machine's boot: then its life is known, and not guessed."""
        return self.host == socket.gethostname() and bool(self.boot_id) and self.boot_id == worker.boot_id()

    @property
    def holder(self) -> str:
        """Who that is, in words."""
        return f"process {self.pid} on {self.host}"


def held(store: Store, name: str) -> Lease | None:
    """The lease that lies there, living or not."""
    try:
        text = read(store, f"{name}/{LEASE}", _MOST)
    except Broken:
        return None
    return Lease.from_json(text) if text is not None else None


def take(store: Store, name: str, lease: Lease) -> None:
    """Write the lease, or renew it.

    Raises
    ------
    Refused
        A session other than its own holds one. Nothing is written.
    """
    there = held(store, name)
    if there is not None and there.session != lease.session and there.is_living():
        raise Refused(f"another session copies {name} there now: {there.holder}")
    store.put(f"{name}/{LEASE}", lease.to_json())


def give_back(store: Store, name: str, session: str) -> None:
    """Delete the lease, if it is one's own."""
    there = held(store, name)
    if there is not None and there.session == session:
        store.delete(f"{name}/{LEASE}")


def run_id(events: bytes) -> str:
    """The id of the run whose event log begins so: the field `run` of its first `started`; empty without one."""
    for line in events.split(b"\n"):
        if b'"started"' in line:
            try:
                event: Any = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and event.get("kind") == "started" and isinstance(event.get("run"), str):
                return str(event["run"])
    return ""


def owner(store: Store, name: str) -> str:
    """The id of the run that lies in a store under `name`; empty if there is none.

    The lease is asked first, then the event log, then the manifests: each is written before the next.
    """
    lease = held(store, name)
    if lease is not None and lease.run:
        return lease.run
    try:
        found = run_id(read(store, f"{name}/events.jsonl", _HEAD) or b"")
    except Broken:
        found = ""
    if found:
        return found
    for parent in (f"{name}/checkpoints", f"{name}/prepared"):
        for folder in store.names(parent):
            if folder.is_folder and not folder.name.startswith((DELETING, ASIDE)):
                with suppress(Broken):
                    text = read(store, f"{parent}/{folder.name}/{MANIFEST}", MOST_MANIFEST)
                    if text is not None:
                        return Manifest.from_json(text).run
    return ""


def check_owner(store: Store, name: str, run: str) -> None:
    """Raise `Refused` if another run lies in the store under that name."""
    there = owner(store, name)
    if there and there != run:
        raise Refused(f"another run called {name} is kept there (its id is {there}, this one's is {run})")
