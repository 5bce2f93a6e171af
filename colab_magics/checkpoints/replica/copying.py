"""What is copied to a store, in which order, and what may be said of it afterwards.

One thing at a time, the newest checkpoint before all others, no thread and no clock but for the lease: whatever ends
the process, the next one asks the store what is there and goes on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from colab_magics.checkpoints.lease import Lease, check_owner, give_back, run_id, take
from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest, Sealed, parse_folder_name, read_manifest
from colab_magics.checkpoints.marks import PINS, age_order, pinned
from colab_magics.checkpoints.retention import best_of, superfluous
from colab_magics.checkpoints.stores import Standing, Store, is_full, is_ours, whole
from colab_magics.checkpoints.verify import Entry, entries, hash_of

RECIPE, INPUTS, EVENTS = "recipe.yaml", "inputs.json", "events.jsonl"
CHECKPOINTS, PREPARED, ADAPTER = "checkpoints", "prepared", "adapter"
CONFIRM_EVERY = 15.0
_SPARE = 2**20


class Say(Protocol):
    """How news of the copy is told; see the `replica` events."""

    def __call__(
        self,
        state: str,
        *,
        checkpoint: str = "",
        step: int | None = None,
        done: int = 0,
        total: int = 0,
        left: int = 0,
        message: str = "",
    ) -> object: ...


class Full(OSError):
    """There is no room for a copy: bytes that it needs, and bytes that are free (None: nobody knows)."""

    def __init__(self, need: int, free: int | None) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.need, self.free = need, free


class Replication:
    """The copy of one run to one store.

    Parameters
    ----------
    folder : Path
        The run's.
    limit : int
        How many checkpoints are kept in the store besides those that are never deleted.
    say : Say
    pulse : callable
        Called often while work goes on.
    """

    def __init__(
        self, folder: Path, store: Store, limit: int, say: Say, *, pulse: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.store, self.limit = folder, store, limit
        self.name, self.run = folder.name, ""
        self.there: dict[str, Standing] = {}
        self._say, self._pulse = say, pulse
        self._session, self._holds = secrets.token_hex(8), False
        self._renewed = self._asked = self._copied = float("-inf")
        self._sent: dict[str, bytes] = {}
        self._data: dict[str, Manifest] = {}
        self._manifests: dict[str, Manifest] = {}
        self._passed_over: set[str] = set()
        self._pins: frozenset[str] | None = None
        self._result: dict[str, tuple[int, int]] = {}
        self._ready = False

    def turn(self, *, ended: bool) -> bool:
        """Do the next thing; False if there is none now.

        Parameters
        ----------
        ended : bool
            The worker is gone: the result is copied too.

        Raises
        ------
        Refused
            Another run lies there, or another session copies to it. Nothing was written.
        OSError, or an error of the store's library
            The store is full, or does not answer. The next turn tries again.
        """
        if not self.run:
            self.run = run_id(_start_of(self.folder / EVENTS))
            if not self.run:
                return False
        self.store.ready()
        self._hold()
        if not self._ready:
            for path in (self.name, f"{self.name}/{CHECKPOINTS}", f"{self.name}/{PREPARED}"):
                self.store.tidy(path, self.run)
            self._ready = True
        if EVENTS not in self._sent:  # first: it says whose all this is
            self._send_events()
        for name in (RECIPE, INPUTS):
            self._send(name)
        if self._copy_data() or (self._is_time(ended) and self._copy_next()):
            return True
        self._send_pins()
        if ended:
            if self._copy_result():
                return True
            self._send_events()
            self.store.sync()
        return self._confirm()

    @property
    def finished(self) -> bool:
        """Whether all that can be there is there, and no more will be known of it."""
        newest = self._newest()
        if newest is None or newest.name not in self.there:
            return newest is None
        settled = self.there[newest.name] != "handed over"
        return settled or self.store.ends(self._path(newest), _files_of(self._manifests[newest.name]))

    @property
    def newest_standing(self) -> Standing | None:
        """What is known of the newest checkpoint's copy."""
        newest = self._newest()
        return self.there.get(newest.name) if newest is not None else None

    def close(self) -> None:
        """Give the lease back."""
        if self._holds:
            give_back(self.store, self.name, self._session)
            self._holds = False

    # --- the lease

    def _hold(self) -> None:
        """Have the lease, renewed when it is time; before the first time, see whose copy lies there."""
        self._pulse()
        if time.monotonic() - self._renewed < self.store.lease_every:
            return
        if not self._holds:
            check_owner(self.store, self.name, self.run)
        # one session for all its tries: a lease that was written by a call that failed is our own all the same
        lease = Lease(self.run, _attempt(self.folder), session=self._session, every=self.store.lease_every)
        take(self.store, self.name, lease)
        self._holds, self._renewed = True, time.monotonic()

    # --- small files

    def _send(self, name: str) -> None:
        try:
            data = _read_plain(self.folder / name)
        except OSError:
            return
        self._put(name, data)

    def _send_events(self) -> None:
        log = _read_plain(self.folder / EVENTS)
        self._put(EVENTS, log[: log.rfind(b"\n") + 1])

    def _put(self, name: str, data: bytes) -> None:
        digest = hashlib.blake2b(data).digest()
        if self._sent.get(name) != digest:
            self._sent.pop(name, None)
            self.store.put(f"{self.name}/{name}", data)
            self._sent[name] = digest
            self._pulse()

    def _send_pins(self) -> None:
        wanted = pinned(self.folder)
        if wanted == self._pins:
            return
        there = {item.name for item in self.store.names(f"{self.name}/{PINS}")}
        for name in wanted - there:
            self.store.put(f"{self.name}/{PINS}/{name}", b"")
        for name in there - wanted:
            if parse_folder_name(name) is not None:
                self.store.delete(f"{self.name}/{PINS}/{name}")
        self._pins = wanted

    # --- folders

    def _copy_data(self) -> bool:
        try:
            names = sorted(os.listdir(self.folder / PREPARED))
        except OSError:
            return False
        for name in names:
            source = self.folder / PREPARED / name
            try:
                manifest = read_manifest(source)
            except Broken:
                continue  # it is still being written
            path = f"{PREPARED}/{name}"
            if manifest.kind == "data" and manifest.run == self.run and self._data.get(path) != manifest:
                self._copy_folder(path, source, manifest)
                return True
        return False

    def _copy_result(self) -> bool:
        files = _result(self.folder / ADAPTER)
        if not files or self._result == files:
            return False
        manifest = _manifest_of(self.folder / ADAPTER, list(files), self.run)
        self._copy_folder(ADAPTER, self.folder / ADAPTER, manifest)
        if self._data.get(ADAPTER) == manifest:
            self._result = files
        return True

    def _copy_folder(self, path: str, source: Path, manifest: Manifest) -> None:
        try:
            self._write(f"{self.name}/{path}", source, manifest, self._telling("", None, manifest.size, self._left()))
        except _SourceGone:
            return  # it was replaced meanwhile, and is read anew
        self._data[path] = manifest

    def _local(self) -> list[Entry]:
        found = entries(self.folder / CHECKPOINTS, run=self.run)
        return [one for one in found if one.manifest is not None and one.name not in self._passed_over]

    def _newest(self) -> Entry | None:
        return next(iter(self._local()), None)

    def _wanted(self) -> list[Entry]:
        """Checkpoints that should be there and are not: the newest first, then those that are never deleted."""
        local = self._local()
        best, pins = best_of(local), pinned(self.folder)
        kept = [one for one in local[1:] if one.name in pins or one is best]
        return [one for one in (*local[:1], *kept) if one.name not in self.there]

    def _left(self) -> int:
        """Bytes of the checkpoints that are still to be copied."""
        return sum(map(_size, self._wanted()))

    def _is_time(self, ended: bool) -> bool:
        return ended or time.monotonic() - self._copied >= self.store.copy_every

    def _copy_next(self) -> bool:
        wanted = self._wanted()
        if not wanted or wanted[0].manifest is None:
            return False
        entry, manifest = wanted[0], wanted[0].manifest
        telling = self._telling(entry.name, entry.step, manifest.size, sum(map(_size, wanted[1:])))
        try:
            self._write(self._path(entry), entry.folder, manifest, telling)
        except _SourceGone as gone:
            # pruned meanwhile (then a newer one is there), or broken on this disk
            self._passed_over.add(entry.name)
            if entry.folder.exists():
                self._say("warning", message=f"{entry.name} is not copied: {gone}.")
            return True
        self._send_events()
        self._send_pins()
        self.store.sync()
        self._copied = time.monotonic()
        self._manifests[entry.name] = manifest
        self._stand(entry.name, entry.step, self.store.standing())
        if self.there[entry.name] == "handed over":
            self._asked = float("-inf")
            self._confirm()
        self._prune(self.limit)
        return True

    def _path(self, entry: Entry) -> str:
        return f"{self.name}/{CHECKPOINTS}/{entry.name}"

    def _stand(self, name: str, step: int, standing: Standing) -> None:
        self.there[name] = standing
        size = self._manifests[name].size
        self._say(standing, checkpoint=name, step=step, done=size, total=size, left=self._left())

    def _telling(self, name: str, step: int | None, total: int, after: int) -> Callable[[int], None]:
        done = 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            self._hold()
            self._say("copying", checkpoint=name, step=step, done=done, total=total, left=total - done + after)

        return told

    def _write(self, path: str, source: Path, manifest: Manifest, told: Callable[[int], None]) -> None:
        """Have the folder there, every byte read back."""
        with suppress(Broken):
            if whole(self.store, path, run=self.run, told=lambda _: self._hold()) == manifest:
                return
            self.store.discard(path, self.run)  # of data that was prepared anew
        told(0)
        self._make_room(manifest.size)
        try:
            try:
                self.store.put_folder(path, source, manifest, told)
            except OSError as error:
                if not is_full(error):
                    raise
                if not self._prune(1):
                    raise Full(manifest.size, self._free()) from None
                self.store.put_folder(path, source, manifest, told)
        except Broken as broken:
            raise _SourceGone(str(broken)) from None
        except OSError as error:
            if is_full(error) and not isinstance(error, Full):
                raise Full(manifest.size, self._free()) from None
            raise
        try:
            whole(self.store, path, run=self.run, told=lambda _: self._hold())
        except Broken as broken:
            with suppress(Broken):
                self.store.discard(path, self.run)
            raise OSError(errno.EIO, f"what was read back is not what was written: {broken}") from None

    def _free(self) -> int | None:
        try:
            return self.store.free()
        except OSError:
            return None

    def _make_room(self, need: int) -> None:
        """Raise `Full` before the first byte is written, where it is known that not all will fit."""
        free = self._free()
        if free is not None and free < need + _SPARE and not (self._prune(1) and self._fits(need)):
            raise Full(need, free)

    def _fits(self, need: int) -> bool:
        free = self._free()
        return free is None or free >= need + _SPARE

    # --- afterwards

    def _confirm(self) -> bool:
        """Ask what became of the newest that was handed over; whether more is known than before."""
        handed = [name for name, standing in self.there.items() if standing == "handed over"]
        if not handed or time.monotonic() - self._asked < CONFIRM_EVERY:
            return False
        self._asked = time.monotonic()
        self._pulse()
        for name in sorted(handed, key=age_order, reverse=True)[:2]:
            path = f"{self.name}/{CHECKPOINTS}/{name}"
            if self._rest_is_proven() and self.store.proven(path, _files_of(self._manifests[name])):
                self._stand(name, age_order(name)[1], "confirmed")
                self._prune(self.limit)
                return True
        return False

    def _rest_is_proven(self) -> bool:
        """Whether all is there without which no checkpoint is of use on a new machine: the recipe and the data."""
        small = [name for name in (RECIPE, INPUTS) if name in self._sent]
        data = [(path, _files_of(manifest)) for path, manifest in self._data.items() if path != ADAPTER]
        return self.store.proven(self.name, small) and all(
            self.store.proven(f"{self.name}/{path}", names) for path, names in data
        )

    def _prune(self, limit: int) -> bool:
        """Delete there what is kept neither by rule nor by limit; whether anything was."""
        found = []
        for item in self.store.names(f"{self.name}/{CHECKPOINTS}"):
            told = parse_folder_name(item.name)
            if told is not None and item.is_folder:
                with suppress(Broken):
                    manifest = whole(self.store, f"{self.name}/{CHECKPOINTS}/{item.name}", run=self.run, full=False)
                    found.append(Entry(Path(item.name), *told, manifest))
        names = {entry.name for entry in found}
        verified = max((name for name in self.there if name in names), key=age_order, default=None)
        sure = [name for name, standing in self.there.items() if standing == "confirmed" and name in names]
        if "handed over" in self.there.values():
            # nobody knows which of them have arrived: the one before the newest is the likelier one
            limit = max(2, limit)
        doomed = superfluous(
            found,
            limit=limit,
            verified=verified,
            confirmed=max(sure, key=age_order, default=None),
            pinned=pinned(self.folder),
        )
        deleted = False
        for entry in doomed:
            try:
                self.store.discard(f"{self.name}/{CHECKPOINTS}/{entry.name}", self.run)
                deleted = True
            except (OSError, Broken) as error:
                self._say("warning", message=f"{entry.name} could not be deleted in {self.store.where}: {error}.")
            self.there.pop(entry.name, None)
            self._passed_over.add(entry.name)
            self._pulse()
        return deleted


class _SourceGone(Exception):
    """What should be copied is not as it was committed."""


def _files_of(manifest: Manifest) -> list[str]:
    return [MANIFEST, *manifest.files]


def _size(entry: Entry) -> int:
    return entry.manifest.size if entry.manifest is not None else 0


def _read_plain(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _start_of(path: Path) -> bytes:
    try:
        return _read_plain(path)
    except OSError:
        return b""


def _attempt(folder: Path) -> int:
    from colab_magics import worker

    info = worker.read_info(folder) or {}
    attempt = info.get("attempt")
    return attempt if isinstance(attempt, int) else 1


def _result(folder: Path) -> dict[str, tuple[int, int]]:
    """The result's files that are ours, with what changes if one is written anew; none if there is no result yet."""
    found = {}
    with suppress(OSError), os.scandir(folder) as items:
        for item in items:
            if is_ours(item.name) and item.is_file(follow_symlinks=False):
                told = item.stat(follow_symlinks=False)
                found[item.name] = (told.st_size, told.st_mtime_ns)
    return found


def _manifest_of(folder: Path, names: list[str], run: str) -> Manifest:
    """A manifest for a folder that was written without one."""
    files = {}
    for name in names:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            files[name] = Sealed(os.fstat(descriptor).st_size, hash_of(descriptor))
        finally:
            os.close(descriptor)
    return Manifest("data", run, files, facts={"name": ADAPTER})
