"""A death, a loss of power, and an error of the disk, at every call that changes the disk."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from checkpoints.acts import COMMIT, Act, scenes
from checkpoints.faults import SAYS, DyingDisk, FailingDisk, ForgetfulDisk, Killed, calls_of
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


def errors_of(act: Act, folder: Path) -> Iterator[tuple[str, Path]]:
    """Each place where the disk can refuse, with each error, once and for good: what it was, and what was left."""
    fresh = scenes(folder, act.prepare)
    for at, call in enumerate(calls_of(lambda disk: act.run(next(fresh), disk))):
        for error in SAYS:
            for for_good in (False, True):
                scene = next(fresh)
                try:
                    act.run(scene, FailingDisk(at, error, for_good=for_good))
                except OSError as raised:
                    if raised.errno != error:
                        raise
                often = "for good" if for_good else "once"
                yield f"{act.name}: {errno.errorcode[error]} {often} from {call} {at}", scene


def deaths_in_a_row(folder: Path) -> Iterator[tuple[str, Path]]:
    """A commit dies at each of its calls, and then the sweep after it at each of its own."""
    fresh = scenes(folder, COMMIT.prepare)
    for at in range(len(calls_of(lambda disk: COMMIT.run(next(fresh), disk)))):

        def torn(at: int = at) -> Path:
            scene = next(fresh)
            with suppress(Killed):
                COMMIT.run(scene, DyingDisk(at))
            return scene

        for swept in range(len(calls_of(lambda disk: sweep(torn(), disk=disk)))):
            scene = torn()
            with suppress(Killed):
                sweep(scene, disk=DyingDisk(swept))
            yield f"commit {at}, then sweep {swept}", scene
