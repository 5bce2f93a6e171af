"""From pressing the cell to the first step on the demo model, and what the time goes into: `make bench`.

A fresh IPython, a real `%%finetune` cell, a real worker; the parts are read from the run's own event log. With an
empty cache (tokens, probe and packing are found out) and with a filled one (the second run of a day).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = REPOSITORY / "colab_magics" / "demo" / "pirate.jsonl"
RUNS = 3
CELL = """
import time
from IPython.terminal.interactiveshell import TerminalInteractiveShell

shell = TerminalInteractiveShell.instance()
shell.run_line_magic("load_ext", "colab_magics")
pressed, cpu = time.time(), time.process_time()
result = shell.run_cell('''%%finetune {name} --root {root}
model: demo
data: {rows}
max_steps: 2
''', store_history=False)
print("pressed", pressed, (time.process_time() - cpu) / (time.time() - pressed))
raise SystemExit(0 if result.success else 1)
"""
PARTS = (
    ("the cell, until the worker's Python runs", "started"),
    ("imports of torch and transformers", "imports"),
    ("data, and the import of the model's code", "data"),
    ("plan, with its probe", "plan"),
    ("import of peft, weights, adapter", "model"),
    ("packing or sorting, settled", "training"),
    ("the first step", "step"),
)


def run(folder: Path, name: str) -> dict[str, float]:
    """Seconds of each part of one run, and of `total`; `following` is the share of a core that the kernel took."""
    environment = {**os.environ, "COLAB_MAGICS_CACHE": str(folder / "cache"), "IPYTHONDIR": str(folder)}
    environment["PYTHONPATH"] = str(REPOSITORY)
    code = CELL.format(name=name, root=folder / "runs", rows=ROWS)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    said = next(line for line in done.stdout.splitlines() if line.startswith("pressed"))
    pressed, following = map(float, said.split()[1:])
    marks = _marks(folder / "runs" / name / "events.jsonl")
    parts, before = {}, pressed
    for _, mark in PARTS:
        parts[mark] = marks[mark] - before
        before = marks[mark]
    return {**parts, "total": before - pressed, "following": following}


def _marks(path: Path) -> dict[str, float]:
    """When each part ended: the first event that says so."""
    marks: dict[str, float] = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        kind = event["kind"]
        if kind == "progress":  # a phase begins when the one before has ended
            kind = {"importing": "started", "training": "training"}.get(event["phase"], "imports")
        marks.setdefault(kind, datetime.fromisoformat(event["time"]).timestamp())
    return marks


def main() -> None:
    cold, warm = [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory(prefix="startup-") as folder:
            cold.append(run(Path(folder), "first"))
            warm.append(run(Path(folder), "second"))
    print(f"from pressing the cell to the first step, demo model, LoRA (medians of {RUNS}; seconds)")
    print(f"  {'':44s}{'empty cache':>12s}{'filled cache':>14s}")
    for title, mark in (*PARTS, ("in all", "total")):
        figures = [statistics.median(parts[mark] for parts in runs) for runs in (cold, warm)]
        print(f"  {title:44s}{figures[0]:12.2f}{figures[1]:14.2f}")
    following = statistics.median(parts["following"] for parts in cold + warm)
    print(f"  the kernel that follows the run takes {following:.1%} of a core")
    print(f"  (load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
