"""The workers that train now, and what each has last told of its memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.run import is_starting, starting_name

_TAIL = 2**18  # bytes of the log: memory is told every 30 s at least, and a step is a line of some 300


@dataclass(frozen=True)
class Worker:
    """A run's worker. Bytes; None is what it has not told.

    Attributes
    ----------
    run : str
        The run's name.
    phase : str
        `loading`, `training, step 12 of 60`.
    allocated, reserved : int, optional
        Of the first GPU that it sees, by torch's allocator.
    rss : int, optional
        Of the host's memory.
    """

    run: str
    phase: str
    allocated: int | None = None
    reserved: int | None = None
    rss: int | None = None


def living(root: Path) -> tuple[Worker, ...]:
    """The workers of the root's runs that are alive, preparing ones included."""
    try:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    except OSError:
        return ()
    return tuple(_read(folder) for folder in folders if _is_run(folder) and worker.is_alive(folder))


def _is_run(folder: Path) -> bool:
    return is_starting(folder) or not folder.name.startswith(".")


def _read(folder: Path) -> Worker:
    name = starting_name(folder) or folder.name
    memory: Mapping[str, Any] = {}
    phase = ""
    for event in _newest(folder / "events.jsonl"):  # backwards
        if not memory and event.get("kind") == "memory":
            memory = event
        phase = phase or _phase(event)
        if memory and phase:
            break
    return Worker(name, phase or "starting", *(_bytes(memory, key) for key in ("allocated", "reserved", "rss")))


def _phase(event: Mapping[str, Any]) -> str:
    match event.get("kind"):
        case "step" if event.get("total_steps"):
            return f"training, step {event.get('step')} of {event['total_steps']}"
        case "step":
            return f"training, step {event.get('step')}"
        case "progress":
            return str(event.get("phase", ""))
        case "stopping":
            return "stopping"
    return ""


def _newest(log: Path) -> Iterator[Mapping[str, Any]]:
    """The log's last events, the newest first; of a long log not all."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return
    for line in reversed(lines):
        with suppress(ValueError):  # the first and the last may be torn
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def _bytes(event: Mapping[str, Any], key: str) -> int | None:
    value = event.get(key)
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**62 else None
