"""Trials: each value is trained for a short while, what is done is not done again, and the best is trained in full."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import trials as controller
from colab_magics.magics.cell import Cell, train
from colab_magics.magics.display import Terminal
from colab_magics.magics.options import Options, read_line
from colab_magics.magics.trials_best import train_best
from colab_magics.magics.trials_kept import Kept, KeptTrial, Length, kept_names, read_kept
from colab_magics.magics.trials_shown import Trials
from colab_magics.panel.trials import Trial
from colab_magics.recipe import Recipe, parse
from colab_magics.run import Run

from .checkpointed import Left

pytestmark = pytest.mark.xdist_group("trials")
needs_torch = pytest.mark.usefixtures("_torch")

PIRATE = Path(__file__).resolve().parents[2] / "colab_magics" / "demo" / "pirate.jsonl"
RATES = "learning_rate: [1e-4, 1e-2, 0.5]"


@pytest.fixture
def _torch() -> None:
    pytest.importorskip("torch")


@dataclass
class Notebook:
    """A notebook without a kernel: cells are called, and what they print is kept."""

    folder: Path
    namespace: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    drawn: io.StringIO = field(default_factory=io.StringIO)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def cell(self, body: str, **options: Any) -> Cell:
        self.said.clear()
        self.drawn = io.StringIO()
        given = Options(name=options.pop("name", "pirate"), **options)
        return Cell(given, body, self.namespace, self.runs, Terminal(self.drawn), self.said.append)

    def tries(self, body: str, **options: Any) -> Trials:
        made = train(self.cell(self.body(body), **options))
        assert isinstance(made, Trials)
        return made

    def best(self, **options: Any) -> Run:
        return train_best(self.cell("", **options))

    def body(self, more: str) -> str:
        return (
            f"model: demo\ndata: {self.folder / 'train.jsonl'}\neval_data: {self.folder / 'held.jsonl'}\n"
            f"effective_batch_size: 8\nmax_steps: 8\n{more}\n"
        )

    def begun(self) -> dict[str, int]:
        """How many attempts each run has had."""
        return {run.name: Run(run).attempts for run in sorted(self.runs.iterdir()) if run.is_dir()}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, warm: Any) -> Iterator[Notebook]:
    """One with the demo's rows, whose workers start in a moment."""
    folder = tmp_path_factory.mktemp("trials")
    rows = PIRATE.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(rows[:60]))
    (folder / "held.jsonl").write_text("".join(rows[60:70]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm.python))
        for name, value in warm.environment.items():
            patch.setenv(name, value)
        patch.setenv("COLAB_MAGICS_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield Notebook(folder)


@pytest.fixture(scope="module")
def tried(notebook: Notebook) -> Trials:
    """Three learning rates of the demo model on its pirate rows, half as long as the full training."""
    pytest.importorskip("torch")
    return notebook.tries(RATES, out="trials")


@needs_torch
def test_the_best_of_three_learning_rates_is_found_by_the_evaluation(notebook: Notebook, tried: Trials) -> None:
    assert [row["run"] for row in tried.rows] == ["pirate-trial-1", "pirate-trial-2", "pirate-trial-3"]
    assert all(row["state"] == "finished" for row in tried.rows)
    assert tried.best_by == "eval_loss"
    losses = [row["eval_loss"] for row in tried.rows]
    assert tried.best_values == {"learning_rate": [1e-4, 1e-2, 0.5][losses.index(min(losses))]}
    assert tried.best_values == {"learning_rate": 1e-2}
    assert tried.best == Run(notebook.runs / "pirate-trial-2")
    assert notebook.namespace["trials"] is tried
    assert repr(tried) == "Trials('pirate', 3 of 3 finished; best: learning_rate 1e-2)"


@needs_torch
def test_all_trials_take_the_same_samples_in_the_same_order_and_begin_at_the_same_loss(
    notebook: Notebook, tried: Trials
) -> None:
    steps = [
        [event for event in Run(notebook.runs / row["run"]).events() if event["kind"] == "step"] for row in tried.rows
    ]
    assert [[(step["step"], step["tokens"]) for step in one] for one in steps] == [
        [(step["step"], step["tokens"]) for step in steps[0]]
    ] * 3
    assert len({one[0]["loss"] for one in steps}) == 1
    assert len(steps[0]) == 4
    assert all(step["total_steps"] == 4 for one in steps for step in one)


@needs_torch
def test_the_rows_are_tokenised_once(notebook: Notebook, tried: Trials) -> None:
    data = [
        event["cached"]
        for row in tried.rows
        for event in Run(notebook.runs / row["run"]).events()
        if event["kind"] == "data"
    ]
    assert data == [True] * 6
    assert len(list((notebook.folder / "cache" / "tokens").iterdir())) == 2


@needs_torch
def test_the_table_is_a_data_frame_where_pandas_is_there(tried: Trials) -> None:
    pd = pytest.importorskip("pandas")
    assert isinstance(tried.table, pd.DataFrame)
    assert list(tried.table["learning_rate"]) == [1e-4, 1e-2, 0.5]
    assert tried.table["memory"].min() > 2**20
    assert tried.table["best"].sum() == 1


@needs_torch
def test_the_same_cell_again_trains_nothing_and_shows_the_table(notebook: Notebook, tried: Trials) -> None:
    before = notebook.begun()
    again = notebook.tries(RATES)
    assert again.rows == tried.rows
    assert notebook.begun() == before
    shown = notebook.drawn.getvalue()
    assert "pirate: 3 of 3 trials" in shown
    assert "%finetune best pirate trains learning_rate 1e-2 for 8 steps from the beginning" in shown
    assert "starting the worker" not in shown


@needs_torch
def test_the_full_run_of_the_best_starts_from_scratch_at_the_trials_first_loss(
    notebook: Notebook, tried: Trials
) -> None:
    full = notebook.best(out="full")
    assert notebook.namespace["full"] == full
    assert (full.name, full.state, full.recipe.learning_rate) == ("pirate", "finished", 1e-2)
    assert full.recipe == parse(notebook.body("learning_rate: 1e-2")).recipe
    assert len(full.losses) == 8
    assert full.losses[0] == tried.rows[1]["first_loss"]
    rates = [event["learning_rate"] for event in full.events() if event["kind"] == "step"]
    trial = [event["learning_rate"] for event in tried.best.events() if event["kind"] == "step"]  # type: ignore[union-attr]
    assert rates[4] > 0.4 * max(rates), "its schedule is that of eight steps"
    assert trial[-1] < 0.5 * max(trial)
    clocks = {Run(notebook.runs / name).events()[0]["clock"] for name in ("pirate", "pirate-trial-1", "pirate-trial-3")}
    assert len(clocks) == 1, "a template that prints the date prints the same in all of them"
    assert None not in clocks
    assert any("best of 3 trials in full: learning_rate 1e-2" in line for line in notebook.said)
    assert notebook.best() == full, "the same line again shows what there is"
    assert full.attempts == 1


@needs_torch
def test_other_lists_train_what_is_missing_and_a_trial_that_cannot_is_a_row(notebook: Notebook, tried: Trials) -> None:
    before = notebook.begun()
    more = notebook.tries("learning_rate: 1e-2\nr: [16, 10000000]")
    assert [(row["run"], row["r"], row["state"]) for row in more.rows] == [
        ("pirate-trial-2", 16, "finished"),
        ("pirate-trial-4", 10**7, "failed"),
    ]
    assert "fit" in more.rows[1]["reason"]
    assert more.best == tried.best
    assert notebook.begun() == before


@needs_torch
def test_a_trial_that_failed_while_it_trained_keeps_its_reason_and_is_not_trained_again(
    notebook: Notebook, tried: Trials, tmp_path: Path
) -> None:
    log = notebook.runs / "pirate-trial-3" / "events.jsonl"
    whole = log.read_text()
    *lines, _ = whole.splitlines(keepends=True)
    error = ColabMagicsError("The loss is not a finite number at step 4.").to_dict()
    failed = {"time": "2026-01-01T00:00:00+00:00", "kind": "failed", "attempt": 1, "error": error}
    log.write_text("".join([*lines, json.dumps(failed) + "\n"]))
    try:
        again = notebook.tries(RATES)
        assert (again.rows[2]["state"], again.rows[2]["reason"]) == ("failed", error["what"])
        assert Run(log.parent).attempts == 1
        assert "failed: The loss is not a finite number at step 4." in notebook.drawn.getvalue()
    finally:
        log.write_text(whole)


@needs_torch
def test_bad_input_is_found_once_and_leaves_nothing(notebook: Notebook, tried: Trials) -> None:
    before = sorted(notebook.runs.iterdir())
    with pytest.raises(ColabMagicsError, match="nowhere"):
        notebook.tries(f"{RATES}\ncolumns: {{prompt: nowhere, completion: completion}}", name="other")
    assert sorted(notebook.runs.iterdir()) == before


@needs_torch
def test_trials_without_an_end_of_the_session_in_sight_are_refused_with_how_many_fit(
    notebook: Notebook, tried: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "_guessed", lambda *_: 600.0)
    before = sorted(notebook.runs.iterdir())
    with pytest.raises(ColabMagicsError) as refused:
        notebook.tries("learning_rate: [1e-4, 2e-4, 3e-4, 4e-4]", name="long", deadline=300.0 + 1500.0)
    said = "\n".join(refused.value.lines())
    assert "The session ends before 4 trials would: they take about 40 min." in said
    assert "which is enough for 2" in said
    assert "trials: 2" in said
    assert sorted(notebook.runs.iterdir()) == before


@needs_torch
@pytest.mark.parametrize(
    ("trials", "each", "says"),
    [
        (1, 7.4, "One trial takes about 7 s."),
        (2, 7.4, "2 trials take about 14 s, of about 7 s each."),
        (3, 7.4, "3 trials take about 21 s, of about 7 s each."),
        (3, 44.0, "3 trials take about 2:15 min, of about 45 s each."),
        (4, 251.0, "4 trials take about 16:00 min, of about 4:00 min each."),
        (5, 4000.0, "5 trials take about 5:25 h, of about 1:05 h each."),
        (2, 0.1, "2 trials take about 2 s, of about 1 s each."),
    ],
)
def test_the_time_of_all_trials_is_that_of_each_so_many_times(
    tmp_path: Path, trials: int, each: float, says: str
) -> None:
    said: list[str] = []
    cell = Cell(Options(), "", {}, tmp_path, Terminal(), said.append)
    waiting = [Trial(f"t-trial-{number}", {"learning_rate": 1e-4}) for number in range(trials)]
    controller._check_time(cell, waiting, each)
    assert said == [says]


def test_a_new_machine_fetches_the_trials_from_the_replica_and_trains_none_again(
    notebook: Notebook, tmp_path: Path
) -> None:
    body = f"learning_rate: [1e-3, 1e-2]\ntrial_steps: 2\nreplica: {tmp_path / 'copies'}"
    there = notebook.tries(body, name="far")
    for left in notebook.runs.glob("far-*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    here = notebook.tries(body, name="far")
    assert here.rows == there.rows
    assert {name: count for name, count in notebook.begun().items() if name.startswith("far")} == {
        "far-trial-1": 1,
        "far-trial-2": 1,
    }


@pytest.mark.parametrize(
    ("full", "search", "steps", "why"),
    [
        (610, "", 61, "a tenth of the full training's 610"),
        (61, "", 20, "fewer say little; the full training has 61"),
        (20, "", 10, "half of the full training's 20"),
        (9000, "", 200, "more say little more; the full training has 9,000"),
        (61, "trial_steps: 30", 30, "trial_steps says so"),
        (9, "trial_steps: 30", 9, "trial_steps says so"),
        (61, "trial_samples: 100", 7, "trial_samples says so"),
    ],
)
def test_a_trial_is_as_long_as_the_cell_says_else_a_tenth_within_bounds(
    full: int, search: str, steps: int, why: str
) -> None:
    asked = parse(f"model: demo\ndata: demo\nr: [8, 16]\n{search}").search
    assert asked is not None
    plan = {"choices": {"total_steps": {"value": full}, "effective_batch": {"value": 16}}}
    length = controller._length(asked, plan)
    assert (length.of(asked.recipes[0]), length.why) == (steps, why)


def test_a_larger_batch_takes_fewer_steps_over_the_same_documents() -> None:
    asked = parse("model: demo\ndata: demo\neffective_batch_size: [8, 16, 32]").search
    assert asked is not None
    plan = {"choices": {"total_steps": {"value": 400}, "effective_batch": {"value": 8}}}
    length = controller._length(asked, plan)
    assert [length.of(recipe) for recipe in asked.recipes] == [40, 20, 10]


@pytest.mark.parametrize(("steps", "standing"), [(0, "waiting"), (3, "failed")])
def test_a_trial_that_failed_before_its_first_step_says_nothing_of_its_values_and_is_tried_again(
    tmp_path: Path, steps: int, standing: str
) -> None:
    left = Left(tmp_path, "pirate-trial-1")
    for step in range(1, steps + 1):
        left.tell("step", step=step, loss=3.0)
    left.tell("failed", error=ColabMagicsError("The disk is full.").to_dict())
    recipe = parse("model: demo\ndata: demo").recipe
    trial = controller._as_it_is(tmp_path, controller._Wanted("pirate-trial-1", recipe, recipe, {"r": 8}))
    assert trial.standing == standing
    assert trial.reason == ("The disk is full." if steps else "")


def test_called_is_for_best_alone() -> None:
    def no_keys() -> frozenset[str]:
        return frozenset()

    asked = read_line("best pirate --called pirate-full", no_keys)
    assert (asked.command, asked.name, asked.called) == ("best", "pirate", "pirate-full")
    with pytest.raises(ColabMagicsError, match="takes no --called") as refused:
        read_line("pirate --called other", no_keys)
    assert "%finetune best" in refused.value.lines()[-1]


@pytest.mark.parametrize("option", [{"fork": "other"}, {"background": True}, {"override": True}])
def test_what_is_for_one_run_is_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ColabMagicsError, match="is for one run, and the cell holds lists"):
        Notebook(tmp_path).tries(RATES, **option)
    assert not (tmp_path / "runs").exists()


def test_best_of_nothing_names_what_there_is(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    with pytest.raises(ColabMagicsError, match="There are no trials in"):
        notebook.best(name=None)
    length = Length(9, None, 8, 90, "")
    Kept(
        "kwanzaa", "", "", "loss", length, (KeptTrial("kwanzaa-trial-1", {"r": 8}, "model: demo\ndata: demo\n"),)
    ).write(notebook.runs)
    assert kept_names(notebook.runs) == ["kwanzaa"]
    with pytest.raises(ColabMagicsError) as unknown:
        notebook.best(name="kwanza")
    assert "Did you mean kwanzaa?" in unknown.value.lines()[-1]
    with pytest.raises(ColabMagicsError, match="None of the trials of kwanzaa is finished"):
        notebook.best(name=None)


def test_a_damaged_file_of_trials_is_none(tmp_path: Path) -> None:
    (tmp_path / "a-trials.json").write_text('{"name": "a"')
    assert read_kept("a", tmp_path) is None


def test_two_trials_that_fail_alike_before_their_first_step_end_the_cell_with_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fails(cell: Cell, recipe: Recipe) -> Run:
        asked.append(str(cell.options.name))
        raise ColabMagicsError("The Hub does not answer.", "", "Try later.")

    monkeypatch.setattr(controller, "train_recipe", fails)
    plan = {"kind": "plan", "choices": {"total_steps": {"value": 90}, "effective_batch": {"value": 8}}}
    monkeypatch.setattr(controller, "preflight", lambda *_: ({}, [plan]))
    notebook = Notebook(tmp_path)
    for name in ("train", "held"):
        shutil.copy(PIRATE, tmp_path / f"{name}.jsonl")
    with pytest.raises(ColabMagicsError) as raised:
        notebook.tries(RATES)
    assert raised.value.lines() == ["The Hub does not answer.", "→ Try later."]
    assert asked == ["pirate-trial-1", "pirate-trial-2"]
