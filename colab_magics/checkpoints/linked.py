"""Committing files that are on the disk already, without writing their bytes again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from colab_magics.checkpoints.commit import committed
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import Manifest, Sealed
from colab_magics.checkpoints.verify import hash_of


def commit_linked(target: Path, files: Iterable[Path], manifest: Manifest, *, disk: Disk = DISK) -> Manifest:
    """Make the folder `target` of these files, which may be shared with others and must never be written to again.

    Raises
    ------
    OSError
        The disk refuses; nothing of `target` is there then.
    """
    return committed(
        target,
        lambda staging: {path.name: _link(path, staging / path.name, disk) for path in files},
        manifest,
        disk=disk,
    )


def _link(source: Path, path: Path, disk: Disk) -> Sealed:
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        disk.flush(descriptor)
        return Sealed(os.fstat(descriptor).st_size, hash_of(descriptor))
    finally:
        os.close(descriptor)
