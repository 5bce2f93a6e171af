"""Whole trainings that are killed, and whole checkpoints that are altered: ours and HF Trainer's side by side."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from contenders import Contender, Process, digest, said


@dataclass(frozen=True)
class Uninterrupted:
    """The run that nothing disturbed: its weights, and how long it took from its second checkpoint to its end."""

    weights: str
    seconds: float
    saving_share: float


@dataclass
class Trials:
    """What became of the killed ones."""

    done: int = 0
    unable: Counter[str] = field(default_factory=Counter)
    different: list[int] = field(default_factory=list)
    seconds: float = 0.0


def uninterrupted(contender: Contender, folder: Path) -> Uninterrupted:
    """Train to the end.

    Raises
    ------
    SystemExit
        It does not come to its end.
    """
    contender.prepare(folder)
    process = Process.start(lambda: contender.start(folder), said(folder))
    process.wait(lambda: _can_be_killed(contender, folder))
    begin = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"{contender.name} does not train: {contender.why(folder)}")
    seconds = time.monotonic() - begin
    return Uninterrupted(digest(contender.weights(folder)), seconds, contender.saving_share(folder))


def kill_and_resume(contender: Contender, calm: Uninterrupted, folder: Path, seeds: range) -> Iterator[Trials]:
    """A kill -9 at a random moment after the first whole checkpoint, then a resumption to the end; after each, all."""
    trials = Trials()
    for seed in seeds:
        begin = time.monotonic()
        with _scratch(folder / f"run-{seed}") as run:
            if not _killed(contender, calm, run, seed):
                continue
            code = Process.start(lambda run=run: contender.resume(run), said(run)).wait()
            trials.done += 1
            if code:
                trials.unable[contender.why(run)] += 1
            elif digest(contender.weights(run)) != calm.weights:
                trials.different.append(seed)
        trials.seconds += time.monotonic() - begin
        yield trials


def _killed(contender: Contender, calm: Uninterrupted, run: Path, seed: int) -> bool:
    """Start and kill; a few seconds less or more is a few other moments, so a run that was quicker is begun again."""
    delay = random.Random(seed).random() * calm.seconds
    for _ in range(5):
        shutil.rmtree(run, ignore_errors=True)
        contender.prepare(run)
        process = Process.start(lambda: contender.start(run), said(run))
        if process.wait(lambda: _can_be_killed(contender, run)) is not None:
            raise SystemExit(f"{contender.name} does not train: {contender.why(run)}")
        end = time.monotonic() + delay
        if process.wait(lambda end=end: time.monotonic() >= end) is None:
            process.kill()
            return True
        delay *= 0.9
    return False


def _can_be_killed(contender: Contender, run: Path) -> bool:
    """Once a second checkpoint has been begun, the first one is whole: from then on nothing excuses a lost run."""
    return len(_there(contender, run)) >= 2


def flip_bits(contender: Contender, calm: Uninterrupted, folder: Path) -> Iterator[tuple[str, str]]:
    """One bit of each large file of the newest checkpoint is flipped, an older one is whole; what comes of it."""
    with _scratch(folder / "flipped") as run:
        contender.prepare(run)
        process = Process.start(lambda: contender.start(run), said(run))
        process.wait(lambda: len(_there(contender, run)) >= 4)
        process.kill()
        shutil.rmtree(contender.saved(run)[-1])  # it may be torn, and is not what is asked here
        newest = contender.saved(run)[-1]
        kept = folder / "kept"
        shutil.copytree(run, kept)
        for path in sorted(newest.iterdir(), key=lambda path: -path.stat().st_size)[:2]:
            shutil.rmtree(run)
            shutil.copytree(kept, run)
            data = bytearray(path.read_bytes())
            data[len(data) * 3 // 4 // 4 * 4 + 3] ^= 64  # in the exponent of a 32-bit number
            path.write_bytes(data)
            code = Process.start(lambda: contender.resume(run), said(run)).wait()
            if code:
                yield path.name, f"could not resume: {contender.why(run)}"
            elif digest(contender.weights(run)) == calm.weights:
                yield path.name, f"the weights of the uninterrupted run; {contender.told(run)}"
            else:
                yield path.name, f"OTHER WEIGHTS; {contender.told(run)}"
        shutil.rmtree(kept)


def fill_the_disk(contender: Contender, calm: Uninterrupted, folder: Path, left: int) -> Iterator[str]:
    """Something else takes all but `left` megabytes of the disk while a training saves there; later it goes.

    Yields what comes of it, in lines.
    """
    disk = folder / "disk"
    disk.mkdir()
    with small_disk(disk):
        run = disk / "run"
        contender.prepare(run)
        process = Process.start(lambda: contender.start(run), said(run))
        process.wait(lambda: len(_there(contender, run)) >= 3)
        filler = disk / "filler"
        with filler.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left * 10**6)
        code = process.wait()
        if code:
            yield f"died: {contender.why(run)}"
        yield from contender.complaints(run)
        filler.unlink()
        if code and Process.start(lambda: contender.resume(run), said(run)).wait():
            yield f"with room again, could not resume: {contender.why(run)}"
        else:
            same = digest(contender.weights(run)) == calm.weights
            yield f"ended with {'the' if same else 'OTHER THAN THE'} weights of the uninterrupted run"


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk of 300 MB at the folder `place`.

    Raises
    ------
    OSError
        None can be mounted: that needs Linux and root.
    """
    command = ["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=False)


def _there(contender: Contender, run: Path) -> list[Path]:
    try:
        return contender.saved(run)
    except OSError:
        return []


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    yield folder
    for path in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
