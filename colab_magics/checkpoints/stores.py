"""The durable stores: a folder on another disk or mount, or whatever fsspec can reach.

Both hold the same tree and answer to the same few calls. A copy is whole if its manifest's own hash holds and every
file has the size and hash that it names, read back from the store: never because a call returned, nor because a name
is there, nor by the order in which things arrived.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, Protocol

from colab_magics.checkpoints.commit import STAGING
from colab_magics.checkpoints.manifest import (
    MANIFEST,
    Broken,
    Manifest,
    Sealed,
    may_be_named,
    new_hash,
    parse_folder_name,
)
from colab_magics.checkpoints.mounts import absolute, mount_of

Standing = Literal["local", "handed over", "confirmed"]
Told = Callable[[int], None]
"""Is told of bytes as they are taken."""

LEASE = "LEASE.json"
PIECE = 4 * 2**20
MOST_MANIFEST = 2**20
# What we write is of these kinds and no other: nothing else is copied there, nor fetched from there.
_OURS = re.compile(r".+\.(safetensors|json|jsonl|npy|jinja|model|txt|md)")
_STAGED = re.compile(re.escape(STAGING) + r"(?P<name>.+)-[0-9a-f]{8}")


def is_ours(name: str) -> bool:
    """Whether a file of that name may be one that we made."""
    return may_be_named(name) and _OURS.fullmatch(name) is not None


def committed_name(name: str) -> str:
    """What a folder is called once its commit has ended: the same, but for one whose rename was cut short."""
    staged = _STAGED.fullmatch(name)
    return staged["name"] if staged else name


@dataclass(frozen=True)
class Item:
    """One name in a folder of a store: a file, or a folder. Nothing else is shown, links least of all."""

    name: str
    size: int
    is_folder: bool


class Store(Protocol):
    """Where copies go. Paths are relative to `where`; an `OSError` (or fsspec's own) means that it does not answer."""

    where: str
    lease_every: float
    """Seconds between two renewals of a lease."""
    patience: float
    """Seconds without a byte taken after which the store is said not to answer."""
    copy_every: float
    """Seconds between the copies of two checkpoints, while the training goes on."""

    def ready(self) -> None:
        """See that what should be mounted is; make the place itself."""

    def standing(self) -> Standing:
        """What may be said of bytes that were read back."""

    def proven(self, path: str, names: Sequence[str]) -> bool:
        """Whether something stronger than reading back says that these files are there, in the folder at `path`."""

    def ends(self, path: str, names: Sequence[str]) -> bool:
        """Whether no more will ever be known of files that were handed over."""

    def names(self, path: str) -> list[Item]:
        """What lies in a folder; nothing, where there is none."""

    def pieces(self, path: str, *, cached: bool = True) -> Iterator[bytes]:
        """A file's bytes; `cached` False asks for what the store holds, not for what memory does."""

    def put(self, path: str, data: bytes) -> None:
        """Write a small file, or replace it."""

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        """Write a folder of which every file is as `manifest` says, else raise `Broken`."""

    def sync(self) -> None:
        """Send what was put, where that is a step of its own."""

    def delete(self, path: str) -> None:
        """Delete a small file, if it is there."""

    def discard(self, path: str, run: str) -> None:
        """Delete a folder that carries a manifest of the run `run`."""

    def tidy(self, path: str, run: str) -> None:
        """End what a process that died there had begun."""

    def free(self) -> int | None:
        """Bytes that still fit, where that can be known."""


# --- a folder's bytes, on the way there and back ----------------------------------------------------------------------


def sealed_pieces(path: Path, sealed: Sealed, told: Told = lambda _: None) -> Iterator[bytes]:
    """The bytes of a local file, which must turn out to be those that were committed.

    Raises
    ------
    Broken
        They are not, or cannot be read: whatever receives them must not keep them.
    """
    return checked(path.name, _plain_pieces(path), sealed, told)


def _plain_pieces(path: Path) -> Iterator[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Broken(f"{path.name} is no file")
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise Broken(f"{path.name} cannot be read: {error.strerror}") from None


def checked(name: str, pieces: Iterator[bytes], sealed: Sealed, told: Told = lambda _: None) -> Iterator[bytes]:
    """`pieces`, as long as they can be the bytes of `sealed`; `Broken` once they are not."""
    digest, size = new_hash(), 0
    for piece in pieces:
        size += len(piece)
        if size > sealed.size:
            raise Broken(f"{name} has more than its {sealed.size:,} bytes")
        digest.update(piece)
        yield piece
        told(len(piece))
    if size != sealed.size:
        raise Broken(f"{name} has {size:,} bytes instead of {sealed.size:,}")
    if digest.hexdigest() != sealed.blake2b:
        raise Broken(f"{name} was altered")


def read(store: Store, path: str, most: int) -> bytes | None:
    """A small file's bytes; None if it is not there.

    Raises
    ------
    Broken
        It is larger than `most` bytes, or no file.
    """
    parent, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
    found = {item.name: item for item in store.names(parent)}.get(name)
    if found is None:
        return None
    if found.is_folder or found.size > most:
        raise Broken(f"{name} is no file of at most {most:,} bytes")
    data = bytearray()
    for piece in store.pieces(path):
        data += piece
        if len(data) > most:
            raise Broken(f"{name} has more than {most:,} bytes")
    return bytes(data)


def whole(
    store: Store, path: str, *, run: str | None = None, full: bool = True, told: Told = lambda _: None
) -> Manifest:
    """The manifest of a folder in a store of which every file has its size and, if `full`, its hash.

    Files that the manifest does not name are no matter: a store may have its own, and they are never fetched.

    Raises
    ------
    Broken
        How it differs from what was committed. That the store does not answer is no `Broken`.
    """
    there = {item.name: item for item in store.names(path)}
    if MANIFEST not in there:
        raise Broken("it has no manifest: it was not finished")
    text = read(store, f"{path}/{MANIFEST}", MOST_MANIFEST)
    if text is None:
        raise Broken("it has no manifest: it was not finished")
    manifest = Manifest.from_json(text)
    if run is not None and manifest.run != run:
        raise Broken("it belongs to another run")
    named = parse_folder_name(committed_name(PurePosixPath(path).name))
    if manifest.kind == "checkpoint" and named is not None and named != (manifest.step, manifest.attempt):
        raise Broken(f"its manifest is that of step {manifest.step}, attempt {manifest.attempt}")
    for name, sealed in manifest.files.items():
        if not is_ours(name):
            raise Broken(f"it names {name}, which cannot be ours")
        if name not in there or there[name].is_folder:
            raise Broken(f"{name} is missing")
        if there[name].size != sealed.size:
            raise Broken(f"{name} has {there[name].size:,} bytes instead of {sealed.size:,}")
    if full:
        for name, sealed in manifest.files.items():
            for _ in checked(name, store.pieces(f"{path}/{name}", cached=False), sealed, told):
                pass
    return manifest


def open_store(where: str, *, run_folder: Path | None = None, known: Sequence[PurePath] = ()) -> Store:
    """The store that `where` names: a folder, or a URL of fsspec's.

    Parameters
    ----------
    run_folder : Path, optional
        Whose copy goes there: on the same disk, it is none that outlives the disk.
    known : sequence of PurePath
        Mount points on which it lay before.

    Raises
    ------
    ImportError
        The library that speaks with that kind of store is not installed.
    """
    if where.startswith("kaggle://"):
        from colab_magics.checkpoints.kaggle import KaggleStore

        return KaggleStore(where, run_folder=run_folder)
    if "://" in where:
        from colab_magics.checkpoints.urls import UrlStore, hub_store

        return hub_store(where) if where.startswith("hf://") else UrlStore(where, run_folder=run_folder)
    root = absolute(where)
    mount = mount_of(root)
    if mount is not None and mount.is_drive:
        from colab_magics.checkpoints.drive import DriveStore

        return DriveStore(root, run_folder=run_folder, known=known)
    from colab_magics.checkpoints.folders import FolderStore

    return FolderStore(root, run_folder=run_folder, known=known)


def shown(where: str) -> str:
    """`where` as it may be printed: without a password in a URL, nor what follows a question mark."""
    return re.sub(r"(?<=://)[^/@]*@|\?.*", "", where) if "://" in where else where


def missing_package(error: ImportError) -> str:
    """The name by which the library that a store needs is installed; fsspec's own words hide it in the cause."""
    named = (one.name for one in (error, error.__cause__) if isinstance(one, ImportError) and one.name)
    return next(named, "fsspec").partition(".")[0]


def why_local(where: str) -> str:
    """What a person should know of a store where no copy is more than `local`."""
    if where.startswith("memory://"):
        return f"{where} is in the memory of the process that copies: the copy ends with it."
    return f"{where} is on this machine's own disk: the copy ends with the machine."


def is_full(error: BaseException) -> bool:
    """Whether a store said that nothing more fits."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
