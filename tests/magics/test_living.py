"""A run outlives its cell and its kernel: background, a second cell, the terminal, detach, restart, stop."""

from __future__ import annotations

import pytest

from colab_magics import worker

from .conftest import ROWS, Home, Kernel, wait_for

pytestmark = pytest.mark.xdist_group("living")

BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1"


def test_one_run_through_background_attach_detach_restart_and_stop(kernel: Kernel, home: Home) -> None:
    """One worker for all of it: each start costs ten seconds."""
    run = home.runs / "long"

    # --background returns when the preflight has passed
    began = kernel.run(f"%%finetune long --background --out run\n{BODY}")
    assert began.status == "ok"
    assert "in the background" in began.text
    assert worker.is_alive(run)
    assert kernel.value("run.state") == "'running'"
    wait_for(lambda: home.steps("long") > 2)

    # the terminal sees it
    status = home.terminal("status")
    assert status.returncode == 0
    assert "long: training" in status.stdout
    assert "long  running" in home.terminal("list").stdout
    assert "Did you mean long?" in home.terminal("status", "lonk").stderr

    # the same cell again attaches; its changed recipe is said to have no effect; detach ends the cell only
    cell = kernel.send(f"%%finetune long\n{BODY}\nseed: 7")
    kernel.wait_for_panel(cell)
    assert "trains on" in home.terminal("detach", "long").stdout
    attached = kernel.reply(cell, timeout=60)
    assert attached.status == "ok"
    assert "is being trained already" in attached.text
    assert "recipe that it was started with" in attached.text
    assert "Detached" in attached.text
    assert worker.is_alive(run)
    assert "trains on without this cell" in attached.panel[-1]["text/plain"]

    # a kernel restart leaves it alone, and attach shows it again
    steps = home.steps("long")
    kernel.restart()
    wait_for(lambda: home.steps("long") > steps)
    cell = kernel.send("found = %finetune attach")
    kernel.wait_for_panel(cell)

    # stop from a terminal ends the run in good order, and the cell that shows it
    stopped = home.terminal("stop", "long")
    assert "its result is in" in stopped.stdout
    shown = kernel.reply(cell, timeout=60)
    assert shown.error == "Interrupted"
    assert "stopped after step" in "\n".join(shown.traceback)
    assert not worker.is_alive(run)
    assert home.events("long")[-1]["reason"] == "stopped"
    assert (run / "adapter" / "adapter_model.safetensors").exists()

    # what has ended is shown as it is, and cannot be stopped again
    assert "stopped" in home.terminal("attach", "long").stdout
    assert "is not being trained" in home.terminal("stop", "long").stderr
