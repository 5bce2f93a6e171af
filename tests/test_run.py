"""A run is what its folder says, to any reader at any time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from colab_magics import run as runs
from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.events import EventLog
from colab_magics.run import Run

pytestmark = [pytest.mark.colab, pytest.mark.face]


def _run(root: Path, name: str, *events: tuple[str, dict[str, object]], attempt: int = 1) -> Run:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    log = EventLog(folder / "events.jsonl", attempt)
    for kind, fields in events:
        log.append(kind, **fields)
    log.close()
    return Run(folder)


STARTED = ("started", {"name": "a"})
FINISHED = ("finished", {"reason": "completed"})
STOPPED = ("finished", {"reason": "stopped"})
STOPPED_EARLY = ("failed", {"error": Interrupted("stopped while loading.").to_dict()})
FAILED = ("failed", {"error": ColabMagicsError("It broke.").to_dict()})


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([STARTED], "unfinished"),
        ([STARTED, FINISHED], "finished"),
        ([STARTED, ("finished", {"reason": "early_stopping"})], "finished"),
        ([STARTED, STOPPED], "unfinished"),
        ([STARTED, FAILED], "failed"),
        ([STARTED, STOPPED_EARLY], "unfinished"),
        ([STARTED, FAILED, STARTED], "unfinished"),
        ([STARTED, STOPPED, STARTED, FINISHED], "finished"),
    ],
)
def test_a_run_without_a_worker_is_what_its_last_attempt_came_to(
    tmp_path: Path, events: list[tuple[str, dict[str, object]]], state: str
) -> None:
    assert _run(tmp_path, "a", *events).state == state


def test_a_step_that_was_run_again_counts_once_with_its_last_loss(tmp_path: Path) -> None:
    _run(tmp_path, "a", STARTED, ("step", {"step": 1, "loss": 3.0}), ("step", {"step": 2, "loss": 2.5}))
    run = _run(tmp_path, "a", STARTED, ("step", {"step": 2, "loss": 2.0}), attempt=2)
    assert run.losses == [3.0, 2.0]
    assert run.attempts == 2


def test_a_shorter_attempt_leaves_nothing_of_the_longer_one_before_it(tmp_path: Path) -> None:
    _run(tmp_path, "a", STARTED, *(("step", {"step": step, "loss": 1.0 / step}) for step in range(1, 9)))
    run = _run(
        tmp_path, "a", STARTED, ("step", {"step": 1, "loss": 3.0}), ("step", {"step": 2, "loss": 2.5}), attempt=2
    )
    assert run.losses == [3.0, 2.5]


def test_a_failed_run_tells_its_error(tmp_path: Path) -> None:
    assert str(_run(tmp_path, "a", STARTED, FAILED).error) == "It broke."
    assert _run(tmp_path, "b", STARTED, FAILED, STARTED, FINISHED).error is None


def test_a_run_without_a_result_says_so_when_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="no result to load"):
        _run(tmp_path, "a", STARTED).load()


def test_a_run_is_the_same_by_a_written_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path / "runs", "a", STARTED, FINISHED)
    monkeypatch.chdir(tmp_path)
    assert Run("runs/a") == Run(tmp_path / "runs" / "a")  # type: ignore[arg-type]
    assert Run("runs/a").name == "a"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "a b", "ž", "x" * 65, "a\n"])
def test_a_name_that_could_leave_the_root_is_refused(name: str) -> None:
    with pytest.raises(ColabMagicsError, match="cannot be a run's name"):
        runs.check_name(name)


@pytest.mark.parametrize("name", ["kwanzaa", "v1.2", "A-b_c", "7"])
def test_a_plain_name_is_kept(name: str) -> None:
    assert runs.check_name(name) == name


def test_automatic_names_count_up_and_are_names(tmp_path: Path) -> None:
    name = runs.automatic_name("meta-llama/Llama-3.2-1B-Instruct", "/content/my data.jsonl", tmp_path)
    assert name == runs.check_name(name) == "llama-3-my-data-01"
    (tmp_path / name).mkdir()
    assert runs.automatic_name("meta-llama/Llama-3.2-1B-Instruct", "/content/my data.jsonl", tmp_path).endswith("-02")


def test_a_following_name_is_the_first_that_is_free(tmp_path: Path) -> None:
    (tmp_path / "a-2").mkdir()
    assert runs.following_name("a", tmp_path) == "a-3"


def test_the_root_is_the_argument_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLAB_MAGICS_ROOT", raising=False)
    assert runs.runs_root() == tmp_path / "runs"
    monkeypatch.setenv("COLAB_MAGICS_ROOT", str(tmp_path / "env"))
    assert runs.runs_root() == tmp_path / "env"
    assert runs.runs_root("there") == tmp_path / "there"


def test_runs_are_listed_newest_first_without_those_that_are_only_starting(tmp_path: Path) -> None:
    for age, name in [(30, "old"), (10, "new"), (20, "middle")]:
        run = _run(tmp_path, name, STARTED)
        log = run.folder / "events.jsonl"
        os.utime(log, (log.stat().st_mtime - age,) * 2)
    _run(tmp_path, runs.starting_folder(tmp_path, "x").name, STARTED)
    (tmp_path / "not a run").mkdir()
    assert [run.name for run in runs.list_runs(tmp_path)] == ["new", "middle", "old"]
    assert runs.find_run(None, tmp_path).name == "new"
    assert runs.find_run("old", tmp_path).name == "old"


def test_a_run_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="no run in"):
        runs.find_run(None, tmp_path / "nowhere")
    _run(tmp_path, "kwanzaa", STARTED)
    with pytest.raises(ColabMagicsError, match="Did you mean kwanzaa"):
        runs.find_run("kwanza", tmp_path)
    for name in ("noepoch", "re", "dead2"):
        _run(tmp_path, name, STARTED)
    with pytest.raises(ColabMagicsError) as unknown:
        runs.find_run("nosuch", tmp_path)
    said = str(unknown.value)
    assert "Did you mean" not in said
    assert "The newest of 4 are " in said
    assert "%finetune list" in said


def test_a_name_under_which_a_run_is_starting_is_not_given_again(tmp_path: Path) -> None:
    runs.starting_folder(tmp_path, "demo-p-01")
    runs.starting_folder(tmp_path, "a-2")
    assert runs.automatic_name("demo", "p.jsonl", tmp_path) == "demo-p-02"
    assert runs.following_name("a", tmp_path) == "a-3"
