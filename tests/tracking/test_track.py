"""A tracked loop: its log, its checkpoints, and the cell that is run again. Plain numbers; no torch is needed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk

from colab_magics import worker
from colab_magics.checkpoints.interval import Every
from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.magics import track as face
from colab_magics.session.budget import SAVE_BEFORE
from colab_magics.session.deadline import Deadline
from colab_magics.tracking.figures import EVERY
from colab_magics.tracking.saving import Saver

from .conftest import Died, Root

pytestmark = [pytest.mark.colab, pytest.mark.face]


def test_every_figure_is_in_the_log_when_the_loop_has_ended(root: Root) -> None:
    with root.track(total=1000) as run:
        for number in range(1000):
            run.log(loss=number / 3, other=number)
    assert (run.step, run.done, run.total) == (1000, 1000, 1000)
    assert root.run().losses == [number / 3 for number in range(1000)]
    others = [value for event in root.events(kind="step") for value in event.get("each", {}).get("other", [None])]
    assert len(others) == 1000
    assert root.events(kind="finished")[0]["reason"] == "completed"
    assert root.run().state == "finished"


def test_a_cell_run_again_goes_on_from_the_newest_checkpoint(root: Root, broken_off: Callable[..., None]) -> None:
    broken_off(5, {"best": 0})
    state = {"best": 0}
    with root.track(state=state) as run:
        assert (run.resumed, run.step) == (True, 4)
        taken = list(run.rest(range(100)))
        run.log(loss=0.0)
    assert taken[0] == 4
    assert root.run().attempts == 2
    assert root.events(kind="resumed")[0]["lost_steps"] == 1


def test_numbers_of_the_state_are_put_back_into_the_persons_own_dict(root: Root) -> None:
    state = {"best": 1.0, "seen": []}
    with pytest.raises(Died), root.track(state=state, save_every="1 steps") as run:
        state["best"] = 0.5
        state["seen"].append("a")
        run.log(loss=1)
        raise Died
    again: dict[str, Any] = {"best": 1.0, "seen": []}
    with root.track(state=again) as run:
        assert run.state is again
        assert again == {"best": 0.5, "seen": ["a"]}


def test_without_a_checkpoint_it_starts_over(root: Root) -> None:
    with pytest.raises(Died), root.track() as run:
        run.log(loss=1)
        raise Died
    with root.track() as run:
        assert (run.resumed, run.step) == (False, 0)
        run.log(loss=2)
    assert root.run().losses == [2]


def test_a_finished_loop_has_nothing_left_to_do_and_again_begins_beside_it(root: Root) -> None:
    def cell(**options: Any) -> list[int]:
        with root.track(total=3, **options) as run:
            taken = []
            for number in run.rest(range(3)):
                taken.append(number)
                run.log(loss=number)
        return taken

    assert cell() == [0, 1, 2]
    assert cell() == []
    assert root.run().state == "finished"
    assert cell(again=True) == [0, 1, 2]
    assert cell() == [], "the newest of its name is the run of that name"
    assert root.events("loop-2", "started")[0]["again_of"] == "loop"


def test_a_step_of_what_is_finished_is_refused(root: Root) -> None:
    with root.track() as run:
        run.log(loss=1)
    with pytest.raises(ColabMagicsError, match="is finished"), root.track() as run:
        run.log(loss=1)
        run.save()


def test_a_larger_total_goes_on_with_what_was_finished(root: Root) -> None:
    for total in (3, 5):
        with root.track(total=total) as run:
            while run.done < total:
                run.log(loss=run.step)
    assert root.run().losses == [0, 1, 2, 3, 4]


def test_a_loop_that_is_left_early_says_what_that_means(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    with root.track(total=10, panel="text") as run:
        for number in run.rest(range(10)):
            run.log(loss=number)
            if number == 2:
                break
    said = capsys.readouterr().out
    assert "loop was left at 3 of 10 steps, and counts as finished" in said
    assert "a larger total goes on" in said


def test_one_that_was_left_because_it_converged_is_not_asked_about(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    with root.track(total=10, panel="text") as run:
        for _ in run.rest(range(10)):
            run.log(delta=1.0)
            if run.converged("delta", patience=2):
                break
    assert run.done == 3
    assert "counts as finished" not in capsys.readouterr().out


def test_a_loop_that_counts_nothing_is_told_so_once(root: Root) -> None:
    for unit, told in (("tokens", 1), ("samples", 0)):
        with root.track(unit, unit=unit, total=100) as run:
            for _ in range(4):
                run.log(loss=1.0, samples=10)
                run.save()
        warnings = root.events(unit, "warning")
        assert len(warnings) == told
    assert "no tokens are counted: log has loss, samples" in root.events("tokens", "warning")[0]["message"]


def test_an_exception_stays_as_it_is_and_saves_no_half_step(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError) as raised, root.track(panel="text", save_every="2 steps") as run:
        for number in range(9):
            1 / (3 - number)
            run.log(loss=number)
    assert raised.traceback[-1].path == Path(__file__)
    assert raised.value.__context__ is None
    assert root.checkpoints() == ["00000002-a1"]
    assert "loop failed after step 3; run the cell again to go on from step 2." in capsys.readouterr().out
    assert root.run().state == "failed"


def test_of_one_that_failed_one_line_says_from_where_it_goes_on(
    root: Root, broken_off: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken_off(3)
    broken_off(7, panel="text")
    said = capsys.readouterr().out
    assert "Went on from step 2, checkpoint 00000002-a1; 1 step since then was run again." in said
    last = said.partition("loop: failed after step 7")[2]
    assert [line for line in last.splitlines() if "go on from" in line or "goes on from" in line] == [
        "loop failed after step 7; run the cell again to go on from step 6."
    ]


def test_an_interrupt_saves_at_the_next_log_and_ends_in_one_line(root: Root) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as ended, root.track(total=99) as run:
        for _ in range(99):
            if run.step == 4:
                os.kill(os.getpid(), signal.SIGINT)
            run.log(loss=1)
    assert ended.value.lines() == [
        "Interrupted: loop stopped after step 5 (5 of 99 steps); run the cell again to go on from step 5."
    ]
    assert root.run().state == "unfinished"
    assert signal.getsignal(signal.SIGINT) is before


def test_no_except_exception_of_a_loop_swallows_an_interrupt(root: Root) -> None:
    caught: list[Exception] = []
    with pytest.raises(Interrupted), root.track() as run:
        for _ in range(9):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                run.log(loss=1)
            except Exception as error:
                caught.append(error)
    assert caught == []


def test_interrupted_twice_it_ends_at_once_and_saves_nothing(root: Root) -> None:
    with pytest.raises(Interrupted, match="was ended at once at step 1"), root.track() as run:
        run.log(loss=1)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert root.checkpoints() == []


def test_it_is_stopped_and_told_to_save_from_elsewhere(root: Root) -> None:
    with pytest.raises(Interrupted, match="stopped after step 3"), root.track() as run:
        for number in range(9):
            if number == 1:
                worker.Control(run.folder).send("save")
            if number == 2:
                worker.Control(run.folder).send("stop")
            run.hurry()
            run.log(loss=1)
    saved = [event["step"] for event in root.events(kind="checkpoint") if event["action"] == "saved"]
    assert saved == [2, 3]


def test_no_order_kills_the_kernel_that_it_runs_in(root: Root) -> None:
    with pytest.raises(Interrupted, match="was ended at once"), root.track() as run:
        assert worker.is_alive(run.folder)
        assert worker.alive_pid(run.folder) is None
        threading.Thread(target=worker.kill, args=(run.folder,)).start()
        while "stop-now" not in worker.Control(run.folder).pending():
            pass
        run.hurry()
        run.log(loss=1)
    assert root.checkpoints() == []


def test_the_sessions_end_stops_it_in_good_order_and_without_an_error(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(face, "Deadline", lambda **_: Deadline(299.0))
    with root.track(panel="text") as run:
        for _ in range(9):
            run.log(loss=1)
    assert run.stopped == "deadline"
    assert run.step == 1
    assert root.events(kind="finished")[0]["reason"] == "deadline"
    assert "stopped in good order before the session's end" in capsys.readouterr().out


def test_two_loops_go_on_at_once(root: Root) -> None:
    with root.track("a", {"x": 1}) as a, root.track("b", {"y": 2}) as b:
        for number in range(5):
            a.log(loss=number)
            b.log(loss=10 + number)
    assert root.run("a").losses == [0, 1, 2, 3, 4]
    assert root.run("b").losses == [10, 11, 12, 13, 14]


def test_an_interrupt_ends_both_of_two_loops(root: Root) -> None:
    with pytest.raises(Interrupted), root.track("a") as a, root.track("b") as b:
        for _ in range(5):
            a.log(loss=1)
            b.log(loss=1)
            os.kill(os.getpid(), signal.SIGINT)
    assert root.checkpoints("a") == ["00000002-a1"]


def test_one_name_is_tracked_once_at_a_time(root: Root) -> None:
    with root.track() as run:
        with pytest.raises(ColabMagicsError, match="at work already, in this notebook"), root.track():
            pass
        run.log(loss=1)
    assert root.run().state == "finished"


def test_log_may_be_called_from_other_threads(root: Root) -> None:
    with root.track() as run:

        def work() -> None:
            for _ in range(200):
                run.log(loss=1.0)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert run.step == 800
    assert len(root.run().losses) == 800


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # python itself is silent
def test_a_thread_that_logs_is_ended_by_a_stop_and_the_cell_says_so(root: Root) -> None:
    with pytest.raises(Interrupted, match="stopped after"), root.track() as run:

        def work() -> None:
            while True:
                run.hurry()
                run.log(loss=1.0)

        worker.Control(run.folder).send("stop")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()


def test_an_empty_state_and_no_figures_are_fine(root: Root) -> None:
    with root.track() as run:
        run.log()
    assert run.step == 1
    assert root.checkpoints() == ["00000001-a1"]


def test_a_figure_that_is_no_number_is_refused_by_name(root: Root) -> None:
    with pytest.raises(ColabMagicsError) as refused, root.track() as run:
        run.log(loss=1, note="good")
    assert refused.value.what == "log(note=…) takes a number."


def test_nan_is_told_as_what_it_is(root: Root) -> None:
    with root.track() as run:
        run.log(loss=math.nan)
    assert root.events(kind="step")[0]["loss"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"save_every": "often"}, {"total": -1}, {"save_total_limit": 0}, {"panel": "big"}, {"state": {1: 2}}],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_written(root: Root, wrong: dict[str, Any]) -> None:
    with pytest.raises(ColabMagicsError):
        root.track(**wrong)
    assert not root.folder.exists()


@pytest.mark.parametrize("wrong", [3, "net", [1, 2], [("a", 1)], object(), len], ids=lambda one: type(one).__name__)
def test_a_state_that_is_no_dict_is_refused_with_what_to_write(root: Root, wrong: Any) -> None:
    with pytest.raises(ColabMagicsError, match=f"state is of type {type(wrong).__name__}") as refused:
        root.track(state=wrong)
    assert refused.value.next_steps == ('Write state={"model": net}.',)
    assert not root.folder.exists()


def test_what_cannot_be_saved_is_refused_before_anything_is_written(root: Root) -> None:
    with pytest.raises(ColabMagicsError, match=r'state\["fn"\] cannot be saved'):
        root.track(state={"fn": lambda: 0})
    assert not root.folder.exists()


def test_what_cannot_be_saved_any_more_is_told_and_the_loop_goes_on(root: Root) -> None:
    state: dict[str, Any] = {"x": 1}
    with root.track(state=state, save_every="1 steps") as run:
        state["x"] = object()
        run.log(loss=1)
        state["x"] = 2
        run.log(loss=1)
    actions = [event["action"] for event in root.events(kind="checkpoint")]
    assert actions[:2] == ["failed", "saved"]


def test_a_changed_state_is_refused_and_the_checkpoints_stay(root: Root, broken_off: Callable[..., None]) -> None:
    broken_off(5, {"best": 0})
    there = root.checkpoints()
    with pytest.raises(ColabMagicsError, match=r'state\["other"\] is new'), root.track(state={"best": 0, "other": 1}):
        pass
    assert root.checkpoints() == there
    assert not worker.is_alive(root.folder / "loop")


def test_a_torn_checkpoint_is_passed_over_named_and_kept_aside(root: Root, broken_off: Callable[..., None]) -> None:
    broken_off(5)
    path = root.folder / "loop" / "checkpoints" / "00000004-a1" / "state.json"
    path.write_bytes(path.read_bytes()[:-20])
    with root.track() as run:
        assert run.step == 2
    assert any("00000004-a1 is broken" in event["message"] for event in root.events(kind="warning"))
    assert any(name.startswith(".broken-00000004-a1") for name in root.checkpoints())


def test_retention_keeps_the_newest_and_the_best(root: Root) -> None:
    with root.track(save_every="1 steps", save_total_limit=2) as run:
        for loss in (3, 1, 2, 4, 5, 6):
            run.log(eval_loss=loss)
            run.saver.wait()
    assert root.checkpoints() == ["00000002-a1", "00000005-a1", "00000006-a1"]


def test_the_early_save_comes_once_and_again_where_the_end_was_put_off(tmp_path: Path) -> None:
    left = [3600.0, SAVE_BEFORE, SAVE_BEFORE - 9, 3600.0, SAVE_BEFORE - 1, 1.0]
    now = iter(left)
    saver = Saver(tmp_path, "run", 1, Every(seconds=1e6), 3, {}, lambda *_, **__: None, left=lambda: next(now))
    assert [saver.due(step, asked=False) for step, _ in enumerate(left)] == [
        None, "deadline", None, None, "deadline", None
    ]  # fmt: skip


def test_a_save_that_failed_is_not_called_saved_when_it_is_asked_for_again(root: Root) -> None:
    with root.track(save_every=1e6) as run:
        run.log(loss=1)
        checkpoints = root.folder / "loop" / "checkpoints"
        checkpoints.rmdir()
        checkpoints.write_text("no folder")
        run.save()
        run.saver.wait()
        checkpoints.unlink()
        checkpoints.mkdir()
        run.save()
        run.saver.wait()
        assert len(root.checkpoints()) == 1
    assert [event["action"] for event in root.events(kind="checkpoint")][:2] == ["failed", "saved"]


def test_a_full_disk_ends_no_loop_and_is_told(tmp_path: Path, root: Root) -> None:
    with small_disk(tmp_path / "disk", "256k") as place:
        with root.track(root=place, state={"text": "x" * 400_000}, save_every="1 steps") as run:
            for _ in range(3):
                run.log(loss=1)
        events = [json.loads(line) for line in (place / "loop" / "events.jsonl").read_text().splitlines()]
    failed = [event for event in events if event["kind"] == "checkpoint"]
    assert {event["action"] for event in failed} == {"failed"}
    assert "it needs" in failed[0]["message"]
    assert run.step == 3


LOOP = """
import colab_magics, sys, time
with colab_magics.track("loop", {"n": 0}, unit="steps", root=sys.argv[1], panel="off", replica="none") as run:
    for number in range(10**9):
        run.log(loss=number)
        print(number, flush=True)
        time.sleep(0.002)
"""


def test_a_kill_loses_no_more_than_the_last_second_of_figures(root: Root, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOOP, str(root.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **worker.importable()},
    ) as process:
        assert process.stdout is not None
        reached = []
        for line in process.stdout:
            reached.append((int(line), time.monotonic()))
            if reached[-1][1] - reached[0][1] > 4 * EVERY:
                break
        process.kill()
    told = root.events(kind="step")[-1]["step"]
    second = next(number for number, at in reached if reached[-1][1] - at < 2 * EVERY)
    assert told >= second


def test_a_kernel_without_torch_gets_none(tmp_path: Path) -> None:
    code = (
        LOOP.replace("10**9", "20")
        + "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **worker.importable()},
    )
    assert "torch" not in done.stdout.splitlines()[-1]


def test_the_lock_is_not_held_on_by_what_was_forked(root: Root) -> None:
    begun, begins = os.pipe()
    with root.track() as run:
        child = os.fork()
        if not child:
            os.write(begins, b"!")
            signal.pause()
        os.read(begun, 1)  # until it has run at all, what it let go of is still its own
        run.log(loss=1)
    try:
        assert not worker.is_alive(root.folder / "loop")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(begins)


def test_the_copy_in_a_replica_is_found_on_a_new_machine(root: Root, tmp_path: Path) -> None:
    replica = str(tmp_path / "drive")
    state = {"n": 0}
    with pytest.raises(Died), root.track(state=state, save_every="2 steps", replica=replica) as run:
        for _ in range(5):
            state["n"] += 1
            run.log(loss=1)
        run.saver.wait()
        raise Died
    elsewhere, state = tmp_path / "new machine", {"n": 0}
    with root.track(state=state, root=elsewhere, replica=replica) as run:
        assert (run.step, state["n"]) == (4, 4)
        run.log(loss=1)


def test_the_panel_ends_with_the_copy_that_was_waited_for(
    root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with root.track(replica=str(tmp_path / "drive"), panel="text") as run:
        run.log(loss=1)
    last = capsys.readouterr().out.rpartition("loop: finished")[2]
    assert "everything is " in last
    assert "left" not in last
