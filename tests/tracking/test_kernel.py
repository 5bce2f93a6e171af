"""A tracked loop in a real kernel: the panel in its cell, interrupts, restarts, and the magics that read its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from magics.conftest import Home, Kernel, home

from colab_magics.errors import clean

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.colab

CELL = """
import torch, time, colab_magics
torch.manual_seed(0)
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.AdamW(net.parameters())
with colab_magics.track("phase1", {{"net": net, "optimizer": optimizer}}, total={total}, save_every="5 steps") as run:
    for batch in run.rest(range(10**6)):
        if run.done >= {total}:
            break
        loss = net(torch.randn(8, 4)).pow(2).mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        time.sleep({pause})
        run.log(loss=loss, tokens=100)
"""


@pytest.fixture(scope="module")
def kernel(home: Home) -> Iterator[Kernel]:
    kernel = Kernel(home.folder, home.environment)
    yield kernel
    kernel.close()


def test_a_loop_lives_through_an_interrupt_a_restart_and_a_reload(home: Home, kernel: Kernel) -> None:
    cell = kernel.send(CELL.format(total=100_000, pause=0.01))
    kernel.wait_for_panel(cell)
    time.sleep(1.5)
    kernel.interrupt()
    reply = kernel.reply(cell)
    assert reply.error == "Interrupted"
    assert len(reply.traceback) == 1
    assert reply.traceback[0].startswith("Interrupted: phase1 stopped after step ")
    reached = int(reply.traceback[0].split(" step ")[1].split(" ")[0])
    last = reply.panel[-1]["text/plain"]
    assert f"{reached * 100:,}/100,000 tokens (" in last
    assert f"The cell, run again, goes on from step {reached}." in last
    assert "<svg" in reply.panel[-1]["text/html"]

    kernel.restart()
    assert kernel.run(CELL.format(total=reached * 100 + 500, pause=0)).status == "ok"
    assert kernel.value("(run.resumed, run.step)") == f"(True, {reached + 5})"
    assert kernel.run("%reload_ext colab_magics").status == "ok"
    assert kernel.run(CELL.format(total=reached * 100 + 1000, pause=0)).status == "ok"
    assert kernel.value("run.step") == str(reached + 10)

    said = {line: kernel.run(line) for line in LINES}
    assert {line: reply.traceback for line, reply in said.items() if reply.status != "ok"} == {}

    def text(line: str) -> str:
        reply = said[line]
        return (
            reply.text + reply.result + "".join(frame["text/plain"] for one in reply.displays.values() for frame in one)
        )

    assert "newest" in text("%checkpoint list phase1")
    assert "load_state_dict(load_file(" in text("%checkpoint show phase1")
    assert "finished" in text("%finetune list")
    assert "(a loop of one's own)" in text("%finetune list")
    assert f"{reached * 100 + 1000:,}/{reached * 100 + 1000:,} tokens (100%)" in text("%finetune status phase1")
    assert "attempt" in text("%session cost phase1")
    assert kernel.value("isinstance(run.state['net'], torch.nn.Linear)") == "True"
    for line, why in REFUSED.items():
        reply = kernel.run(line)
        assert reply.status == "error"
        assert why in reply.traceback[0]


LINES = [
    "%checkpoint list phase1",
    "%checkpoint verify phase1 --full",
    "%checkpoint show phase1",
    "%checkpoint prune phase1 --dry-run",
    "%finetune list",
    "%finetune status phase1",
    "%session cost phase1",
    "%vram",
    "%vram why",
    "%panel phase1",
]
REFUSED = {
    "%checkpoint resume phase1": "phase1 is a loop of your own",
    "%checkpoint export out phase1": "phase1 is a loop of your own",
    "%session plan phase1": "phase1 is a loop of your own",
}


def test_an_out_of_memory_of_the_loop_is_diagnosed_and_its_traceback_is_the_users(kernel: Kernel) -> None:
    reply = kernel.run("with colab_magics.track('big', {}) as run:\n    run.log(loss=1)\n    torch.empty(2**60)\n")
    assert reply.error == "RuntimeError"
    assert "torch.empty(2**60)" in clean("".join(reply.traceback)).replace(" ", "")
    why = kernel.run("%vram why")
    assert why.status == "ok"
    shown = "".join(frame["text/plain"] for one in why.displays.values() for frame in one) + why.text
    assert "memory" in shown.lower()
    assert "of this notebook" in shown


def test_a_loop_is_stopped_and_saved_from_a_terminal(home: Home, kernel: Kernel) -> None:
    cell = kernel.send(CELL.format(total=10**9, pause=0.01).replace("phase1", "elsewhere"))
    kernel.wait_for_panel(cell)
    saved = home.terminal("save", "elsewhere")
    assert saved.returncode == 0, saved.stderr
    stopped = home.terminal("stop", "elsewhere")
    assert stopped.returncode == 0, stopped.stderr
    assert kernel.reply(cell).error == "Interrupted"
    assert "elsewhere has ended" in stopped.stdout
