"""Making a folder appear whole or not at all.

Files are written and hashed in one pass into a staging folder beside the target, each is flushed to the disk, the
manifest comes last, then one rename, then the parent's names are flushed. Whatever ends the process, and wherever,
leaves the target absent, or whole, or (where a machine lost what it had promised to have written) with a manifest by
which that is found out.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from colab_magics.checkpoints.files import DISK, Disk, write_all
from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest, Sealed, may_be_named, new_hash, read_manifest

STAGING = ".staging-"
_PIECE = 8 * 2**20

Contents = Mapping[str, Iterable[bytes | memoryview]]
"""File name -> its bytes, in pieces."""


def commit(target: Path, contents: Contents, manifest: Manifest, *, disk: Disk = DISK) -> Manifest:
    """Write `contents` as the folder `target`; returns the manifest with the files' sizes and hashes.

    Parameters
    ----------
    target : Path
        Its parent must exist; a folder of that name must not.
    manifest : Manifest
        All but its `files`.

    Raises
    ------
    OSError
        The disk is full, failing or gone. Nothing is committed; what was written is removed as far as it allows.
    ValueError
        A name that no file of ours may have, or a manifest that could not be read again.
    """
    if wrong := [name for name in contents if not may_be_named(name)]:
        raise ValueError(f"no file of ours is called {wrong[0]!r}")
    return committed(
        target,
        lambda staging: {name: write(staging / name, pieces, disk) for name, pieces in contents.items()},
        manifest,
        disk=disk,
    )


def committed(
    target: Path, fill: Callable[[Path], Mapping[str, Sealed]], manifest: Manifest, *, disk: Disk = DISK
) -> Manifest:
    """The protocol around whatever brings the files: `fill` puts them into the staging folder and seals them."""
    staging = target.parent / f"{STAGING}{target.name}-{secrets.token_hex(4)}"
    disk.make_folder(staging)
    try:
        whole = replace(manifest, files=fill(staging))
        write(staging / MANIFEST, [whole.to_json()], disk)
        disk.flush_folder(staging)
        disk.rename(staging, target)
    except BaseException:
        with suppress(OSError):
            remove(staging, disk=disk)
        raise
    try:
        disk.flush_folder(target.parent)
    except OSError:
        # the caller is told that nothing was committed, and may try again under the same name
        with suppress(OSError):
            disk.rename(target, staging)
            remove(staging, disk=disk)
        raise
    return whole


def write(path: Path, pieces: Iterable[bytes | memoryview], disk: Disk) -> Sealed:
    """Write and hash a new file in one pass, and have it on the disk."""
    digest, size = new_hash(), 0
    descriptor = disk.create(path)
    try:
        for piece in pieces:
            view = memoryview(piece)
            if view.format != "B" or view.ndim != 1:
                view = view.cast("B")
            for begin in range(0, len(view), _PIECE):
                part = view[begin : begin + _PIECE]
                digest.update(part)
                write_all(disk, descriptor, part)
            size += len(view)
        disk.flush(descriptor)
    finally:
        disk.close(descriptor)
    return Sealed(size, digest.hexdigest())


def remove(folder: Path, *, disk: Disk = DISK, truncate: bool = False) -> None:
    """Delete a folder of files, the manifest first, so that what is left of a torn deletion is never taken for whole.

    Parameters
    ----------
    truncate : bool
        Empty each file before it is unlinked: Drive keeps what was deleted in its trash, and counts it.

    Raises
    ------
    OSError
        Something could not be deleted, or lies in the folder that is no file.
    """
    if folder.is_symlink():  # what it names is not ours
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
    names = sorted(os.listdir(folder), key=lambda name: name != MANIFEST)
    for name in names:
        if truncate and not (folder / name).is_symlink():
            disk.truncate(folder / name)
        disk.unlink(folder / name)
    disk.remove_folder(folder)


def sweep(checkpoints: Path, *, disk: Disk = DISK) -> list[str]:
    """Remove what commits and deletions that were cut short have left; returns what could not be removed.

    Only for whoever holds the run's lock: nobody else may be committing there.
    """
    left: list[str] = []
    if checkpoints.is_symlink():  # what it names is not ours
        return left
    with suppress(OSError):
        for name in os.listdir(checkpoints):
            if name.startswith((STAGING, DELETING)):
                try:
                    remove(checkpoints / name, disk=disk)
                except OSError:
                    left.append(name)
    return left


DELETING = ".deleting-"


def discard(folder: Path, *, run: str, disk: Disk = DISK, truncate: bool = False) -> None:
    """Delete a committed folder of the run `run`: out of sight by one rename, then file by file.

    Raises
    ------
    Broken
        It carries no manifest of ours, or belongs to another run: it is left alone.
    OSError
        The disk refuses.
    """
    if folder.is_symlink():
        raise Broken("it is a symbolic link")
    if read_manifest(folder).run != run:
        raise Broken("it belongs to another run")
    doomed = folder.parent / f"{DELETING}{folder.name}-{secrets.token_hex(4)}"
    disk.rename(folder, doomed)
    remove(doomed, disk=disk, truncate=truncate)
