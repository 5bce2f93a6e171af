"""`%checkpoint fetch`: a run from the durable store into the root."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from colab_magics import worker
from colab_magics.checkpoints.places import VARIABLE
from colab_magics.errors import ColabMagicsError, clean, nearest, redact
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.checkpoint_survey import survey
from colab_magics.magics.durable import replica_of
from colab_magics.panel import words
from colab_magics.run import Run

_INTERVAL = 0.5  # seconds between two lines of progress


def bring(line: Line, root: Path, replica: str, said: Callable[[str], None]) -> str:
    """Fetch the run that the line names, or the only one that the replica holds; what came, in a few lines.

    Raises
    ------
    ColabMagicsError
        No replica is named or it does not answer, it holds no such run, or a worker is alive on the run here.
    """
    where = _place_of(line, root, replica)
    from colab_magics.checkpoints.remote import fetch, look
    from colab_magics.checkpoints.stores import shown

    held = {found.name: found for found in look(where)}
    if line.run is None and len(held) != 1:
        raise _which(shown(where), list(held))
    name = line.run or next(iter(held))
    if name not in held:
        raise _none_called(name, shown(where), list(held))
    if worker.is_alive(root / name):
        raise ColabMagicsError(
            f"{name} is being trained here.",
            "What it saves here is newer than what the replica holds.",
            f"%checkpoint list {name} shows what there is.",
        )
    said(f"Fetching {name} from {shown(where)}.")
    came = fetch(where, name, root, progress=Progress())
    step = f"step {came.step:,}" if came.checkpoint is not None else "no whole checkpoint"
    lines = [f"Fetched {name}, {step}, {words.size(came.bytes)}: {came.folder}"]
    lines += [f"Skipped {one}: {reason}" for one, reason in came.skipped]
    lease = held[name].lease
    if lease is not None:
        lines.append(f"Warning: it may still be trained elsewhere ({lease.holder}).")
    return redact(clean("\n".join([*lines, survey(Run(came.folder)).resume])))


def _place_of(line: Line, root: Path, configured: str) -> str:
    """Where to fetch from: what the line says, else where a run of that name would be copied to.

    Raises
    ------
    ColabMagicsError
        Nobody says where.
    """
    where = line.source or replica_of(_recipe_replica(line, root), configured)
    if where is None:
        raise ColabMagicsError(
            "No replica is named.",
            "A run is fetched from the place to which it was copied.",
            "Name it: %checkpoint fetch --from WHERE, a folder or a URL such as s3://bucket/runs.",
            f"Or set it for all: %config CheckpointMagics.replica = 'WHERE', or {VARIABLE}.",
        )
    return where


def _recipe_replica(line: Line, root: Path) -> str | None:
    if line.run is None:
        return None
    try:
        return Run(root / line.run).recipe.replica
    except (OSError, ColabMagicsError):
        return None


def _which(where: str, names: list[str]) -> ColabMagicsError:
    if not names:
        return ColabMagicsError(
            f"There is no run in {where}.",
            "A run is copied there if its recipe says replica:, from its first checkpoint on.",
            "Name another place with --from.",
        )
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return ColabMagicsError(
        f"There are {len(names)} runs in {where}.", f"They are {shown}.", f"Name one: %checkpoint fetch {names[0]}."
    )


def _none_called(name: str, where: str, names: list[str]) -> ColabMagicsError:
    close = nearest(name, names)
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return ColabMagicsError(
        f"There is no run called {name!r} in {where}.",
        f"There is {shown}." if names else "There is no run at all.",
        f"Did you mean {close}?" if close else "Name another place with --from.",
    )


class Progress:
    """One line that is written again and again in its place; in a file or a pipe, nothing."""

    def __init__(self) -> None:
        self._at, self._width = float("-inf"), 0

    def __call__(self, done: int, total: int) -> None:
        last = done >= total
        if (not last and time.monotonic() - self._at < _INTERVAL) or not _redraws():
            return
        now = f"{words.size(done)} of {words.size(total)}"
        end = "\n" if last else ""
        sys.stdout.write("\r" + now.ljust(self._width) + end)
        sys.stdout.flush()
        self._at, self._width = time.monotonic(), len(now)


def _redraws() -> bool:
    """A terminal does, and so does a notebook's output."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules
