"""A parcel: a folder or one archive of chosen files, written beside its place and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from colab_magics.checkpoints.manifest import Broken, new_hash
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.staging import beside, clear, sweep
from colab_magics.panel import words

README = "README.md"
MARK = "<!-- exported by colab_magics -->"
_PIECE = 8 * 2**20


@dataclass(frozen=True)
class Part:
    """One file of an export: from a path, or from memory. `hash` is what its bytes must have, where that is known."""

    name: str
    source: Path | None = None
    text: bytes = b""
    hash: str = ""

    @property
    def size(self) -> int:
        return self.source.stat().st_size if self.source is not None else len(self.text)


def free_place(path: str | os.PathLike[str], *, not_in: Path, force: bool) -> Path:
    """Where to write, as a path that may be written to.

    Parameters
    ----------
    path : ends in .zip for an archive
    not_in : a folder of ours in which nothing is exported
    force : an earlier export may be replaced

    Raises
    ------
    ColabMagicsError
        There is no folder above it, or something is there already.
    """
    target = place(path, not_in=not_in)
    check_free(target, force=force)
    return target


def place(path: str | os.PathLike[str], *, not_in: Path) -> Path:
    """Where the path leads, whatever is there.

    Raises
    ------
    ColabMagicsError
        There is no such folder, or it is `not_in`.
    """
    target = Path(path).expanduser().absolute()
    parent = target.parent
    if not parent.is_dir():
        raise ColabMagicsError(
            f"There is no folder {parent}.",
            # an unmounted Drive looks just so, and what is written there in its stead is lost
            "An export makes no folders above its own.",
            "Make it first, or name another path.",
        )
    target = parent.resolve() / target.name
    if target.name in ("", "..") or target.is_relative_to(not_in.resolve()):
        raise ColabMagicsError(
            f"{target} cannot be exported to.", f"It is where {not_in.name} are kept.", "Name a path elsewhere."
        )
    return target


def check_free(target: Path, *, force: bool, ours: bool = False) -> None:
    """Refuse a place where something is; with `force`, where that is no export. An empty folder is nothing.

    Parameters
    ----------
    ours : what is there is known to be an export, whether or not it can be seen from it (a GGUF file has no mark)

    Raises
    ------
    ColabMagicsError
        Something is there.
    """
    if not os.path.lexists(target) or _is_empty(target):
        return
    if not ours and not _may_be_replaced(target):
        if force:
            raise ColabMagicsError(
                f"{target} is no export of ours.",
                "--force replaces an earlier export and nothing else.",
                "Name another path.",
            )
        raise ColabMagicsError(
            f"{target} is there already.", "It is no export, and nothing else is ever replaced.", "Name another path."
        )
    if not force:
        raise ColabMagicsError(
            f"{target} is there already.", "An export overwrites nothing.", "Name another path, or add --force."
        )


def _is_empty(target: Path) -> bool:
    if target.is_symlink() or not target.is_dir():
        return False
    try:
        return not any(target.iterdir())
    except OSError:
        return False


def _may_be_replaced(target: Path) -> bool:
    """Whether it is an earlier export: nothing else may be deleted, whatever --force says."""
    if target.is_symlink():
        return False
    if target.suffix == ".zip":
        try:
            with zipfile.ZipFile(target) as archive:
                return MARK in archive.comment.decode(errors="replace")
        except (OSError, zipfile.BadZipFile):
            return False
    try:
        return target.is_dir() and MARK in (target / README).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def pack(target: Path, parts: Sequence[Part]) -> int:
    """Write the parts to a free place, whole or not at all; the bytes that it takes there.

    Raises
    ------
    ColabMagicsError
        The disk is too full; nothing was written.
    OSError, Broken
        It could not be written, or a part was altered meanwhile. Nothing is left there then.
    """
    sweep(target.parent)
    size = sum(part.size for part in parts)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise ColabMagicsError(
            f"The disk of {target.parent} is too full for the export.",
            f"It takes {words.size(size)}, and {words.size(free)} are free.",
            "Make room, or name a path on another disk.",
        )
    staging = beside(target)
    try:
        if target.suffix == ".zip":
            _write_archive(staging, target.stem, parts)
        else:
            _write_folder(staging, parts)
        put(staging, target)
    finally:
        clear(staging)
    return target.stat().st_size if target.is_file() else size


def _write_folder(staging: Path, parts: Sequence[Part]) -> None:
    staging.mkdir()
    for part in parts:
        with (staging / part.name).open("xb") as file:
            _copy(part, file)


def _write_archive(staging: Path, folder: str, parts: Sequence[Part]) -> None:
    """Weights are stored as they are: they do not become smaller, and only take time."""
    with zipfile.ZipFile(staging, "x") as archive:
        archive.comment = MARK.encode()
        for part in parts:
            entry = zipfile.ZipInfo(f"{folder}/{part.name}", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            stored = part.name.endswith(".safetensors")
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                _copy(part, file)


def _copy(part: Part, file: IO[bytes]) -> None:
    digest = new_hash()
    for piece in pieces(part):
        digest.update(piece)
        file.write(piece)
    if part.hash and digest.hexdigest() != part.hash:
        raise Broken(f"{part.name} was altered while it was copied")


def pieces(part: Part) -> Iterator[bytes]:
    """The bytes of a part, a few at a time."""
    if part.source is None:
        yield part.text
        return
    descriptor = os.open(part.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def put(staging: Path, target: Path) -> None:
    """Give it its name; an earlier export stands aside until that is done."""
    if not target.is_dir():
        staging.rename(target)
        return
    aside = beside(target, aside=True)
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
