"""What is not whole yet lies beside its place, under a name that tells whose it is: what the dead left is removed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from colab_magics.worker import boot_id, start_time

_NAME = re.compile(r"\.(?P<target>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{4}(?P<aside>-aside)?")
_LONGEST = 24 * 3600.0  # seconds; of another machine, with whom a disk may be shared, nobody here knows what lives
_SKEW = 60.0


def beside(target: Path, *, aside: bool = False) -> Path:
    """A name beside the target, which nobody looks at.

    Parameters
    ----------
    aside : for what the target was until now
    """
    mine = f"{_machine()}-{os.getpid()}-{secrets.token_hex(2)}{'-aside' if aside else ''}"
    return target.parent / f".{target.name}.{mine}"


def _machine() -> str:
    return blake2b(f"{boot_id()} {socket.gethostname()}".encode(), digest_size=4).hexdigest()


def clear(staging: Path) -> None:
    """Leave nothing of an export that did not come to its end."""
    remove: Callable[[Path], None] = shutil.rmtree if staging.is_dir() else Path.unlink
    with suppress(OSError):
        remove(staging)


def sweep(folder: Path) -> None:
    """Remove what exports that were killed left in the folder: of a merge that is gigabytes."""
    for path in folder.glob(".*.*-*-*"):
        found = _NAME.fullmatch(path.name)
        if found is None or path.is_symlink() or _lives(path, found["machine"], int(found["pid"])):
            continue
        target = folder / found["target"]
        if found["aside"] and not os.path.lexists(target):  # killed between two renames: it is all that there is
            with suppress(OSError):
                path.rename(target)
            continue
        clear(path)


def _lives(path: Path, machine: str, pid: int) -> bool:
    try:
        written = max(one.lstat().st_mtime for one in (path, *(path.iterdir() if path.is_dir() else ())))
    except OSError:
        return True
    if machine != _machine():
        return bool(time.time() - written < _LONGEST)
    started = start_time(pid)
    # a process that began after that is another one, with the same number; clocks of disks elsewhere may be behind
    return started is not None and started <= written + _SKEW
