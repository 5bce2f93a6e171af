"""Commands find the run that is meant, or ask."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

import colab_magics.__main__ as terminal
from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.magics.commands import find, status, stop
from colab_magics.panel import words

pytestmark = [pytest.mark.colab, pytest.mark.face]


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    log = EventLog(folder / "events.jsonl", 1)
    log.append("started", name=name)
    log.close()
    return folder


def test_without_a_name_the_one_living_run_is_meant_though_another_is_newer(tmp_path: Path) -> None:
    alive = _folder(tmp_path, "alive")
    fd = worker.hold_lock(alive)
    assert fd is not None
    _folder(tmp_path, "newer")
    assert find(None, tmp_path).run.name == "alive"
    os.close(fd)


def test_without_a_name_two_living_runs_are_listed_and_none_is_taken(tmp_path: Path) -> None:
    held = [worker.hold_lock(_folder(tmp_path, name)) for name in ("one", ".starting-two-00000000")]
    with pytest.raises(ColabMagicsError, match=r"2 runs are alive: two, one\."):
        find(None, tmp_path)
    with pytest.raises(ColabMagicsError, match="Name it: %finetune stop two"):
        stop(None, tmp_path)
    assert find("one", tmp_path).run.name == "one"
    assert find("two", tmp_path).run.name == "two"
    for fd in held:
        assert fd is not None
        os.close(fd)


def test_a_run_from_another_machine_shows_its_result_where_it_is_here(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "fetched")
    log = EventLog(folder / "events.jsonl", 1)
    log.append("finished", reason="completed", step=8, path="/content/runs/fetched/adapter")
    log.close()
    assert words.footer(status("fetched", tmp_path)) == []  # its result did not come
    (folder / "adapter").mkdir()
    assert words.footer(status("fetched", tmp_path)) == [f"The result is in {folder / 'adapter'}."]


@pytest.mark.parametrize("line", ["stop --now mine", "stop mine --now", "--root . stop --now mine"])
def test_in_a_terminal_options_may_stand_before_the_name_or_behind_it(line: str) -> None:
    read = terminal._read(line.split())
    assert isinstance(read, argparse.Namespace)
    assert (read.command, read.run, read.now) == ("stop", "mine", True)
