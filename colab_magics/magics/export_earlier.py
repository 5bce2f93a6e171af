"""What a run has exported before, and whether it still lies there as it was made: Run All comes by a second time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.manifest import new_hash
from colab_magics.errors import redact
from colab_magics.magics.export_line import Line
from colab_magics.magics.parcel import Part, pieces
from colab_magics.run import Run

LOG = "exports.jsonl"


def keep(run: Run, **told: Any) -> None:
    """Note it in the run's folder, for the report and the next time; an export must not fail of its note."""
    line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **told}
    with suppress(OSError), (run.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(redact(json.dumps(line, ensure_ascii=False)) + os.linesep)


def earlier(run: Run, target: Path) -> Mapping[str, Any] | None:
    """The note of the export of this run that lies there, unchanged since; None where it is anything else."""
    seal = sealed(target)
    try:
        lines = (run.folder / LOG).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for line in reversed(lines):
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and told.get("to") == str(target):
                return told if seal and told.get("seal") == seal else None
    return None


def sealed(path: Path) -> list[list[Any]]:
    """What changes with whatever is changed there: names, sizes and times; empty where it is neither file nor folder.

    The bytes are not read again: a merged model has gigabytes of them.
    """
    if path.is_symlink():
        return []
    try:
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        return [[one.name, status.st_size, status.st_mtime_ns] for one in found for status in [one.lstat()]]
    except OSError:
        return []


def asked_for(parts: Iterable[Part], line: Line, base: str | None) -> str:
    """What an export is made of, as a hash: the same one makes the same export.

    Parameters
    ----------
    base : of a merge; a folder's files count as they are now
    """
    digest = new_hash()
    weights = sorted(Path(base).expanduser().glob("*.safetensors")) if base and Path(base).expanduser().is_dir() else []
    stamps = [seal for one in weights for seal in sealed(one)]
    told = [line.merge, line.gguf, line.dtype, base, line.base_revision, stamps]
    digest.update(json.dumps(told).encode())
    for part in parts:
        digest.update(f"\n{part.name} {part.size}\n".encode())
        for piece in pieces(part):
            digest.update(piece)
    return str(digest.hexdigest())
