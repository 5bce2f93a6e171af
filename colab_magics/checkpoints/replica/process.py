"""The replica process: two threads, one that talks to the store, and one that only ever touches the run's own disk.

A call on a dead mount may never return, and then nothing in its thread ever happens again. So the other one watches,
says in the run's folder that the store does not answer, and ends the process when its time is up.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.replica import LOCK, LOG, time_to_copy
from colab_magics.checkpoints.replica.copying import CHECKPOINTS, EVENTS, Replication
from colab_magics.checkpoints.replica.telling import Teller, trouble, without_secrets
from colab_magics.checkpoints.stores import Store, open_store, shown
from colab_magics.checkpoints.verify import entries
from colab_magics.events import read_events

BOUND = 1800.0
"""Seconds after the worker's end after which the copy is given up."""
POLL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0
_LONGEST_PAUSE_AFTERWARDS = 60.0  # a person waits, and has perhaps repaired the mount


def replicate(folder: Path, where: str, limit: int, *, bound: float = BOUND, patience: float | None = None) -> int:
    """Copy the run in `folder` until its worker has ended and all is there; 0 if that was reached."""
    lock = hold(folder / LOCK, where, limit)
    if lock is None:
        print(f"Another process copies {folder.name} to {shown(where)}.")
        return 0
    teller = Teller(folder, where)
    job = Job(folder, where, limit, teller, patience)
    threading.Thread(target=job.run, daemon=True).start()
    died: float | None = None
    left: float | None = None
    while not job.done.wait(POLL):
        if worker.is_alive(folder):
            died = None
        elif died is None:
            died, left = time.monotonic(), _time_to_copy(folder)
        job.watch(ended=died is not None)
        if died is not None and time.monotonic() - died > (bound if left is None else min(bound, left)):
            since = "The session ends" if left is not None and left < bound else f"After {bound / 60:,.0f} minutes"
            teller.say("given up", message=f"{since}: {_what_is_missing(folder, job)}: {teller.where}.")
            # not sys.exit: that would wait for a thread that may never return
            sys.stdout.flush()
            os._exit(1)
    return 0


def _time_to_copy(folder: Path) -> float | None:
    """What the session leaves, once the worker is gone; None where it did not say, or went without a word."""
    events = read_events(folder / EVENTS)
    return time_to_copy(events[-1]) if events and events[-1]["kind"] in ("finished", "failed") else None


def _what_is_missing(folder: Path, job: Job) -> str:
    newest = next(iter(entries(folder / CHECKPOINTS)), None)
    name = f" ({newest.name})" if newest is not None else ""
    standing = job.replication.newest_standing if job.replication is not None else None
    if standing == "handed over":
        return f"the last checkpoint{name} is handed over, and not confirmed"
    if standing is not None:
        return f"the last checkpoint{name} is {standing}, and the result is not copied"
    return f"the last checkpoint{name} is not copied"


def hold(path: Path, where: str, limit: int, *, wait: float = 10.0) -> int | None:
    """Take the lock for life; None if a process that copies to the same place has it.

    One that copies elsewhere is ended: the person has named another place since.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            there = _holder(descriptor)
            if there.get("where") == shown(where) or time.monotonic() > deadline:
                os.close(descriptor)
                return None
            pid = there.get("pid")
            if isinstance(pid, int) and pid > 1 and worker.start_time(pid) == there.get("start_time"):
                with suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)
    told = {"pid": os.getpid(), "start_time": worker.start_time(os.getpid()), "where": shown(where), "limit": limit}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(told).encode(), 0)
    return descriptor


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(descriptor, 65_536, 0))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class Job:
    """The thread that talks to the store."""

    def __init__(self, folder: Path, where: str, limit: int, teller: Teller, patience: float | None) -> None:
        self.done = threading.Event()
        self.replication: Replication | None = None
        self._folder, self._where, self._limit, self._teller = folder, where, limit, teller
        self._store: Store | None = None
        self._patience = patience
        self._since: float | None = None

    def run(self) -> None:
        """Copy until all is there."""
        pause = _FIRST_PAUSE
        while True:
            ended = not worker.is_alive(self._folder)
            self._pulse()
            try:
                if self.replication is None:
                    self.replication = Replication(
                        self._folder, self._open(), self._limit, self._teller.say, pulse=self._pulse
                    )
                replication = self.replication
                busy = replication.turn(ended=ended)
                if ended and not busy and replication.finished:
                    replication.close()
                    if not worker.is_alive(self._folder):  # a new attempt's process has found this one, and is gone
                        break
            except Exception as error:  # a store's library raises what it likes; the copy is tried again
                state, reason, message = trouble(error, self._teller.where, ended=ended)
                if self._teller.say(state, message=message, reason=reason):
                    print(without_secrets("".join(traceback.format_exception(error))), flush=True)
                self._since = None
                self._rest(pause, ended=ended)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._since = None
            pause = _FIRST_PAUSE
            if not busy:
                time.sleep(POLL)
        standing = replication.newest_standing
        self._teller.say("done", message=f"Everything is {standing}." if standing else "There was nothing to copy.")
        self.done.set()

    def _rest(self, seconds: float, *, ended: bool) -> None:
        """Pause before the next try, which comes at once when the worker ends, and sooner after that."""
        until = time.monotonic() + (min(seconds, _LONGEST_PAUSE_AFTERWARDS) if ended else seconds)
        while (left := until - time.monotonic()) > 0 and (ended or worker.is_alive(self._folder)):
            time.sleep(min(left, POLL))

    def watch(self, *, ended: bool) -> None:
        """Say that the store does not answer, if the last call on it takes too long."""
        since, patience = self._since, self._patience or (self._store.patience if self._store is not None else 30.0)
        if since is not None and time.monotonic() - since > patience:
            goes_on = "The last checkpoint is not copied yet." if ended else "The training goes on without it."
            message = f"{self._teller.where} has not answered for {patience:,.0f} s. {goes_on}"
            self._teller.say("waiting", message=message, reason="hang after the end" if ended else "hang")

    def _pulse(self) -> None:
        self._since = time.monotonic()

    def _open(self) -> Store:
        importlib.invalidate_caches()  # what was missing may have been installed
        known = [
            PurePath(str(event["mount"]))
            for event in read_events(self._folder / LOG)
            if event.get("mount") and event.get("where") == self._teller.where
        ]
        self._store = store = open_store(self._where, run_folder=self._folder, known=known[-1:])
        if isinstance(store, FolderStore):
            store.ready()
            if store.mount_point and not known:  # for the next process: where a plain folder must not be made
                self._teller.say("copying", message="The copy begins.", mount=store.mount_point)
        return store
