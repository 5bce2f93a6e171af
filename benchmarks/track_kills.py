"""Loops of one's own that are killed at random moments and run again: `python benchmarks/track_kills.py --kills 500`.

The loop is plain PyTorch in two phases, as a person would write it: a fixed-point phase that stops when it has
converged, then epochs over a shuffled loader, with dropout, a schedule, and random numbers of python, numpy and torch.
Each trial begins it anew in a process of its own, which is sent SIGKILL at a moment drawn from the seed, and then run
again, until it comes to its end. That end (weights, optimizer, history, every figure in the log, and the next random
numbers) is compared with the undisturbed one, bit by bit. The processes are forked from one that has imported torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STEPS_A_SAVE = 4
EPOCHS, ROWS, BATCH = 3, 48, 4


def loop(root: Path) -> dict[str, str]:
    """The whole cell; a digest of all that it ends in."""
    import numpy as np
    import torch
    from torch import nn

    import colab_magics

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 4))
    context = torch.zeros(16)
    optimizer = torch.optim.AdamW([{"params": net[0].parameters()}, {"params": net[3].parameters(), "lr": 3e-3}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-2, 2e-2], total_steps=EPOCHS * ROWS // BATCH)
    rows = torch.utils.data.TensorDataset(torch.randn(ROWS, 16), torch.randint(0, 4, (ROWS,)))
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)
    state = {
        "net": net,
        "context": context,
        "optimizer": optimizer,
        "schedule": schedule,
        "history": [],
        "best": float("inf"),
    }
    with colab_magics.track(
        "loop",
        state,
        total=EPOCHS * ROWS,
        unit="samples",
        root=root,
        save_every=f"{STEPS_A_SAVE} steps",
        panel="off",
        replica="none",
    ) as run:
        with run.phase("fixed point", total=40) as phase:
            for _ in phase.rest(range(40)):
                new = torch.tanh(context * 0.5 + net[0].weight.detach().mean(0))
                delta = (new - context).abs().max()
                context.copy_(new)
                run.log(delta=delta)
                if phase.converged("delta", patience=2, tolerance=1e-3):
                    break
        with run.phase("prediction", total=EPOCHS * ROWS, unit="samples") as phase:
            for _ in phase.epochs(EPOCHS):
                for x, y in phase.rest(loader):
                    noise = random.random() * 0.01 + float(np.random.rand()) * 0.01
                    loss = nn.functional.cross_entropy(net(x + context + noise), y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    state["history"].append(loss.item())
                    state["best"] = min(state["best"], loss.item())
                    run.log(loss=loss, samples=len(x))
    ended = {
        "weights": b"".join(one.detach().numpy().tobytes() for one in net.state_dict().values())
        + context.numpy().tobytes(),
        "optimizer": b"".join(
            value.numpy().tobytes() for one in optimizer.state.values() for _, value in sorted(one.items())
        ),
        "schedule": repr(schedule.get_last_lr()).encode(),
        "history": repr((state["history"], state["best"])).encode(),
        "figures": repr(colab_magics.Run(root / "loop").losses).encode(),
        "random": repr((random.random(), np.random.rand(), torch.rand(1).item())).encode(),
        "counts": repr((run.step, run.done)).encode(),
    }
    return {name: hashlib.blake2b(data, digest_size=8).hexdigest() for name, data in ended.items()}


def start(root: Path, result: Path) -> int:
    """Run the cell in a process of its own; its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        digests = loop(root)
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(digests))
        partial.replace(result)
        code = 0
    except BaseException:
        import traceback

        (root.parent / "error.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


@dataclass
class Tally:
    """What became of the trials."""

    kills: int = 0
    in_a_commit: int = 0
    resumed: int = 0
    different: int = 0
    unable: int = 0


def trial(folder: Path, end: dict[str, str], seconds: float, dice: random.Random, tally: Tally, most: int) -> None:
    """One loop that is killed up to `most` times and comes to its end."""
    root, result = folder / "runs", folder / "result.json"
    for _ in range(most):
        pid = start(root, result)
        time.sleep(dice.uniform(0.0, 1.1 * seconds))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            tally.kills += 1
            tally.in_a_commit += any((root / "loop" / "checkpoints").glob(".*")) if root.exists() else 0
            continue
        break
    if not result.exists():
        os.waitpid(start(root, result), 0)
    if not result.exists():
        tally.unable += 1
        print((folder / "error.txt").read_text())
        return
    text = (root / "loop" / "events.jsonl").read_text()
    tally.resumed += '"resumed"' in text
    found = json.loads(result.read_text())
    if found != end:
        tally.different += 1
        print("differs in", [name for name in end if found[name] != end[name]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-a-row", type=int, default=3, help="kills of one loop, at most")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    import torch.optim.lr_scheduler
    import torch.utils.data

    import colab_magics

    assert colab_magics.track
    torch.optim.AdamW([torch.zeros(1)])  # the first optimizer imports what takes seconds
    dice, tally = random.Random(asked.seed), Tally()
    with tempfile.TemporaryDirectory(prefix="track-") as home:
        os.environ["COLAB_MAGICS_CACHE"] = str(Path(home) / "cache")
        ends, seconds = [], 0.0
        for number in (1, 2):
            folder = Path(home) / f"whole-{number}"
            folder.mkdir()
            began = time.monotonic()
            os.waitpid(start(folder / "runs", folder / "result.json"), 0)
            seconds = time.monotonic() - began
            if not (folder / "result.json").exists():
                raise SystemExit((folder / "error.txt").read_text())
            ends.append(json.loads((folder / "result.json").read_text()))
        if ends[0] != ends[1]:
            raise SystemExit("two undisturbed loops end differently: nothing can be compared")
        number = 0
        while tally.kills < asked.kills:
            folder = Path(home) / f"trial-{number}"
            folder.mkdir()
            trial(folder, ends[0], seconds, dice, tally, asked.in_a_row)
            shutil.rmtree(folder)
            number += 1
    print(
        f"{tally.kills} kills of {number} loops ({seconds:.2f} s each undisturbed), {tally.in_a_commit} in a commit or "
        f"deletion; {tally.resumed} loops went on from a checkpoint; {tally.different} ended differently, "
        f"{tally.unable} could not go on"
    )
    if tally.different or tally.unable:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
