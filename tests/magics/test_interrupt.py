"""Interrupting a cell, and a worker that dies: each ends the cell with one clear message, and Run All with it."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import pytest

from colab_magics import worker

from .conftest import ROWS, Home, Kernel, Reply, wait_for

pytestmark = pytest.mark.xdist_group("interrupt")

LONG = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1"


def said(reply: Reply) -> str:
    return "\n".join(reply.traceback)


def test_interrupted_once_the_step_is_finished_the_result_written_and_run_all_stops(kernel: Kernel, home: Home) -> None:
    kernel.run("import signal\nbefore = signal.getsignal(signal.SIGINT)")
    cell = kernel.send(f"%%finetune once --out run\n{LONG}")
    queued = kernel.send("print('the second cell ran')")
    wait_for(lambda: home.steps("once") > 2)
    kernel.interrupt()
    reply = kernel.reply(cell)
    assert reply.error == "Interrupted"
    assert len(reply.traceback) == 1
    assert "stopped after step" in said(reply)
    assert "%checkpoint resume once (or the cell again) goes on from step" in said(reply)
    assert kernel.reply(queued).status == "aborted"

    assert kernel.value("run.name, run.state, signal.getsignal(signal.SIGINT) is before") == (
        "('once', 'unfinished', True)"
    )
    assert "stopped" in reply.panel[-1]["text/plain"]
    last = home.events("once")[-1]
    assert (last["kind"], last["reason"]) == ("finished", "stopped")
    assert (home.runs / "once" / "adapter" / "adapter_model.safetensors").exists()
    assert not worker.is_alive(home.runs / "once")


def test_the_unfinished_cell_again_goes_on_and_interrupted_twice_it_is_ended_at_once(
    kernel: Kernel, home: Home
) -> None:
    stopped = max(event["step"] for event in home.events("once") if event["kind"] == "step")
    cell = kernel.send(f"%%finetune once --out run\n{LONG}")
    wait_for(lambda: home.steps("once", attempt=2) > 60)
    kernel.interrupt()
    kernel.interrupt()
    reply = kernel.reply(cell)
    assert reply.error == "Interrupted"
    assert len(reply.traceback) == 1
    assert f"it goes on from its newest checkpoint, step {stopped}" in reply.text
    (resumed,) = [event for event in home.events("once") if event["kind"] == "resumed"]
    assert (resumed["step"], resumed["lost_steps"], resumed["exact"]) == (stopped, 0, True)
    assert {event["attempt"] for event in home.events("once")} == {1, 2}
    assert not worker.is_alive(home.runs / "once")

    # all this while, two small frames a second at most were sent
    assert all(len(frame["text/html"]) < 20_000 for frame in reply.panel)
    assert all(one != other for one, other in pairwise(reply.panel))
    trained = reply.times[:-1]  # the last frame is drawn whenever the end is
    assert all(later - earlier > 0.4 for earlier, later in pairwise(trained))


def test_unfinished_and_changed_is_refused_with_the_difference(kernel: Kernel, home: Home) -> None:
    before = len(home.events("once"))
    reply = kernel.run(f"%%finetune once\n{LONG}\nr: 4")
    assert reply.error == "ColabMagicsError"
    assert "--again" in said(reply)
    assert ["r", "16", "4", "cannot", "change"] in [line.split() for line in reply.traceback]
    assert len(home.events("once")) == before


def test_overridden_it_goes_on_with_the_change_to_the_new_end(kernel: Kernel, home: Home) -> None:
    step = max(event["step"] for event in home.events("once") if event["kind"] == "checkpoint")
    body = LONG.replace("100000", str(step + 20))
    reply = kernel.run(f"%%finetune once --override\n{body}\nlearning_rate: 1e-5")
    assert reply.status == "ok", reply.traceback
    resumed = [event for event in home.events("once") if event["kind"] == "resumed"][-1]
    assert resumed["step"] == step
    assert ["learning_rate", "auto", "1e-05", "1e-05"] in resumed["changes"]
    last = home.events("once")[-1]
    assert (last["kind"], last["reason"], last["step"]) == ("finished", "completed", step + 20)
    rates = [event["learning_rate"] for event in home.events("once") if event["kind"] == "step"][-20:]
    assert max(rates) <= 1e-5


def test_interrupted_while_it_prepares_it_stops_at_once_and_leaves_no_trace(kernel: Kernel, home: Home) -> None:
    runs = sorted(home.runs.iterdir())
    cell = kernel.send(f"%%finetune early --out early_run\n{LONG}")
    wait_for(lambda: any(path.name.startswith(".starting-early") for path in home.runs.iterdir()))
    wait_for(lambda: any((path / "events.jsonl").exists() for path in home.runs.glob(".starting-early*")))
    kernel.interrupt()
    reply = kernel.reply(cell, timeout=60)
    assert reply.error == "Interrupted"
    assert "before its first step" in said(reply)
    assert sorted(home.runs.iterdir()) == runs
    assert kernel.value("'early_run' in globals()") == "False"


def test_a_killed_worker_ends_the_cell_with_the_reason_and_is_not_alive(kernel: Kernel, home: Home) -> None:
    cell = kernel.send(f"%%finetune killed --out killed_run\n{LONG}")
    wait_for(lambda: home.steps("killed") > 2)
    info = worker.read_info(home.runs / "killed")
    assert info is not None
    os.kill(info["pid"], signal.SIGKILL)
    reply = kernel.reply(cell)
    assert reply.error == "ColabMagicsError"
    assert "ended without a word at step" in said(reply)
    assert "signal 9" in said(reply)
    assert "worker-01.log" in said(reply)
    assert len(reply.traceback) <= 8
    assert not worker.is_alive(home.runs / "killed")
    assert kernel.value("killed_run.state") == "'unfinished'"
    assert "unfinished" in reply.panel[-1]["text/plain"]
