"""A real small disk for the tests that fill one: tmpfs, where it can be mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, size: str, *, lazily: bool = False) -> Iterator[Path]:
    """An empty disk of that size (as in `mount -o size=`) at `place`; a test that cannot have one is skipped.

    Nobody may hold a file there at the end, unless it is taken away `lazily`.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs Linux and root")
    place.mkdir(exist_ok=True)
    if error := mount(place, f"size={size}"):
        pytest.skip(f"no small disk can be mounted: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", *(["-l"] if lazily else []), str(place)], check=True)


def mount(place: Path, options: str) -> str:
    """Mount a disk in memory; the error, if it cannot be."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()
