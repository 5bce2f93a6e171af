"""A run's event log: one JSON object a line, appended by the worker, followed by everybody else."""

from __future__ import annotations

import json
import math
import os
import threading
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.errors import redact

Event = dict[str, Any]

KINDS = frozenset(
    "started progress data model plan step eval memory checkpoint replica warning oom recovered "
    "resumed stopping finished failed".split()
)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null, and a reader shows n/a."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class EventLog:
    """Appends events to `path`; the only thing by which the worker tells the notebook anything.

    The file is opened once, with O_APPEND, and each event is one write: the folder may be renamed under it
    (it is, when the preflight has passed), and two writers never mix their lines. What a full or failing disk does not
    take is kept, and comes before the next event: the training must not die of its log.
    """

    def __init__(self, path: Path, attempt: int) -> None:
        self.attempt = attempt
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        # a line that the attempt before was killed in would swallow our first one
        self._unwritten: list[bytes] = [b"\n"] if _is_torn(path) else []
        # a signal's handler may append in the middle of an append
        self._lock = threading.RLock()

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event of `kind`; times in seconds, memory in bytes."""
        self.written(kind, **fields)

    def written(self, kind: str, **fields: Any) -> Event:
        """The same, and what was written."""
        if kind not in KINDS:
            raise ValueError(f"unknown event kind {kind!r}")
        event = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "kind": kind,
            "attempt": self.attempt,
            **fields,
        }
        try:
            line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        except ValueError:
            line = json.dumps(_finite(event), ensure_ascii=False, allow_nan=False)
        with self._lock:
            self._unwritten.append((redact(line) + "\n").encode())
            with suppress(OSError):
                while self._unwritten:
                    first = self._unwritten.pop(0)
                    rest = first
                    try:
                        rest = first[os.write(self._fd, first) :]
                    finally:
                        if rest:  # half a line, where half of it was taken
                            self._unwritten.insert(0, rest)
        return event

    def close(self) -> None:
        os.close(self._fd)


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


class EventReader:
    """Reads what has been appended since the last call.

    The log is opened once and kept open, so a rename of the folder goes unnoticed. A torn last line waits for
    its rest; a line that is no JSON object, or of a kind we do not know, is skipped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._rest = b""

    @property
    def is_open(self) -> bool:
        """Whether the log was there when it was last read; from then on its folder may be renamed."""
        return self._file is not None

    def read(self) -> list[Event]:
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                return []
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [event for line in lines if (event := _parse(line)) is not None]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("kind") in KINDS else None


def read_events(path: Path) -> list[Event]:
    """All events of the log at `path`; none if there is no log."""
    reader = EventReader(path)
    try:
        return reader.read()
    finally:
        reader.close()
