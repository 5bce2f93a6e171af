"""A real worker on a real disk that becomes full while it trains."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk
from kills import SHORT, Course, Workers

from colab_magics.run import Run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 128 MB."""
    with small_disk(tmp_path / "disk", "128m") as place:
        yield place


def _fill(disk: Path) -> Path:
    """A file that leaves not a byte free."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            for size in (2**20, 4096, 1):
                while True:
                    try:
                        file.write(b"\0" * size)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
        finally:
            file.flush()
    return path


def _steps(run: Path) -> int:
    return sum(event["kind"] == "step" for event in Run(run).events())


def test_training_goes_on_while_the_disk_is_full_and_ends_as_on_an_empty_one(warm: Any, disk: Path) -> None:
    recipe = {**SHORT, "max_steps": 60, "save_every": "5 steps"}
    course = Course.run(disk, Workers(str(warm.python), warm.environment), recipe, once=True)
    run = course.fresh("full")
    process = course.start(run)
    while _steps(run) < 12:
        assert process.poll() is None
        time.sleep(0.005)
    (run / "pins").mkdir()
    for saved in (run / "checkpoints").glob("0*"):
        (run / "pins" / saved.name).touch()  # so that no pruning makes room in time
    filler = _fill(disk)
    time.sleep(20 * course.step)
    assert process.poll() is None, (Run(run).events()[-1], (run / "worker-01.log").read_text()[-2000:])
    filler.unlink()
    assert process.wait(120) == 0
    assert course.difference(run) == ""
    failed = [event for event in Run(run).events() if event.get("action") == "failed"]
    assert failed
    assert all("No space left on device: it needs " in event["message"] for event in failed)
