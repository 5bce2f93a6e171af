"""A death, and a loss of power, at every call that changes the disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from checkpoints.acts import ACTS, Act, scenes
from checkpoints.faults import DyingDisk, ForgetfulDisk, Killed, calls_of
from colab_magics.checkpoints.commit import sweep


def deaths_of(act: Act, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each place where `act` can die: what it was, and the folder as it was left."""
    fresh = scenes(folder, act.prepare)
    for at, call in enumerate(calls_of(lambda disk: act.run(next(fresh), disk))):
        for torn in (False, True) if call == "write" else (False,):
            scene = next(fresh)
            with suppress(Killed):
                act.run(scene, DyingDisk(at, torn=torn))
            yield f"{act.name}: {call} {at}{' half made' if torn else ''}", scene


def power_failures_of(act: Act, folder: Path) -> Iterator[tuple[str, Path]]:
    """As `deaths_of`, but what was not flushed is lost too: all of it, the end of it, or pages within."""
    rng = random.Random(0)
    losses: dict[str, Callable[[bytes], bytes]] = {
        "all lost": lambda data: data[:0],
        "end lost": lambda data: data[: rng.randrange(len(data) + 1)],
        "zeros": lambda data: bytes(len(data)),
    }
    fresh = scenes(folder, act.prepare)
    for at, call in enumerate(calls_of(lambda disk: act.run(next(fresh), disk))):
        for name, keep in losses.items():
            scene = next(fresh)
            with suppress(Killed):
                act.run(scene, ForgetfulDisk(at, keep))
            yield f"{act.name}: {call} {at}, {name}", scene


def deaths_in_a_row(folder: Path) -> Iterator[tuple[str, Path]]:
    """A commit dies at each of its calls, and then the sweep after it at each of its own."""
    commit = next(act for act in ACTS if act.name == "commit")
    fresh = scenes(folder, commit.prepare)
    for at in range(len(calls_of(lambda disk: commit.run(next(fresh), disk)))):

        def torn(at: int = at) -> Path:
            scene = next(fresh)
            with suppress(Killed):
                commit.run(scene, DyingDisk(at))
            return scene

        for swept in range(len(calls_of(lambda disk: sweep(torn(), disk=disk)))):
            scene = torn()
            with suppress(Killed):
                sweep(scene, disk=DyingDisk(swept))
            yield f"commit {at}, then sweep {swept}", scene
