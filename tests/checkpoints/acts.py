"""What can be cut short by a death, and what must be true afterwards. Imported by children: few imports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkpoints.faults import DyingDisk, Killed
from checkpoints.scenes import RUN, hidden, is_as_saved, save
from colab_magics.checkpoints.commit import discard, sweep
from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.verify import newest_verified, set_aside


@dataclass(frozen=True)
class Act:
    """What dies: `prepare` makes the scene, `run` is cut short, one of the steps `after` must be the newest then.

    `torn` is how many broken checkpoints the scene has from the start: no death may add one.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path, Disk], object]
    after: tuple[int, ...]
    torn: int = 0


def _leave_rubbish(checkpoints: Path) -> None:
    """One folder of each kind that a death leaves, and checkpoints 1 and 2."""
    for step in (1, 2):
        save(checkpoints, step)
    for disk, act in (
        (DyingDisk(14), lambda disk: save(checkpoints, 3, disk=disk)),
        (DyingDisk(3), lambda disk: discard(checkpoints / "00000001-a1", run=RUN, disk=disk)),
    ):
        with suppress(Killed):
            act(disk)
    assert [name.split("-")[0] for name in hidden(checkpoints)] == [".deleting", ".staging"]


def _one_of_a_trainings_saves(checkpoints: Path, disk: Disk) -> None:
    """What the worker does: sweep as it begins, commit, then let go of the oldest."""
    sweep(checkpoints, disk=disk)
    save(checkpoints, 4, disk=disk)
    discard(checkpoints / "00000002-a1", run=RUN, disk=disk)


def _two(checkpoints: Path) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)


def _two_and_a_torn_one(checkpoints: Path) -> None:
    _two(checkpoints)
    os.truncate(save(checkpoints, 3) / "state.json", 2)


ACTS = (
    Act("first commit", lambda _: None, lambda folder, disk: save(folder, 1, disk=disk), (-1, 1)),
    Act("commit", _two, lambda folder, disk: save(folder, 3, disk=disk), (2, 3)),
    Act(
        "discard the older",
        _two,
        lambda folder, disk: discard(folder / "00000001-a1", run=RUN, disk=disk),
        (2,),
    ),
    Act(
        "discard as on Drive",
        _two,
        lambda folder, disk: discard(folder / "00000002-a1", run=RUN, disk=disk, truncate=True),
        (2, 1),
    ),
    Act("sweep", _leave_rubbish, lambda folder, disk: sweep(folder, disk=disk), (2,)),
    Act(
        "set aside",
        _two_and_a_torn_one,
        lambda folder, disk: set_aside(newest_verified(folder).skipped[0], disk=disk),
        (2,),
        torn=1,
    ),
    Act("sweep, commit, discard", _leave_rubbish, _one_of_a_trainings_saves, (2, 4)),
)


COMMIT = next(act for act in ACTS if act.name == "commit")


def check_after_a_death(checkpoints: Path, act: Act) -> None:
    """Raises AssertionError unless the newest verified one is whole and one that may be, and the run can go on."""
    search = newest_verified(checkpoints, run=RUN)
    found = search.entry
    step = found.step if found is not None else -1
    assert step in act.after, f"the newest verified one is of step {step}"
    assert found is None or is_as_saved(found.folder, step)
    assert len(search.skipped) <= act.torn, f"there is a torn one: {search.skipped[0].name}"
    assert sweep(checkpoints) == []
    assert all(name.startswith(".broken-") for name in hidden(checkpoints))
    following = save(checkpoints, 9, 2)
    newest = newest_verified(checkpoints, run=RUN).entry
    assert newest is not None
    assert newest.folder == following
    assert is_as_saved(following, 9, 2)


def scenes(folder: Path, prepare: Callable[[Path], object]) -> Iterator[Path]:
    """Fresh copies of the scene, without end; each is gone when the next one is asked for."""
    scene = folder / "checkpoints"
    first = folder / "prepared"
    first.mkdir()
    prepare(first)
    while True:
        shutil.copytree(first, scene, symlinks=True)
        yield scene
        shutil.rmtree(scene)
