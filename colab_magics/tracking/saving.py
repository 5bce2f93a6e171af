"""When the checkpoint of a tracked loop is taken, and how: a copy in the loop's own thread, all else beside it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import Contents, sweep
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.interval import Every
from colab_magics.checkpoints.keeping import Writer
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.tensors import Tensor, laid_out, read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.session.deadline import EarlySave
from colab_magics.tracking import arrays
from colab_magics.tracking.state import encoded
from colab_magics.tracking.values import MARK, Encoder, decode

STATE, REST = "state.json", "state.safetensors"
_OWN_FILE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")


def contents_of(state: Mapping[str, Any], progress: Any, random: Any, tensors: Mapping[str, Any]) -> Contents:
    """The files of a checkpoint: one with the tensors of each module, one with all others, and the rest as JSON."""
    files: dict[str, dict[str, Tensor]] = {REST: {}}
    for key, one in tensors.items():
        entry, _, inner = key.partition("/")
        told = state.get(entry)
        own = isinstance(told, dict) and told.get(MARK) == "module" and _OWN_FILE.fullmatch(entry) and entry != "state"
        files.setdefault(f"{entry}.safetensors" if own else REST, {})[inner if own else key] = arrays.buffer(one)
    told = {"version": 1, "kind": "tracked", "state": state, "progress": progress, "random": random}
    return {
        **{name: laid_out(held, {"format": "pt"}) for name, held in files.items()},
        STATE: [(json.dumps(told, allow_nan=False) + "\n").encode()],
    }


@dataclass(frozen=True)
class Saved:
    """What a checkpoint's folder holds, read but not yet put anywhere."""

    state: Mapping[str, Any]
    progress: Any
    random: Any
    tensors: Mapping[str, Tensor]

    @staticmethod
    def read(folder: Path) -> Saved:
        """Of a checkpoint whose bytes have been verified.

        Raises
        ------
        ColabMagicsError
            It is none of a tracked loop, or of a version that knew more.
        """
        told = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if told.get("kind") != "tracked" or told.get("version") != 1:
            raise ColabMagicsError(
                f"{folder.name} is no checkpoint of a loop of one's own.",
                f"It is in {folder.parent.parent}, a run of %%finetune or of a newer colab_magics.",
                "Give this loop another name.",
            )
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            prefix = "" if path.name == REST else f"{path.stem}/"
            tensors |= {prefix + name: one for name, one in read_tensors(path).items()}
        progress, random = (decode(told[part], tensors) for part in ("progress", "random"))
        return Saved(told["state"], progress, random, tensors)


@dataclass
class Saver:
    """Takes a tracked run's checkpoints.

    Parameters
    ----------
    folder, run, attempt : whose they are
    every, limit : `save_every` and `save_total_limit`
    facts : mapping
        What every manifest tells besides step and metrics.
    on_event : callable
        on_event(kind, **fields); called from the writing thread too.
    left : callable
        Seconds until the session's end; None where nobody knows.
    """

    folder: Path
    run: str
    attempt: int
    every: Every
    limit: int
    facts: Mapping[str, Any]
    on_event: Callable[..., Any]
    left: Callable[[], float | None] = lambda: None
    parent: str | None = None
    clock: Callable[[], float] = time.monotonic
    disk: Disk = DISK
    stalls: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        checkpoints = self.folder / "checkpoints"
        if checkpoints.is_symlink():
            raise ColabMagicsError(
                f"{checkpoints} is a symbolic link, and no checkpoint is written through one.",
                "What it names may hang, vanish, or be somebody else's.",
                "Make it a real folder. For a copy elsewhere, say replica=WHERE.",
            )
        checkpoints.mkdir(exist_ok=True)
        sweep(checkpoints, disk=self.disk)
        self._writer = Writer(self.folder, self.run, self.limit, self.on_event, self.parent, self.disk)
        self._copies = arrays.HostCopies()
        self._writing: threading.Thread | None = None
        self._last = self.clock()
        self._early = EarlySave()
        self._saved_step = -1

    @property
    def newest(self) -> str | None:
        """The name of the newest checkpoint that was read back; None before the first."""
        return self._writer.parent

    def due(self, step: int, *, asked: bool) -> str | None:
        """Why a checkpoint is to be taken now; None where it is not.

        Parameters
        ----------
        asked : bool
            A person has asked for one.
        """
        if asked:
            return "save"
        if self._early.is_due(self.left()):
            return "deadline"
        if self.every.steps is not None:
            return "steps" if step % self.every.steps == 0 and step != self._saved_step else None
        busy = self._writing is not None and self._writing.is_alive()
        return "interval" if not busy and self.clock() - self._last >= self.interval else None

    @property
    def interval(self) -> float:
        """Seconds between two saves, where none are given in steps."""
        return self.every.interval(self.stalls)

    def save(
        self, reason: str, step: int, state: Mapping[str, Any], progress: Any, random: Any, facts: Mapping[str, Any]
    ) -> None:
        """Take a checkpoint; returns when all is copied.

        One that is there of the same step stays, unless it is the last of a loop that has ended.
        """
        if reason in ("save", "finished", "stopped", "deadline"):  # somebody waits for what comes of the one before
            self.wait()
        if self._saved_step == step and reason != "finished":
            if reason == "save":
                self.on_event("checkpoint", action="saved", name=self.newest, step=step, reason=reason)
            return
        begin = time.perf_counter()
        self.wait()  # the host's copy is that of the save before, until it is written
        try:
            told, live = encoded(state)
            encoder = Encoder()
            rest = [
                encoder.encode(one, name, f"{MARK}{name}") for name, one in (("progress", progress), ("random", random))
            ]
            copied = self._copies.of({**live, **encoder.tensors})
        except (MemoryError, RuntimeError, ColabMagicsError) as error:  # the host's memory is full, or a new object
            message = error.what if isinstance(error, ColabMagicsError) else str(error).partition("\n")[0]
            self.on_event("checkpoint", action="failed", step=step, message=f"it could not be copied: {message}")
            self._last = self.clock()
            return
        now = self.clock()
        since, self._last, self._saved_step = now - self._last, now, step
        stall = time.perf_counter() - begin
        self.stalls.append(stall)
        manifest = Manifest(
            "checkpoint",
            self.run,
            {},
            step,
            self.attempt,
            {
                **self.facts,
                **facts,
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "reason": reason,
                "parent": self.newest,
            },
        )
        event = {
            "reason": reason,
            "stall": stall,
            "stall_share": stall / since if since > 0 else None,
            "every": self.interval if self.every.steps is None else None,
        }

        def write() -> None:
            need = sum(map(arrays.size, copied.values()))
            written = self._writer.write(lambda: contents_of(told, rest[0], rest[1], copied), manifest, event, need)
            if written is None:
                self._saved_step = -1

        self._writing = threading.Thread(target=write, name="checkpoint")
        try:
            self._writing.start()
        except RuntimeError:  # no room for its stack: the loop waits for the disk then
            self._writing = None
            write()

    def wait(self) -> None:
        """Until what is being written is written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
