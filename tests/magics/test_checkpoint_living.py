"""`%checkpoint` and a real worker: saved on demand, listed, kept, exported, and gone on from."""

from __future__ import annotations

import re

import pytest

from colab_magics import worker
from colab_magics.run import Run

from .conftest import ROWS, Home, Kernel, wait_for

pytestmark = pytest.mark.xdist_group("checkpoint-living")

BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1"


def test_one_run_through_save_list_pin_stop_verify_export_and_resume(kernel: Kernel, home: Home) -> None:
    """One worker for all of it: each start costs ten seconds."""
    assert kernel.run(f"%%finetune long --background\n{BODY}").status == "ok"
    wait_for(lambda: home.steps("long") > 2)

    saved = kernel.run("%checkpoint save")
    found = re.match(r"Saved step ([\d,]+) of long: .+iB; the training waited \d.*s\.", saved.text)
    assert found is not None, saved.text + "\n".join(saved.traceback)
    step = int(found[1].replace(",", ""))
    listed = home.terminal("checkpoint", "list", "long").stdout
    assert f"If it ended now, a resume would use step {step:,}" in listed
    assert "no replica" in listed
    assert "its worker prunes by itself" in home.terminal("checkpoint", "prune", "long").stderr
    assert kernel.run(f"%checkpoint pin {step}").text.startswith("Pinned")

    home.terminal("stop", "long")
    assert not worker.is_alive(home.runs / "long")
    verified = kernel.run("%checkpoint verify long --full")
    assert "are whole: every byte is as it was committed" in verified.text, verified.traceback
    shown = kernel.run(f"%checkpoint show long {step}").text
    assert "arrangement" in shown
    assert "lora_A" in shown
    assert "exp_avg" in shown

    # what is exported loads as the checkpoint itself does
    assert kernel.run("%checkpoint export tuned long").status == "ok"
    from colab_magics.training.result import load_for_inference

    model, tokenizer = load_for_inference(home.folder / "tuned")
    assert model.peft_config
    assert tokenizer("Ahoy").input_ids

    # and the run goes on, in a further attempt
    resumed = kernel.run("%checkpoint resume long --background --out again")
    assert resumed.status == "ok", resumed.traceback
    assert "goes on from step" in resumed.text
    assert kernel.value("again.name") == "'long'"
    wait_for(lambda: home.steps("long", attempt=2) > 0)
    home.terminal("stop", "long")
    assert Run(home.runs / "long").attempts == 2
