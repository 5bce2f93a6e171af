"""What a cell says, returns or raises for each way in which a run can end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.magics.cell import Cell, conclude
from colab_magics.magics.died import ended
from colab_magics.magics.display import Nowhere
from colab_magics.magics.follow import Died, Failed, Finished, Followed, Killed, LeftRunning, Outcome
from colab_magics.magics.options import Options
from colab_magics.panel.state import PanelState
from colab_magics.panel.words import footer
from colab_magics.run import Run

pytestmark = pytest.mark.face

STEP = {"kind": "step", "step": 40, "total_steps": 1200, "loss": 1.0, "time": "2026-11-21T06:00:00.000+00:00"}
AT_STEP_40 = PanelState().fold(STEP)
SECRET = "hf_" + "T" * 30


class Ended:
    """A cell whose run ended in some way, and all that it said."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.namespace: dict[str, Any] = {}
        self.run = Run(root / "kwanzaa")
        self.run.folder.mkdir()
        self.cell = Cell(Options(out="run", **options), "", self.namespace, root, Nowhere(), self.said.append)

    def conclude(self, outcome: Outcome, state: PanelState = AT_STEP_40, interrupts: int = 0) -> Run:
        return conclude(self.cell, self.run, Followed(outcome, state, interrupts), self.run.folder, 1)


def test_a_finished_run_is_bound_and_returned_without_a_word(tmp_path: Path) -> None:
    ended = Ended(tmp_path)
    assert ended.conclude(Finished({"reason": "completed"})) == ended.run
    assert ended.namespace == {"run": ended.run}
    assert ended.said == []


@pytest.mark.parametrize(
    ("outcome", "interrupts", "said"),
    [
        (Finished({"reason": "stopped"}), 1, "stopped after step 40 of 1,200"),
        (Finished({"reason": "stopped"}), 0, "stopped after step 40 of 1,200"),  # from another notebook
        (Finished({"reason": "completed"}), 1, "had just finished"),
        (Killed(40), 2, "ended at once at step 40 of 1,200"),
        (Died(-15, 40), 1, "ended at once at step 40"),
        (Failed(Interrupted("stopped while loading"), ""), 1, "ended at once"),
    ],
)
def test_every_interrupt_raises_one_line_after_the_run_is_bound(
    tmp_path: Path, outcome: Outcome, interrupts: int, said: str
) -> None:
    ended = Ended(tmp_path)
    with pytest.raises(Interrupted) as raised:
        ended.conclude(outcome, interrupts=interrupts)
    (line,) = raised.value.lines()
    assert said in line
    assert "again" in line or "when ready" in line
    assert ended.namespace == {"run": ended.run}


def test_a_stop_before_the_first_step_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="before its first step"):
        Ended(tmp_path).conclude(Failed(Interrupted("stopped while reading"), ""), PanelState(), 1)


def test_the_workers_own_error_is_raised_as_it_is(tmp_path: Path) -> None:
    error = ColabMagicsError("The loss is not a number at step 40.", "", "Lower learning_rate.")
    with pytest.raises(ColabMagicsError) as raised:
        Ended(tmp_path).conclude(Failed(error, "Traceback"))
    assert raised.value is error


def test_the_traceback_is_shown_when_asked_for_and_holds_no_token(tmp_path: Path, capsys: Any) -> None:
    failed = Failed(ColabMagicsError("It failed."), f"Traceback\n  token={SECRET} \x1b[31m")
    with pytest.raises(ColabMagicsError):
        Ended(tmp_path).conclude(failed)
    assert capsys.readouterr().err == ""
    (tmp_path / "again").mkdir()
    with pytest.raises(ColabMagicsError):
        Ended(tmp_path / "again", traceback=True).conclude(failed)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert SECRET not in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [(-9, "memory has run out"), (-11, "signal 11"), (1, "code 1"), (None, "end of its log")],
)
def test_a_worker_that_died_is_told_with_the_end_of_its_log_and_no_token(
    tmp_path: Path, exit_code: int | None, reason: str
) -> None:
    ended = Ended(tmp_path)
    log = "".join(f"line {number}\n" for number in range(50)) + f"ImportError: \x1b[31m{SECRET}\n"
    (ended.run.folder / "worker-01.log").write_text(log)
    with pytest.raises(ColabMagicsError) as raised:
        ended.conclude(Died(exit_code, 40))
    lines = raised.value.lines()
    text = "\n".join(lines)
    assert 3 <= len(lines) <= 8
    assert reason in text
    assert "ImportError: hf_***" in text
    assert "worker-01.log" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("exit_code", "reason"), [(-15, "log is empty"), (2, "log is empty"), (None, "left nothing")])
def test_a_worker_that_died_with_an_empty_log_promises_no_lines_of_it(
    tmp_path: Path, exit_code: int | None, reason: str
) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        Ended(tmp_path).conclude(Died(exit_code, 40))
    assert reason in raised.value.why


def test_the_panel_of_a_worker_that_died_says_what_the_cell_says_and_how_to_go_on(tmp_path: Path) -> None:
    gone = Ended(tmp_path)
    saved = AT_STEP_40.fold({"kind": "checkpoint", "action": "saved", "step": 30, "bytes": 9})
    state = ended(gone.run, saved, gone.run.folder, exit_code=-9)
    assert state.failure[0] == "The worker of kwanzaa ended without a word at step 40."
    assert "signal 9" in state.failure[1]
    assert state.ended_clock == AT_STEP_40.marks[-1].clock
    assert footer(replace(state, name="kwanzaa")) == ["%checkpoint resume kwanzaa goes on from step 30."]
    assert "starts over" in footer(replace(state, saved=None))[0]


def test_background_says_how_to_come_back_and_warns_on_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Ended(tmp_path, background=True)
    assert ended.conclude(LeftRunning()) == ended.run
    assert len(ended.said) == 1
    assert "%panel kwanzaa" in ended.said[0]
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    ended.conclude(LeftRunning())
    assert "idle" in ended.said[-1]


def test_quiet_says_nothing(tmp_path: Path) -> None:
    ended = Ended(tmp_path, background=True, quiet=True)
    ended.conclude(LeftRunning())
    assert ended.said == []
