"""Who is asked is read from folders: the result, a checkpoint, the base, a model of anybody's."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from colab_magics import demo
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.inference.subject import of_model, of_run

pytestmark = pytest.mark.colab
Leave = Callable[..., Path]


def test_the_newest_run_with_a_result_is_asked_and_a_newer_one_without_is_told(a_run: Leave, tmp_path: Path) -> None:
    a_run("done")
    newer = a_run("half", result=False)
    os.utime(newer / "events.jsonl", (2e9, 2e9))
    found = of_run(None, tmp_path)
    assert (found.label, found.adapter) == ("run done", tmp_path / "done" / "adapter")
    assert found.notes == ("half is newer, and has no result yet; --run half --checkpoint STEP asks it.",)
    with pytest.raises(ColabMagicsError, match="Run half has no result"):
        of_run("half", tmp_path)


def test_a_checkpoint_is_asked_only_if_every_byte_of_it_is_right(a_run: Leave, tmp_path: Path) -> None:
    folder = a_run(steps=(4, 8))
    found = of_run(None, tmp_path, step=8)
    assert found.adapter is not None
    assert found.adapter.parent == folder / "checkpoints"
    weights = found.adapter / "adapter_model.safetensors"
    altered = bytearray(weights.read_bytes())
    altered[-1] ^= 1
    weights.unlink()
    weights.write_bytes(altered)
    with pytest.raises(ColabMagicsError, match="The checkpoint of step 8 is broken"):
        of_run(None, tmp_path, step=8)
    with pytest.raises(ColabMagicsError, match="no checkpoint of step 5") as refused:
        of_run(None, tmp_path, step=5)
    assert "→ Did you mean 4?" in str(refused.value)


def test_a_base_is_the_one_that_the_adapter_stands_on(a_run: Leave, tmp_path: Path) -> None:
    a_run("moved", model=str(demo.model_path()))
    tuned, base = of_run("moved", tmp_path), of_run("moved", tmp_path, base=True)
    assert (base.base, base.revision, base.adapter) == (tuned.base, tuned.revision, None)
    assert base.label == "the base of moved"


def test_any_adapter_or_model_is_asked_with_what_it_brings(a_run: Leave, tmp_path: Path) -> None:
    adapter = a_run() / "adapter"
    found = of_model(str(adapter))
    assert (found.base, found.adapter) == (str(demo.model_path()), adapter)
    assert of_model("demo").adapter is None
    with pytest.raises(ColabMagicsError, match="There is no folder"):
        of_model("./nowhere")


def test_of_a_run_that_went_on_it_is_said_that_the_result_is_an_older_one(a_run: Leave, tmp_path: Path) -> None:
    folder = a_run(steps=(8,))
    with closing(EventLog(folder / "events.jsonl", 1)) as log:
        log.append("step", step=6, loss=1.0)
        log.append("finished", step=6, reason="stopped", path="adapter")
    assert (of_run("pirate", tmp_path).step, of_run("pirate", tmp_path).notes) == (6, ())
    with closing(EventLog(folder / "events.jsonl", 2)) as log:
        log.append("step", step=9, loss=0.5)
    found = of_run("pirate", tmp_path)
    assert found.step == 6
    assert found.notes == ("This is the result of step 6; pirate is at step 9 now; --checkpoint 8 takes a newer one.",)
    assert (of_run("pirate", tmp_path, step=8).step, of_run("pirate", tmp_path, step=8).notes) == (8, ())
    assert of_run("pirate", tmp_path, base=True).step is None
