"""`%checkpoint resume` when something is wrong: a rewind that dies, bytes that rotted, another run's checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.checkpoints.verify import entries
from colab_magics.run import Run

from .conftest import ROWS, Home, Kernel, wait_for

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("resuming")

BODY = f"model: demo\ndata: {ROWS}\nmax_steps: {{}}\neffective_batch_size: 1\nsave_every: 5 steps\nsave_total_limit: 9"


def _rot(checkpoint: Path) -> None:
    """One bit, and every size as it was."""
    path = checkpoint / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def _resumed(home: Home, name: str) -> dict[str, Any]:
    return [event for event in home.events(name) if event["kind"] == "resumed"][-1]


def test_what_a_person_meets_when_he_resumes(kernel: Kernel, home: Home, warm: Any, tmp_path: Path) -> None:
    """One story, so that the worker starts few times."""
    kernel.run(warm.cell)
    assert kernel.run(f"%%finetune one --background --replica {tmp_path}/copies\n{BODY.format(100_000)}").status == "ok"
    run = Run(home.runs / "one")
    wait_for(lambda: home.steps("one") > 32)
    home.terminal("stop", "one")
    wait_for(lambda: not worker.lock_is_held(run.folder / "replica.lock"))
    reached = max(entry.step for entry in entries(run.checkpoints))

    # back to an older step; it dies before it saves by itself, and the next resume stays on that line
    assert kernel.run("%checkpoint resume one --from 20 --background").status == "ok"
    wait_for(lambda: home.steps("one", attempt=2) > 1)
    worker.kill(run.folder)
    wait_for(lambda: not worker.is_alive(run.folder))
    kernel.run("%checkpoint resume one --background")
    wait_for(lambda: home.steps("one", attempt=3) > 1)
    assert _resumed(home, "one")["step"] < reached
    assert _resumed(home, "one")["checkpoint"].endswith("-a2")
    home.terminal("stop", "one")
    wait_for(lambda: not worker.lock_is_held(run.folder / "replica.lock"))

    # stopped while a resume prepares: it says what there is
    cell = kernel.send("%checkpoint resume one")
    wait_for(lambda: any(event["kind"] == "started" and event["attempt"] == 4 for event in home.events("one")))
    kernel.interrupt()
    said = "\n".join(kernel.reply(cell).traceback)
    assert "%checkpoint resume one" in said, said

    # the newest rots: a fork without a replica begins at the one before it
    newest, before, *_ = entries(run.checkpoints)
    _rot(newest.folder)
    shutil.move(tmp_path / "copies", tmp_path / "away")
    kernel.run("%checkpoint resume one --fork two --background")
    wait_for(lambda: home.steps("two") > 1)
    assert _resumed(home, "two")["step"] == before.step
    worker.kill(home.runs / "two")
    shutil.rmtree(tmp_path / "copies", ignore_errors=True)
    shutil.move(tmp_path / "away", tmp_path / "copies")

    # all rot, and the replica's are whole: the word is still enough
    for entry in entries(run.checkpoints):
        if entry.name != newest.name:
            _rot(entry.folder)
    reply = kernel.run("%checkpoint resume one --background")
    assert reply.status == "ok", reply.traceback
    assert f"{newest.name} is broken here" in reply.text
    assert "Fetching one from" in reply.text
    attempt = max(event["attempt"] for event in home.events("one"))
    wait_for(lambda: home.steps("one", attempt=attempt) > 1)
    assert _resumed(home, "one")["checkpoint"] == newest.name
    os.kill(worker.alive_pid(run.folder) or 0, signal.SIGKILL)
    wait_for(lambda: not worker.is_alive(run.folder))

    # a checkpoint of another run, put among them, is no candidate
    foreign = entries(home.runs / "two" / "checkpoints")[0]
    placed = run.checkpoints / folder_name(90_000, 9)
    shutil.copytree(foreign.folder, placed)
    manifest = Manifest.from_json((placed / "MANIFEST.json").read_bytes())
    (placed / "MANIFEST.json").write_bytes(Manifest("checkpoint", manifest.run, manifest.files, 90_000, 9).to_json())
    assert "it belongs to another run" in home.terminal("checkpoint", "list", "one").stdout
    kernel.run("%checkpoint resume one --background")
    attempt += 1
    wait_for(lambda: home.steps("one", attempt=attempt) > 1)
    assert _resumed(home, "one")["step"] < 90_000
    worker.kill(run.folder)

    # without its log nobody can say whose they are
    (run.folder / "events.jsonl").rename(tmp_path / "log")
    for line in (f"%%finetune one\n{BODY.format(100_000)}", "%checkpoint resume one"):
        assert "its event log is gone" in "\n".join(kernel.run(line).traceback)
