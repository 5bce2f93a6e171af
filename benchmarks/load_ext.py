"""What `%load_ext colab_magics` adds to a bare IPython, and that it imports nothing heavy: `make bench`.

Ten fresh processes of each, in turns. The bar is on the medians' difference, as the clock has it; CPU seconds are
printed beside it, because a busy machine stretches the clock.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROCESSES = 10
BAR = 0.060  # seconds
HEAVY = "torch transformers peft trl bitsandbytes datasets pynvml ipywidgets pydantic pandas pyarrow".split()
BARE = "pass"
LOADED = "%load_ext colab_magics"
SEEN = (
    f"%load_ext colab_magics\nimport json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
)


def run(code: str, home: Path, output: Path) -> tuple[float, float]:
    """(clock, CPU) seconds of a fresh IPython that runs `code` and ends."""
    environment = {
        **os.environ,
        "IPYTHONDIR": str(home),
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONDONTWRITEBYTECODE": "",  # an installed package has its byte code
    }
    command = [sys.executable, "-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=NoColor", "-c", code]
    begin = time.perf_counter()
    with output.open("wb") as file:
        pid = os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1)],
        )
        _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"IPython ended with status {status}")
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="load-ext-") as folder:
        home, output = Path(folder), Path(folder) / "output"
        run(LOADED, home, output)  # byte code and history file are made by the first
        bare, loaded = [], []
        for _ in range(PROCESSES):
            bare.append(run(BARE, home, output))
            loaded.append(run(LOADED, home, output))
        if said := output.read_text():
            raise SystemExit(f"%load_ext printed: {said}")
        run(SEEN, home, output)
        seen = json.loads(output.read_text())
    for name, times in (("bare IPython", bare), ("with colab_magics", loaded)):
        clock, cpu = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
        print(f"{name:18s} {clock:6.0f} ms, {cpu:6.0f} ms of CPU (median of {PROCESSES})")
    clock, cpu = (
        statistics.median(a) - statistics.median(b)
        for a, b in zip(zip(*loaded, strict=True), zip(*bare, strict=True), strict=True)
    )
    verdict = "met" if clock <= BAR else "missed"
    print(f"%load_ext adds     {clock * 1000:6.0f} ms, {cpu * 1000:6.0f} ms of CPU  bar {BAR * 1000:.0f} ms: {verdict}")
    print(f"heavy modules imported: {', '.join(seen) or 'none'}")
    if seen:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
