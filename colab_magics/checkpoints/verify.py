"""Telling whole checkpoints from torn or altered ones. Nothing here writes, but `set_aside`, which renames."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import (
    MANIFEST,
    Broken,
    Manifest,
    Sealed,
    new_hash,
    parse_folder_name,
    read_manifest,
)

ASIDE = ".broken-"
_PIECE = 8 * 2**20


@dataclass(frozen=True)
class Entry:
    """One checkpoint's folder as a quick look finds it: `manifest` if that reads and all sizes agree, else `broken`."""

    folder: Path
    step: int
    attempt: int
    manifest: Manifest | None
    broken: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def age_order(self) -> tuple[int, int]:
        """Larger is newer: what a later attempt wrote goes on from where that attempt began, whatever its step."""
        return self.attempt, self.step


def verify(folder: Path, *, full: bool = True, run: str | None = None, disk_cache: bool = True) -> Manifest:
    """The manifest of a folder that is whole.

    Parameters
    ----------
    full : bool
        Read and hash every byte; otherwise only names, kinds and sizes are compared.
    run : str, optional
        The id of the run to which it must belong.
    disk_cache : bool
        False: ask the system to forget what it has cached of the files, and read what is on the disk.

    Raises
    ------
    Broken
        How it differs from what was committed.
    """
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise Broken("it is no folder")
        manifest = read_manifest(folder)
        if run is not None and manifest.run != run:
            raise Broken("it belongs to another run")
        told = parse_folder_name(folder.name)
        if told is not None and manifest.kind != "checkpoint":
            raise Broken(f"it holds {manifest.kind}, no checkpoint")
        if told is not None and told != (manifest.step, manifest.attempt):
            raise Broken(f"its manifest is that of step {manifest.step}, attempt {manifest.attempt}")
        there = set(os.listdir(folder)) - {MANIFEST}
    except OSError as error:
        raise Broken(f"it cannot be read: {error.strerror}") from None
    for name in manifest.files:
        if name not in there:
            raise Broken(f"{name} is missing")
    for name in sorted(there - set(manifest.files)):
        raise Broken(f"{name!r} does not belong to it")  # quoted: anybody may have named it, with any bytes
    for name, sealed in manifest.files.items():
        _verify_file(folder / name, sealed, full=full, disk_cache=disk_cache)
    return manifest


def _verify_file(path: Path, sealed: Sealed, *, full: bool, disk_cache: bool) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Broken(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Broken(f"{path.name} is no file")
        if found.st_size != sealed.size:
            raise Broken(f"{path.name} has {found.st_size:,} bytes instead of {sealed.size:,}")
        if full and hash_of(descriptor, disk_cache=disk_cache) != sealed.blake2b:
            raise Broken(f"{path.name} was altered")
    except OSError as error:
        raise Broken(f"{path.name} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def hash_of(descriptor: int, *, disk_cache: bool = True) -> str:
    """The hash of an open file's bytes, from its first on."""
    if not disk_cache and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = new_hash()
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
        file.seek(0)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return str(digest.hexdigest())


def entries(checkpoints: Path, *, run: str | None = None) -> list[Entry]:
    """The checkpoints' folders after a quick look (no file is read but manifests), the newest first.

    None where `checkpoints` itself is a symbolic link: what it names is not ours to read, rename or delete.
    """
    found: list[Entry] = []
    if checkpoints.is_symlink():
        return found
    try:
        names = os.listdir(checkpoints)
    except OSError:
        return []
    for name in names:
        told = parse_folder_name(name)
        if told is not None:
            folder = checkpoints / name
            try:
                found.append(Entry(folder, *told, verify(folder, full=False, run=run)))
            except Broken as broken:
                found.append(Entry(folder, *told, None, str(broken)))
    return sorted(found, key=lambda entry: entry.age_order, reverse=True)


@dataclass(frozen=True)
class Search:
    """What a search for a checkpoint found: the one to use, if any, and the newer ones that are broken."""

    entry: Entry | None
    skipped: tuple[Entry, ...]


def newest_verified(checkpoints: Path, *, run: str | None = None, step: int | None = None) -> Search:
    """The newest checkpoint of which every byte is as it was committed.

    Parameters
    ----------
    step : int, optional
        Only those of that step.
    """
    skipped: list[Entry] = []
    for entry in entries(checkpoints, run=run):
        if step is not None and entry.step != step:
            continue
        broken = entry.broken
        if not broken:
            try:
                verify(entry.folder, run=run)
                return Search(entry, tuple(skipped))
            except Broken as found:
                broken = str(found)
        skipped.append(Entry(entry.folder, entry.step, entry.attempt, None, broken))
    return Search(None, tuple(skipped))


def set_aside(entry: Entry, *, disk: Disk = DISK) -> Path:
    """Take a broken checkpoint out of the way, without deleting it; its new place.

    Raises
    ------
    OSError
        The disk refuses; the next search will skip it again.
    """
    place = entry.folder.with_name(f"{ASIDE}{entry.name}-{secrets.token_hex(2)}")
    disk.rename(entry.folder, place)
    return place
