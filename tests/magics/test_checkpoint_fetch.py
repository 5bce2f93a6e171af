"""`%checkpoint fetch`: a run comes back from its replica to a machine that has nothing of it."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_fetch import Progress
from colab_magics.magics.checkpoint_line import read_line

from .checkpointed import Left, flip, tree

pytestmark = [pytest.mark.colab, pytest.mark.face]


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """A replica, as far as a reader can tell: it has the layout of the root."""
    monkeypatch.delenv("COLAB_MAGICS_REPLICA", raising=False)
    left = Left(tmp_path / "drive")
    (left.folder / "inputs.json").write_text("{}")
    left.save(20)
    left.save(40)
    return left


def fetched(root: Path, line: str, replica: str = "") -> list[str]:
    lines: list[str] = []
    end = perform(read_line(line), root, replica=replica, said=lines.append)["text/plain"]
    return [*lines, *end.splitlines()]


def test_a_run_comes_into_the_root_and_can_be_resumed(drive: Left, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    lines = fetched(root, f"fetch kwanzaa --from {drive.root}")
    assert lines[0] == f"Fetching kwanzaa from {drive.root}."
    assert lines[1].startswith("Fetched kwanzaa, step 40, ")
    assert lines[1].endswith(f": {root / 'kwanzaa'}")
    assert lines[-1] == "A resume would use step 40: %checkpoint resume kwanzaa"
    source = drive.run.checkpoints / "00000040-a1"
    assert tree(root / "kwanzaa" / "checkpoints" / "00000040-a1") == tree(source)


def test_an_altered_checkpoint_is_skipped_and_named(drive: Left, tmp_path: Path) -> None:
    flip(drive.run.checkpoints / "00000040-a1" / "state.json")
    lines = fetched(tmp_path / "runs", f"fetch --from {drive.root}")
    assert lines[1].startswith("Fetched kwanzaa, step 20, ")
    assert any(line.startswith("Skipped 00000040-a1: state.json") for line in lines)


@pytest.mark.parametrize("by", ["the line", "%config", "the environment", "the recipe of the run here"])
def test_the_replica_is_named_by_one_of_four(
    drive: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    root, line, replica = tmp_path / "runs", "fetch kwanzaa", ""
    if by == "the line":
        line += f" --from {drive.root}"
    elif by == "%config":
        replica = str(drive.root)
    elif by == "the environment":
        monkeypatch.setenv("COLAB_MAGICS_REPLICA", str(drive.root))
    else:
        recipe = drive.folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("replica: null", f"replica: {drive.root}"))
        shutil.copytree(drive.folder, root / "kwanzaa")
        shutil.rmtree(root / "kwanzaa" / "checkpoints" / "00000040-a1")
    assert fetched(root, line, replica)[-1].startswith("A resume would use step 40")


def refused(root: Path, line: str) -> list[str]:
    """What is said of a fetch that brings nothing."""
    before = tree(root.parent)
    with pytest.raises(ColabMagicsError) as raised:
        fetched(root, line)
    assert tree(root.parent) == before
    return raised.value.lines()


def test_without_any_replica_the_ways_to_name_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLAB_MAGICS_REPLICA", raising=False)
    lines = refused(tmp_path / "runs", "fetch")
    assert lines[0] == "No replica is named."
    assert "--from WHERE" in lines[2]
    assert "CheckpointMagics.replica" in lines[3]


def test_of_several_runs_one_must_be_named_and_the_nearest_is_offered(drive: Left, tmp_path: Path) -> None:
    other = Left(drive.root, "other", run_id="f" * 16)
    (other.folder / "inputs.json").write_text("{}")
    assert refused(tmp_path / "runs", f"fetch --from {drive.root}")[0] == f"There are 2 runs in {drive.root}."
    assert refused(tmp_path / "runs", f"fetch kwanza --from {drive.root}") == [
        f"There is no run called 'kwanza' in {drive.root}.",
        "There is kwanzaa, other.",
        "→ Did you mean kwanzaa?",
    ]


def test_a_replica_without_runs_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "runs", f"fetch --from {tmp_path / 'empty'}")[0] == (
        f"There is no run in {tmp_path / 'empty'}."
    )


def test_a_run_that_is_trained_here_is_left_alone(drive: Left, tmp_path: Path) -> None:
    here = Left(tmp_path / "runs")
    lock = worker.hold_lock(here.folder)
    assert lock is not None
    assert refused(here.root, f"fetch kwanzaa --from {drive.root}")[0] == "kwanzaa is being trained here."
    os.close(lock)


def test_another_run_of_that_name_is_not_mixed_with_it(drive: Left, tmp_path: Path) -> None:
    here = Left(tmp_path / "runs", run_id="f" * 16)
    here.save(7)
    assert refused(here.root, f"fetch kwanzaa --from {drive.root}")[0].startswith("Another run called kwanzaa is in")


def test_a_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        fetched(tmp_path / "runs", "fetch --from ftp://user:geheim@127.0.0.1:1/runs")
    assert "geheim" not in str(raised.value)


class Redrawn(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_that_is_redrawn_and_nothing_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for screen, drawn in (
        (Redrawn(), "\r0 bytes of 2.0 KiB\r2.0 KiB of 2.0 KiB\n"),
        (io.StringIO(), ""),
    ):
        monkeypatch.setattr(sys, "stdout", screen)
        progress = Progress()
        for done in (0, 10, 20, 2048):
            progress(done, 2048)
        assert screen.getvalue() == drawn
