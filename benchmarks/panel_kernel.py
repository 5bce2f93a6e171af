"""What the panel costs the kernel, and how large its frames are: `make bench`. The worker's half is panel.py.

A real kernel follows a log that grows by a step every 0.4 s (Llama 1B with LoRA on a T4) of a clock that is set, so
that minutes take seconds. Reading, folding, drawing and sending are real, and their time on the processor is measured,
in all threads of the kernel. transformers' NotebookProgressCallback is told the same steps at the same times, in the
same kind of kernel.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STEP = 0.4  # seconds
POLL = 0.1  # seconds between two looks at the log
BAR = 0.005  # of a step's time
MOST = 20_000  # bytes of a frame
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass
class Sent:
    """What a kernel publishes for display, in bytes a message."""

    sizes: list[int] = field(default_factory=list)

    def watch(self) -> None:
        from IPython import get_ipython

        publisher = get_ipython().display_pub
        publish = publisher.publish

        def counted(data: Any, *arguments: Any, **more: Any) -> Any:
            self.sizes.append(len(json.dumps(data, ensure_ascii=False).encode()))
            return publish(data, *arguments, **more)

        publisher.publish = counted


def event(step: int, total: int, kind: str = "step", **fields: Any) -> dict[str, Any]:
    """An event as the worker writes it."""
    at = (BEGIN + timedelta(seconds=step * STEP)).isoformat(timespec="milliseconds")
    return {"time": at, "kind": kind, "attempt": 1, "step": step, "total_steps": total, **fields}


def step_event(step: int, total: int, chance: random.Random) -> dict[str, Any]:
    memory = {"allocated": 5 * 2**30, "reserved": 6 * 2**30, "peak": 7 * 2**30}
    loss = 2 * (1 + step) ** -0.2 + chance.gauss(0, 0.1)
    return event(step, total, loss=loss, learning_rate=2e-4, tokens=2048 * step, tokens_per_second=5120.0, **memory)


def ours(steps: int, folder: Path) -> dict[str, float]:
    """Seconds in our code for so many steps, in all and in the first minute; and the bytes of a frame."""
    from colab_magics import worker
    from colab_magics.magics.display import Notebook, Panel
    from colab_magics.magics.follow import Follower
    from colab_magics.panel.state import PanelState

    folder.mkdir()
    clock, sent, chance = SimpleNamespace(now=0.0), Sent(), random.Random(0)
    sent.watch()
    process = subprocess.Popen(["sleep", "3600"])  # stands for the worker: it is alive
    follower = Follower(folder, 1, process=process, state=PanelState(name="run"))
    panel = Panel(Notebook(as_html=True), clock=lambda: clock.now)
    spent = first_minute = 0.0
    with (folder / "events.jsonl").open("w") as log:
        done = 0
        for look in range(round(steps * STEP / POLL) + 1):
            clock.now = look * POLL
            while done < min(steps, int(clock.now / STEP)):
                done += 1
                log.write(json.dumps(step_event(done, steps, chance)) + "\n")
            log.flush()
            begin = time.process_time()
            follower.alive()
            follower.read()
            worker.Control(folder).take("detach")
            panel.update(follower.state)
            spent += time.process_time() - begin
            if clock.now < 60:
                first_minute = spent
    follower.close()
    process.kill()
    process.wait()
    return {"spent": spent, "first_minute": first_minute, "frames": len(sent.sizes), "largest": max(sent.sizes)}


def theirs(steps: int, every: int) -> dict[str, float]:
    """The same steps told to NotebookProgressCallback, which logs the loss `every` so many."""
    from transformers import IntervalStrategy, TrainerState
    from transformers.utils import notebook

    clock, sent, chance = SimpleNamespace(now=0.0), Sent(), random.Random(0)
    sent.watch()
    notebook.time = SimpleNamespace(time=lambda: clock.now)
    callback = notebook.NotebookProgressCallback()
    arguments = SimpleNamespace(eval_strategy=IntervalStrategy.NO)
    state = TrainerState(max_steps=steps, num_train_epochs=1)
    spent = 0.0
    for step in range(steps + 1):
        clock.now, state.global_step, state.epoch = step * STEP, step, step / steps
        loss = step_event(step, steps, chance)["loss"]
        begin = time.process_time()
        if step == 0:
            callback.on_train_begin(arguments, state, None)
        else:
            callback.on_step_end(arguments, state, None)
            if step % every == 0:
                callback.on_log(arguments, state, None, logs={"loss": loss})
        spent += time.process_time() - begin
    return {"spent": spent, "frames": len(sent.sizes), "largest": max(sent.sizes)}


def frame_bytes(steps: int) -> int:
    """The frame after so many steps, both forms."""
    from colab_magics.magics.display import bundle
    from colab_magics.magics.moments import now_at
    from colab_magics.panel.state import PanelState

    chance = random.Random(0)
    state = PanelState(name="run").fold_all(step_event(step, steps, chance) for step in range(1, steps + 1))
    return len(json.dumps(bundle(state, now_at(state)), ensure_ascii=False).encode())


def in_kernel(code: str, folder: Path) -> Any:
    """What `code` gives in a fresh kernel, where this file is imported as a module."""
    from jupyter_client.manager import start_new_kernel

    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1])])}
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(folder), env=environment, stderr=subprocess.DEVNULL
    )
    try:
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])
            elif message["msg_type"] == "error":
                raise SystemExit("\n".join(message["content"]["traceback"]))

        source = f"import json, panel_kernel\nfrom pathlib import Path\nprint(json.dumps({code}))"
        client.execute_interactive(source, timeout=600, output_hook=hear)
        return json.loads("".join(said).splitlines()[-1])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="panel-") as scratch:
        folder = Path(scratch)
        short = in_kernel("panel_kernel.ours(500, Path('short'))", folder)
        long = in_kernel("panel_kernel.ours(5000, Path('long'))", folder)
        same = in_kernel("panel_kernel.theirs(500, 1)", folder)
        default = in_kernel("panel_kernel.theirs(500, 500)", folder)
        sizes = {steps: in_kernel(f"panel_kernel.frame_bytes({steps})", folder) for steps in (50, 50_000)}
    print(f"kernel time, in share of a step of {STEP} s       share  messages  largest")
    rows = [
        ("our panel, 500 steps", short["spent"] / (500 * STEP), short),
        ("our panel, 5,000 steps", long["spent"] / (5000 * STEP), long),
        ("NotebookProgressCallback, 500 steps, loss each", same["spent"] / (500 * STEP), same),
        ("NotebookProgressCallback, loss every 500 (default)", default["spent"] / (500 * STEP), default),
    ]
    for name, share, measured in rows:
        print(f"{name:50s} {share:7.3%} {measured['frames']:8.0f} {measured['largest'] / 1000:8.1f} kB")
    worst = long["first_minute"] / 60
    met = max(rows[0][1], rows[1][1], worst) <= BAR and max(*sizes.values(), long["largest"]) < MOST
    print(f"our panel in its first minute, two frames a second {worst:7.3%}")
    print("a frame of ours: " + ", ".join(f"{size / 1000:.1f} kB at {steps:,} steps" for steps, size in sizes.items()))
    print(f"bars: {BAR:.1%} of step time, {MOST / 1000:.0f} kB a frame: {'met' if met else 'missed'}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
