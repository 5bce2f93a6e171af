"""`%checkpoint verify`, `prune`, `pin` and `unpin`: looking after what was saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from colab_magics import worker
from colab_magics.checkpoints.commit import discard, sweep
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import Broken, folder_name
from colab_magics.checkpoints.marks import PINS, newest_confirmed, pinned
from colab_magics.checkpoints.retention import superfluous
from colab_magics.checkpoints.verify import Entry, newest_verified, verify
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.checkpoint_survey import chosen, found_in, no_checkpoint
from colab_magics.panel import words
from colab_magics.run import Run

Said = Callable[[str], None]


def check(run: Run, *, full: bool, said: Said) -> str:
    """Look at every checkpoint, and at the prepared data; the verdict, and what to do next.

    Parameters
    ----------
    full : bool
        Hash every byte, past the system's cache; otherwise names, sizes and manifests are compared.
    said : function
        Shows each one's line at once.

    Raises
    ------
    ColabMagicsError
        None of them can be used.
    """
    found = found_in(run)
    if not found:
        raise no_checkpoint(run)
    good: list[Entry] = []
    broken: list[str] = []
    good_word = "whole" if full else "sizes agree"
    for entry in found:
        reason = entry.broken or (_reason(entry.folder, run) if full else "")
        if reason and not entry.folder.exists():
            continue  # its worker has deleted it meanwhile
        if reason:
            broken.append(f"step {entry.step}: {reason}")
        else:
            good.append(entry)
        size = words.size(entry.manifest.size) if entry.manifest is not None and not reason else ""
        said(f"{entry.name}  {f'broken: {reason}' if reason else f'{good_word}, {size}'}")
    for split in ("train", "eval"):
        folder = run.folder / "prepared" / split
        if folder.is_dir():
            reason = _reason(folder, run, full=full)
            said(f"prepared data ({split})  {f'broken: {reason}' if reason else good_word}")
    if not good:
        raise ColabMagicsError(
            f"No checkpoint of {run.name} can be used.",
            "Each one differs from what was committed.",
            f"%checkpoint fetch {run.name} brings one from the replica, if there is one.",
            details=broken,
        )
    return _verdict(run, good, broken, full=full)


def _reason(folder: Path, run: Run, *, full: bool = True) -> str:
    """How the folder is broken; empty if it is whole."""
    try:
        verify(folder, full=full, run=run.id or None, disk_cache=False)
    except Broken as broken:
        return str(broken)
    return ""


def _verdict(run: Run, good: list[Entry], broken: list[str], *, full: bool) -> str:
    total = len(good) + len(broken)
    how = "every byte is as it was committed" if full else "names, sizes and manifests agree"
    if broken:
        which = "1 is broken" if len(broken) == 1 else f"{len(broken)} are broken"
        lines = [
            f"Warning: of {total} checkpoints of {run.name} {which}.",
            f"A resume skips what is broken, keeps it aside, and uses step {good[0].step:,}.",
        ]
    else:
        what = "The checkpoint" if total == 1 else f"All {total} checkpoints"
        lines = [f"{what} of {run.name} {'is' if total == 1 else 'are'} {'whole' if full else 'as expected'}: {how}."]
    if not full:
        lines.append(f"No byte was hashed: %checkpoint verify {run.name} --full does that.")
    return "\n".join(lines)


def prune(run: Run, *, keep: int | None, dry_run: bool, disk: Disk = DISK) -> str:
    """Delete what the retention rule does not keep, after the newest has been verified.

    Raises
    ------
    ColabMagicsError
        A worker is alive: it prunes by itself. Or none is whole: then nothing may be deleted.
    """
    if dry_run:
        return _prune(run, keep, None)
    # held meanwhile, so that no worker starts to read what is being deleted
    try:
        lock = worker.hold_lock(run.folder) if not worker.is_alive(run.folder) else None
    except OSError as error:
        raise ColabMagicsError(
            f"Nothing of {run.name} can be deleted.",
            error.strerror or str(error),
            f"%checkpoint prune {run.name} --dry-run shows what could go.",
        ) from None
    if lock is None:
        raise ColabMagicsError(
            f"{run.name} is being trained, and its worker prunes by itself.",
            "Two that delete at once could delete what the other has just counted on.",
            f"%checkpoint prune {run.name} --dry-run shows what could go.",
        )
    try:
        sweep(run.checkpoints, disk=disk)
        return _prune(run, keep, disk)
    finally:
        os.close(lock)


def _prune(run: Run, keep: int | None, disk: Disk | None) -> str:
    """Delete on `disk`; without one, only say what would be deleted."""
    found = found_in(run)
    if not found:
        raise no_checkpoint(run)
    newest = newest_verified(run.checkpoints, run=run.id or None).entry
    if newest is None:
        raise ColabMagicsError(
            f"No checkpoint of {run.name} is whole, so none is deleted.",
            "What is kept must be known to be good first.",
            f"%checkpoint verify {run.name} --full says what is wrong with each.",
        )
    limit = _save_total_limit(run) if keep is None else keep
    going = superfluous(
        found,
        limit=limit,
        verified=newest.name,
        confirmed=newest_confirmed(run.folder),
        pinned=pinned(run.folder),
    )
    if not going:
        return f"Nothing to delete: {run.name} keeps {_counted(len(found))}."
    lines, freed, gone = [], 0, 0
    for entry in going:
        size = entry.manifest.size if entry.manifest is not None else 0
        try:
            if disk is not None:
                discard(entry.folder, run=run.id, disk=disk)
        except (OSError, Broken) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            lines.append(f"Warning: step {entry.step:,} could not be deleted: {reason}.")
            continue
        lines.append(f"step {entry.step:,}  {words.size(size)}")
        freed, gone = freed + size, gone + 1
    told = "Would delete" if disk is None else "Deleted"
    return "\n".join([*lines, f"{told} {_counted(gone)}, {words.size(freed)}; {run.name} keeps {len(found) - gone}."])


def _save_total_limit(run: Run) -> int:
    told = [event.get("save_total_limit") for event in run.events() if event["kind"] == "started"]
    if run.is_own_loop and isinstance(told[-1], int):
        return max(1, told[-1])
    try:
        return run.recipe.save_total_limit
    except (OSError, ColabMagicsError):
        raise ColabMagicsError(
            f"The recipe of {run.name} cannot be read.",
            "It says how many checkpoints are kept.",
            f"Say it here: %checkpoint prune {run.name} --keep 2.",
        ) from None


def _counted(number: int) -> str:
    return f"{number} checkpoint{'' if number == 1 else 's'}"


def pin(run: Run, line: Line) -> str:
    """Keep a checkpoint, whatever the retention rule says."""
    entry = chosen(run, line)
    if entry.name in pinned(run.folder):
        return f"Step {entry.step:,} of {run.name} is pinned already."
    with _changing_pins(entry.step):
        (run.folder / PINS).mkdir(exist_ok=True)
        (run.folder / PINS / entry.name).touch()
    return f"Pinned step {entry.step:,} of {run.name}: it is kept until %checkpoint unpin {entry.step} {run.name}."


def unpin(run: Run, line: Line) -> str:
    """Leave a checkpoint to the retention rule again; also a pin whose checkpoint is gone."""
    names = [name for name in sorted(pinned(run.folder)) if _is_meant(name, line)]
    if not names:
        entry = chosen(run, line)
        return f"Step {entry.step:,} of {run.name} is not pinned."
    with _changing_pins(line.step or 0):
        for name in names:
            (run.folder / PINS / name).unlink(missing_ok=True)
    return f"Step {line.step or 0:,} of {run.name} is no longer pinned; the next prune may delete it."


@contextmanager
def _changing_pins(step: int) -> Iterator[None]:
    """Turns a disk that refuses into words."""
    try:
        yield
    except OSError as error:
        raise ColabMagicsError(
            f"The pin of step {step} could not be changed.",
            error.strerror or str(error),
            "Make room on the run's disk, or make it writable.",
        ) from None


def _is_meant(name: str, line: Line) -> bool:
    step = f"{line.step or 0:08d}-a"
    return name.startswith(step) if line.attempt is None else name == folder_name(line.step or 0, line.attempt)
