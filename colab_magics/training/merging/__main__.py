"""Merge one adapter into its base, as a process of its own: a request in JSON on stdin, its course in lines of JSON.

Every way out is a line: `merged` with what was made, or `error`. Interrupted or killed it leaves a folder that nobody
has given its name yet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from colab_magics.errors import ColabMagicsError

DTYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
_EVERY = 0.2  # seconds between two lines of progress


def main() -> None:
    request = json.load(sys.stdin)
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries say what they like: their words go to stderr
    try:
        _say(lines, merged=merge(request, Report(lines)))
    except ColabMagicsError as error:
        _say(lines, error=error.to_dict())
    except OSError as error:
        lost = ColabMagicsError("The merge could not be written.", error.strerror or str(error), "Nothing was left.")
        _say(lines, error=lost.to_dict())
    os._exit(0)  # some libraries' threads would hold up the interpreter's end


class Report:
    """Tells how far it is, not more than five times a second."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines
        self._last = ("", 0.0)

    def say(self, sentence: str) -> None:
        _say(self._lines, said=sentence)

    def of(self, phase: str) -> Callable[[int, int], None]:
        """What to call with the bytes done and all of a phase."""

        def report(done: int, total: int) -> None:
            now = time.monotonic()
            if self._last[0] != phase or done == total or now - self._last[1] >= _EVERY:
                self._last = (phase, now)
                _say(self._lines, phase=phase, done=done, total=total)

        return report


def _say(lines: TextIO, **fields: Any) -> None:
    lines.write(json.dumps(fields) + "\n")
    lines.flush()


def merge(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """What was asked: `adapter` and `into` (folders), `dtype`, `base`, `revision`, `copies`; returns what was made."""
    from colab_magics.training.merging.base import Wish, bring_weights, find_base
    from colab_magics.training.merging.changes import read_adapter
    from colab_magics.training.merging.layout import lay_out

    begun = time.monotonic()
    into = Path(request["into"])
    adapter = read_adapter(Path(request["adapter"]))
    base = find_base(adapter, Wish(request["base"], request["revision"]), report.say)
    # a merge into 16 bit is half as large as a base in fp32
    least = int(request["copies"] * base.bytes / 2)
    bring_weights(base, report.of("downloading"), into=into, least=least)
    layout = lay_out(adapter, base.weights, DTYPES.get(request["dtype"]), model=base.id)
    # torch comes now that nothing can be refused but for the disk
    from colab_magics.training.merging.writing import check_disk, merged_config, write

    merged_config(base, layout)  # what it refuses is refused before anything is written
    check_disk(layout, into, request["copies"])
    write(layout, base, into, report.of("merging"))
    return {
        "base": base.id,
        "revision": base.revision,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == layout.dtype),
        "untied": layout.untied,
        "bytes": layout.size,
        "files": [shard.name for shard in layout.shards],
        "seconds": time.monotonic() - begun,
        "memory": _memory(),
    }


def _memory() -> dict[str, int]:
    """Bytes that this process had at the most, and those of mapped files that it has now; empty where not known."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {name: int(told[key].split()[0]) * 1024 for name, key in (("peak", "VmHWM"), ("files", "RssFile"))}


if __name__ == "__main__":
    main()
