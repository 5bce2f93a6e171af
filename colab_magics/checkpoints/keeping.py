"""Writing a run's checkpoints one after another: each is read back, and what is superfluous goes.

Nothing that a disk does is raised: it is told, and whoever computes goes on.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import Contents, commit, discard
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import Broken, Manifest, folder_name
from colab_magics.checkpoints.marks import newest_confirmed, pinned
from colab_magics.checkpoints.retention import superfluous
from colab_magics.checkpoints.verify import Entry, entries, set_aside, verify

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Writer:
    """Writes the checkpoints of one attempt.

    Parameters
    ----------
    folder : Path
        The run's folder.
    run : str
        The run's id.
    limit : int
        How many are kept, besides those that `retention` never deletes.
    on_event : callable
        Is told what was saved, deleted and could not be, as on_event(kind, **fields).
    parent : str, optional
        The newest of which every byte has been read back.
    """

    folder: Path
    run: str
    limit: int
    on_event: Callable[..., Any]
    parent: str | None = None
    disk: Disk = DISK

    def write(
        self, contents: Callable[[], Contents], manifest: Manifest, told: Mapping[str, Any], need: int
    ) -> int | None:
        """Commit a checkpoint, and delete what is superfluous then; its bytes, or None where it is not there.

        Parameters
        ----------
        contents : callable
            Gives the files' bytes; called once more where the disk was full and room could be made.
        told : mapping
            More fields of the event.
        need : int
            About how many bytes it is of.
        """
        target = self.folder / "checkpoints" / folder_name(manifest.step, manifest.attempt)
        begin = time.perf_counter()
        try:
            if self.parent == target.name:  # the same step once more, with what came after it
                discard(target, run=self.run, disk=self.disk)
                self.parent = None
            try:
                whole = self._commit(target, contents, manifest)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                # a full disk: what a shorter list of checkpoints would not keep goes first, then once more
                self.prune(limit=1)
                whole = self._commit(target, contents, manifest)
        except Exception as error:  # whatever it is: a thread that dies of it says nothing
            if isinstance(error, Broken):  # a quick look would take it for whole
                with suppress(OSError):
                    set_aside(Entry(target, manifest.step, manifest.attempt, None), disk=self.disk)
            self.on_event("checkpoint", action="failed", step=manifest.step, message=self._why(error, need))
            return None
        self.parent = target.name
        seconds = time.perf_counter() - begin
        saved = {"name": target.name, "step": manifest.step, "bytes": whole.size, "seconds": seconds}
        self.on_event("checkpoint", action="saved", **saved, **told)
        self.prune(limit=self.limit)
        return whole.size

    def _commit(self, target: Path, contents: Callable[[], Contents], manifest: Manifest) -> Manifest:
        whole = commit(target, contents(), manifest, disk=self.disk)
        verify(target, disk_cache=False)
        return whole

    def prune(self, *, limit: int) -> None:
        """Delete what is superfluous."""
        found = entries(self.folder / "checkpoints", run=self.run)
        confirmed, pins = newest_confirmed(self.folder), pinned(self.folder)
        for entry in superfluous(found, limit=limit, verified=self.parent, confirmed=confirmed, pinned=pins):
            try:
                discard(entry.folder, run=self.run, disk=self.disk)
            except (OSError, Broken) as error:
                self.on_event("warning", message=f"checkpoint {entry.name} could not be deleted: {error}")
            else:
                self.on_event("checkpoint", action="deleted", name=entry.name, step=entry.step)

    def _why(self, error: Exception, need: int) -> str:
        if isinstance(error, Broken):
            return f"what was read back is not what was written: {error}"
        if not isinstance(error, OSError):
            return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        why = error.strerror or str(error)
        if error.errno in _FULL:
            with suppress(OSError):
                free = shutil.disk_usage(self.folder).free
                why += f": it needs {need:,} bytes, and {free:,} are free"
        return why
