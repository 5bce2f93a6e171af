"""Other dashboards get what the log says, real ones where they are installed, and never hold the training up."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog, read_events
from colab_magics.recipe import Recipe
from colab_magics.training import reporting, trackers
from colab_magics.training.reporting import Figures, Reports, thinned
from colab_magics.training.trackers import Dashboard, check_trackers, dashboards

GIB = 2**30


def recipe(*names: str, **changes: Any) -> Recipe:
    return Recipe(model="demo", data="rows.jsonl", report_to=list(names) or "none", **changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, named as its runs are."""
    folder = tmp_path / "pirate"
    folder.mkdir()
    return folder


def write(run: Path, attempt: int, steps: range, *, resumed: int | None = None) -> None:
    """What a worker writes in an attempt that takes these steps; an evaluation after each fourth."""
    log = EventLog(run / "events.jsonl", attempt)
    log.append("started", run="0123456789abcdef", name="pirate")
    if resumed is not None:
        log.append("resumed", step=resumed)
    log.append("memory", devices=[], host={"total": 8 * GIB, "used": 2 * GIB}, rss=GIB, cpu=90.0)
    for step in steps:
        log.append(
            "step", step=step, loss=attempt + 0.5 / step, learning_rate=1e-3, grad_norm=None if step == 2 else 0.5,
            tokens=step * 100, tokens_per_second=700.0, epoch=step / 10, allocated=3 * GIB,
        )  # fmt: skip
        if step % 4 == 0:
            log.append("eval", step=step, loss=2.0, perplexity=7.4, token_accuracy=0.5)
        time.sleep(0.002)
    log.close()


@pytest.fixture(autouse=True)
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_CLOSEST", 0.0)


def report(run: Path, attempt: int, boards: list[Dashboard]) -> list[str]:
    """Feed the dashboards to the end of the log; returns the warnings."""
    said: list[str] = []
    reports = Reports(run / "events.jsonl", attempt, boards, said.append)
    reports.start()
    reports.stop()
    return said


def scalars(run: Path) -> Any:
    """TensorBoard's own reading of the run's folder."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(os.fspath(run / "tensorboard"))
    read.Reload()
    return read


@pytest.fixture
def needs_tensorboard() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")


@pytest.mark.usefixtures("needs_tensorboard")
def test_tensorboard_shows_every_step_every_evaluation_and_the_recipe(run: Path) -> None:
    write(run, 1, range(1, 9))
    assert report(run, 1, dashboards(run, recipe("tensorboard"))) == []
    board = scalars(run)
    losses = board.Scalars("train/loss")
    assert [(event.step, event.value) for event in losses] == [(s, pytest.approx(1 + 0.5 / s)) for s in range(1, 9)]
    assert [event.step for event in board.Scalars("eval/loss")] == [4, 8]
    assert [event.step for event in board.Scalars("train/grad_norm")] == [1, *range(3, 9)], (
        "what is no number is no dot"
    )
    assert board.Scalars("memory/allocated_GiB")[0].value == 3.0
    assert board.Scalars("system/host_memory_GiB")[0].value == 2.0
    assert {"train/learning_rate", "train/tokens_per_second", "eval/perplexity"} <= set(board.Tags()["scalars"])
    text = board.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "report_to: [tensorboard]" in text
    first = next(event for event in read_events(run / "events.jsonl") if event["kind"] == "step")
    assert abs(losses[0].wall_time - time.time()) < 3600
    assert first["step"] == losses[0].step


@pytest.mark.usefixtures("needs_tensorboard")
def test_no_token_reaches_a_dashboard(run: Path) -> None:
    write(run, 1, range(1, 3))
    token = "hf_" + "a" * 30
    report(run, 1, dashboards(run, recipe("tensorboard", system=f"the key is {token}")))
    (written,) = (run / "tensorboard").iterdir()
    assert b"the key is hf_***" in written.read_bytes()
    assert token.encode() not in written.read_bytes()


@pytest.mark.usefixtures("needs_tensorboard")
def test_a_resumed_run_goes_on_in_the_same_place(run: Path) -> None:
    write(run, 1, range(1, 7))
    report(run, 1, dashboards(run, recipe("tensorboard")))
    write(run, 2, range(5, 9), resumed=4)
    report(run, 2, dashboards(run, recipe("tensorboard")))
    losses = scalars(run).Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 9))
    assert [int(event.value) for event in losses] == [1, 1, 1, 1, 2, 2, 2, 2], "what the dead attempt lost is hidden"


@pytest.mark.usefixtures("needs_tensorboard")
def test_a_dashboard_turned_on_late_is_told_the_whole_history_once(run: Path) -> None:
    write(run, 1, range(1, 7))
    write(run, 2, range(5, 9), resumed=4)
    assert report(run, 2, dashboards(run, recipe("tensorboard"))) == []
    losses = scalars(run).Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 9))
    assert [int(event.value) for event in losses] == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.usefixtures("needs_tensorboard")
def test_tensorboard_imports_no_tensorflow(run: Path, tmp_path: Path) -> None:
    write(run, 1, range(1, 3))
    beside = tmp_path / "site"
    (beside / "tensorflow").mkdir(parents=True)
    (beside / "tensorflow" / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    code = (
        "import sys; from pathlib import Path; from colab_magics.recipe import Recipe\n"
        "from colab_magics.training.trackers import dashboards\n"
        "recipe = Recipe(model='demo', data='rows.jsonl', report_to=['tensorboard'])\n"
        f"(board,) = dashboards(Path({os.fspath(run)!r}), recipe)\n"
        "tracker = board.open(1)\nboard.log(tracker, {'train/loss': 1.0}, 1, 1.0)\ntracker.finish()\n"
        "print('tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(beside), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def _needs(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed here; it is tested offline where it is")


def test_wandb_writes_its_run_offline_without_asking_for_a_login(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(run, 1, range(1, 7))
    chosen = recipe("wandb")
    check_trackers(chosen)
    assert report(run, 1, dashboards(run, chosen)) == []
    (written,) = (run / "wandb").glob("offline-run-*-0123456789abcdef/*.wandb")
    assert b"train/loss" in written.read_bytes()


def test_mlflow_goes_on_in_its_run(run: Path) -> None:
    _needs("mlflow")
    _needs("sqlalchemy")
    for attempt, steps, resumed in ((1, range(1, 5), None), (2, range(5, 7), 4)):
        write(run, attempt, steps, resumed=resumed)
        assert report(run, attempt, dashboards(run, recipe("mlflow"))) == []
    with sqlite3.connect(run / "mlflow" / "mlflow.db") as database:
        steps = database.execute("select step from metrics where key = 'train/loss' order by step").fetchall()
        assert database.execute("select count(*), min(status) from runs").fetchone() == (1, "FINISHED")
    assert [step for (step,) in steps] == [1, 2, 3, 4, 5, 6]


def test_trackio_goes_on_in_its_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # it reads this when it is first imported; a worker reports of one run in its life
    monkeypatch.setenv("TRACKIO_DIR", os.fspath(run / "trackio"))
    _needs("trackio")
    for attempt, steps, resumed in ((1, range(1, 5), None), (2, range(5, 7), 4)):
        write(run, attempt, steps, resumed=resumed)
        assert report(run, attempt, dashboards(run, recipe("trackio"))) == []
    with sqlite3.connect(run / "trackio" / "colab_magics.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics order by step").fetchall()
        (config,) = database.execute("select config from configs").fetchone()
    assert len({run_id for run_id, _, _ in rows}) == 1
    assert [step for _, step, figures in rows if "train/loss" in json.loads(figures)] == [1, 2, 3, 4, 5, 6]
    assert json.loads(config)["report_to"] == ["trackio"]


@pytest.fixture(scope="module")
def reported(warm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of a real worker that reports to what is installed and needs no network."""
    from colab_magics import worker
    from colab_magics.demo import data_path

    names = [name for name in ("tensorboard", "trackio") if trackers.find_spec(name)]
    if not names:
        pytest.skip("neither tensorboard nor trackio is installed")
    run = tmp_path_factory.mktemp("reported") / "pirate"
    run.mkdir()
    rows = data_path()
    chosen = recipe(*names, max_steps=6, effective_batch_size=2, max_length=64, packing=False)
    (run / "recipe.yaml").write_text(chosen.to_yaml())
    (run / "inputs.json").write_text(json.dumps({"train": {"kind": "path", "name": str(rows), "path": str(rows)}}))
    variables = {**warm.environment, "COLAB_MAGICS_CACHE": str(run.parent / "cache"), "OMP_NUM_THREADS": "1"}
    was, sys.executable = sys.executable, str(warm.python)
    try:
        process = worker.spawn(run, 1, env=variables)
    finally:
        sys.executable = was
    assert process.wait(200) == 0, (run / "worker-01.log").read_text()
    return run


def test_a_real_run_reports_to_all_that_it_names(reported: Path) -> None:
    events = read_events(reported / "events.jsonl")
    assert [event for event in events if event["kind"] == "warning"] == []
    told = [event["loss"] for event in events if event["kind"] == "step"]
    if trackers.find_spec("tensorboard"):
        shown = {event.step: event.value for event in scalars(reported).Scalars("train/loss")}
        assert shown == {step: pytest.approx(loss) for step, loss in enumerate(told, 1) if step in shown}
        assert max(shown) == 6, "the last step is always told"
    if trackers.find_spec("trackio"):
        with sqlite3.connect(reported / "trackio" / "colab_magics.db") as database:
            rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
        assert {name for name, _, _ in rows} == {"pirate"}
        assert (rows[-1][1], json.loads(rows[-1][2])["train/loss"]) == (6, pytest.approx(told[-1]))


def test_a_real_run_tells_its_memory_from_before_the_weights_to_the_end(reported: Path) -> None:
    events = read_events(reported / "events.jsonl")
    kinds = [event["kind"] for event in events]
    assert kinds.index("memory") < kinds.index("model")
    assert kinds[-1] == "finished"
    samples = [event for event in events if event["kind"] == "memory"]
    assert len(samples) >= 2
    assert all(sample["devices"] == [] and sample["rss"] > 0 for sample in samples)
    assert samples[-1]["cpu"] >= 0
    assert all(0 < sample["host"]["used"] < sample["host"]["total"] for sample in samples)


class Taken:
    """A dashboard in memory. It fails where `fails` says so, and hangs while `held` is not set."""

    def __init__(self, fails: Callable[[str], None] = lambda _call: None) -> None:
        self.steps: list[int] = []
        self.held = threading.Event()
        self.held.set()
        self.finished = False
        self._fails = fails

    @property
    def board(self) -> Dashboard:
        return Dashboard("taken", True, self._open, self._log)

    def _open(self, _first: int) -> Taken:
        self._fails("open")
        return self

    def _log(self, _tracker: Any, _figures: dict[str, float], step: int, _time: float) -> None:
        self.held.wait(60)
        self._fails(f"log {step}")
        self.steps.append(step)

    def finish(self) -> None:
        self._fails("finish")
        self.finished = True


def failing_at(*calls: str) -> Callable[[str], None]:
    def fails(call: str) -> None:
        if call in calls:
            raise OSError(28, "No space left\non device")

    return fails


def test_a_dashboard_that_cannot_be_opened_costs_one_warning_and_the_others_nothing(run: Path) -> None:
    write(run, 1, range(1, 6))
    broken, whole = Taken(failing_at("open")), Taken()
    (said,) = report(run, 1, [broken.board, whole.board])
    assert said.startswith("report_to: taken does not work: OSError: [Errno 28] No space left on device")
    assert said.endswith("the training goes on without it")
    assert whole.steps == [1, 2, 3, 4, 4, 5]
    assert whole.finished


def test_a_point_that_is_not_taken_costs_one_warning_and_the_next_is_told(run: Path) -> None:
    write(run, 1, range(1, 6))
    board = Taken(failing_at("log 1", "log 2", "finish"))
    (said,) = report(run, 1, [board.board])
    assert "did not take step 1" in said
    assert board.steps == [3, 4, 4, 5]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taken]:
    """A dashboard that takes nothing while the test lasts; the times for which it is waited are short."""
    monkeypatch.setattr(reporting, "_LEAVING", 0.1)
    monkeypatch.setattr(reporting, "_HANGS", 0.1)
    monkeypatch.setattr(reporting, "EVERY", 0.02)
    board = Taken()
    board.held.clear()
    yield board
    board.held.set()


def test_a_dashboard_that_hangs_is_told_of_once_and_left_behind(run: Path, hanging: Taken) -> None:
    write(run, 1, range(1, 6))
    whole, said = Taken(), []
    reports = Reports(run / "events.jsonl", 1, [hanging.board, whole.board], said.append)
    reports.start()
    deadline = time.monotonic() + 30
    while not (said and whole.steps) and time.monotonic() < deadline:
        time.sleep(0.01)
    write(run, 1, range(6, 9))  # nobody is in the worker's way
    reports.stop()
    reports.stop()
    assert len(said) == 1
    assert "taken has not answered for" in said[0]
    assert whole.steps[-1] == 8
    assert whole.finished
    assert hanging.steps == []


def test_a_dashboard_that_is_slow_at_the_end_is_told_of_and_left(run: Path, hanging: Taken) -> None:
    write(run, 1, range(1, 6))
    (said,) = report(run, 1, [hanging.board])
    assert "did not take the run's last figures in time" in said


def test_without_dashboards_there_is_no_thread(run: Path) -> None:
    before = set(threading.enumerate())
    reports = Reports(run / "events.jsonl", 1, dashboards(run, recipe()), pytest.fail)
    reports.start()
    assert set(threading.enumerate()) <= before
    reports.stop()


def test_a_run_that_takes_no_step_opens_no_dashboard(run: Path) -> None:
    write(run, 1, range(0))
    board = Taken(failing_at("open"))
    assert report(run, 1, [board.board]) == []
    assert not board.finished


def test_a_dashboard_that_is_not_new_is_told_of_its_own_attempt_only(run: Path) -> None:
    write(run, 1, range(1, 7))
    write(run, 2, range(5, 8), resumed=4)
    board = Taken()
    report(run, 2, [Dashboard("taken", False, board.board.open, board.board.log)])
    assert board.steps == [5, 6, 7]


def test_of_a_hundred_steps_a_second_ten_are_told_and_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "_CLOSEST", 0.1)
    steps = [
        {"kind": "step", "step": step, "loss": 1.0, "attempt": 1, "time": f"2026-11-21T10:00:00.{step:02d}0+00:00"}
        for step in range(100)
    ]
    score = {"kind": "eval", "step": 55, "loss": 1.0, "attempt": 1, "time": "2026-11-21T10:00:00.551+00:00"}
    points = thinned(Figures().points([*steps[:56], score, *steps[56:]]))
    assert [point.step for point in points if "eval/loss" in point.figures] == [55]
    told = [point.step for point in points if "train/loss" in point.figures]
    assert 10 <= len(told) <= 12
    assert (told[0], told[-1]) == (0, 99)


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "trackio" else object())
    check_trackers(recipe("tensorboard"))
    with pytest.raises(ColabMagicsError) as refused:
        check_trackers(recipe("tensorboard", "trackio"))
    assert refused.value.what == "report_to: trackio needs the package trackio, which is not installed."
    assert "%pip install trackio" in refused.value.next_steps[0]


def test_an_mlflow_without_a_database_is_told_unless_it_has_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "sqlalchemy" else object())
    with pytest.raises(ColabMagicsError, match="mlflow"):
        check_trackers(recipe("mlflow"), {})
    check_trackers(recipe("mlflow"), {"MLFLOW_TRACKING_URI": "http://localhost:5000"})


def test_wandb_without_a_key_is_refused_before_it_could_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _name: object())
    login = tmp_path / "netrc"
    with pytest.raises(ColabMagicsError, match="has no API key") as refused:
        check_trackers(recipe("wandb"), {"NETRC": str(login)})
    assert any("WANDB_API_KEY" in step for step in refused.value.next_steps)
    assert any("WANDB_MODE=offline" in step for step in refused.value.next_steps)
    check_trackers(recipe("wandb"), {"NETRC": str(login), "WANDB_API_KEY": "k"})
    check_trackers(recipe("wandb"), {"NETRC": str(login), "WANDB_MODE": "offline"})
    login.write_text("machine api.wandb.ai login user password k\n")
    login.chmod(0o600)
    check_trackers(recipe("wandb"), {"NETRC": str(login)})
    with pytest.raises(ColabMagicsError, match="has no API key"):
        check_trackers(recipe("wandb"), {"NETRC": str(login), "WANDB_BASE_URL": "https://wandb.example.org"})
