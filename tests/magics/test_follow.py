"""Following a worker, with real processes that behave as a worker may: that end, hang, die, or go on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.errors import Interrupted
from colab_magics.magics import commands
from colab_magics.magics import follow as following
from colab_magics.magics.display import Nowhere, Panel
from colab_magics.magics.follow import Died, Failed, Finished, Follower, Interrupts, Killed, LeftRunning, interrupts
from colab_magics.magics.starting import living_run, sweep, temporary_run

from .conftest import wait_for

pytestmark = pytest.mark.face

# what a worker does first: hold the lock, and open its log
PREAMBLE = """
import sys, time
from pathlib import Path
from colab_magics.worker import Control, hold_lock
from colab_magics.events import EventLog
folder = Path(sys.argv[1])
lock = hold_lock(folder)
log = EventLog(folder / "events.jsonl", 1)
log.append("started", name="run")
"""
STEPS = "for step in range(1, 4): log.append('step', step=step, total_steps=9, loss=1.0)\n"


Start = Callable[[str], Follower]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that does what a script says, and gives a follower of it."""
    processes: list[subprocess.Popen[bytes]] = []
    folder = tmp_path / "run"

    def start(script: str) -> Follower:
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script, str(folder)],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        processes.append(process)
        worker._write_info(folder, process.pid, 1)
        return Follower(folder, 1, process=process)

    yield start
    for process in processes:
        process.kill()
        process.wait()


def stepping(follower: Follower) -> Follower:
    """The follower, once its worker has logged three steps."""
    log = follower.run / "events.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count('"kind": "step"') >= 3)
    return follower


def follow(follower: Follower, presses: Interrupts | None = None, **more: Any) -> Any:
    return follower.follow(Panel(Nowhere()), presses or Interrupts(), **more).outcome


def test_the_last_words_of_a_worker_that_goes_at_once_are_read(start: Start) -> None:
    outcome = follow(start(STEPS + "log.append('finished', reason='completed', step=3)"))
    assert isinstance(outcome, Finished)
    assert outcome.event["step"] == 3


def test_a_worker_that_was_through_before_anybody_looked_is_read_where_it_has_gone(start: Start) -> None:
    follower = start(STEPS + "log.append('finished', reason='completed', step=3)")
    assert follower.process is not None
    follower.process.wait()
    moved = Follower(follower.run.with_name("named"), 1, starting=follower.run, process=follower.process)
    follower.run.rename(moved.run)
    assert isinstance(follow(moved), Finished)


def test_a_worker_that_hangs_after_its_last_word_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_EXIT", 0.3)
    follower = start("log.append('finished', reason='completed', step=3)\ntime.sleep(60)")
    began = time.monotonic()
    assert isinstance(follow(follower), Finished)
    assert time.monotonic() - began < 20
    assert not worker.is_alive(follower.run)


def test_a_copy_that_hangs_is_left_when_the_session_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LAST_WORD", 0.2)
    follower = start("log.append('finished', reason='deadline', step=3, session_left=60.0)")
    with (follower.run / following.REPLICA_LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        followed = follower.follow(Panel(Nowhere()), Interrupts())
    assert isinstance(followed.outcome, Finished)
    assert [notice.text for notice in followed.state.notices] == [
        "Replica: it does not answer, and the session ends. What is not confirmed is not there."
    ]


def test_a_worker_that_goes_without_a_word_is_told_apart_from_one_that_says_why(start: Start) -> None:
    outcome = follow(start(STEPS + "sys.exit(7)"))
    assert outcome == Died(exit_code=7, step=3)


FAILS = """
from colab_magics.errors import Interrupted
log.append('failed', error=Interrupted('stopped').to_dict(), traceback='here')
"""


def test_the_reason_of_a_failure_comes_back_as_the_error_that_it_was(start: Start) -> None:
    outcome = follow(start(FAILS))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, Interrupted)
    assert outcome.traceback == "here"


STOPS_WHEN_TOLD = (
    "while 'stop' not in Control(folder).pending(): time.sleep(0.02)\n"
    "log.append('finished', reason='stopped', step=3)\n"
)


def test_the_first_interrupt_is_an_order_to_stop_in_good_order(start: Start) -> None:
    outcome = follow(stepping(start(STEPS + STOPS_WHEN_TOLD)), Interrupts(count=1))
    assert isinstance(outcome, Finished)
    assert outcome.event["reason"] == "stopped"


def test_the_second_interrupt_ends_it_at_once(start: Start) -> None:
    follower, presses = stepping(start(STEPS + "time.sleep(60)")), Interrupts(count=1)
    threading.Timer(1.0, presses).start()
    assert follow(follower, presses) == Killed(step=3)
    assert not worker.is_alive(follower.run)


def test_a_stop_now_from_elsewhere_is_not_taken_for_a_machine_without_memory(start: Start) -> None:
    follower = stepping(start(STEPS + "time.sleep(60)"))
    threading.Timer(0.5, commands.stop, ("run", follower.run.parent), {"now": True}).start()
    assert follow(follower) == Killed(step=3)
    assert commands.status("run", follower.run.parent).phase == "stopped"


def test_before_its_first_step_an_interrupt_also_wakes_the_worker(start: Start) -> None:
    outcome = follow(start("time.sleep(60)"), Interrupts(count=1))
    assert outcome == Died(exit_code=-signal.SIGTERM, step=0)


def test_detach_and_the_end_of_the_preflight_leave_the_worker_alive(start: Start) -> None:
    follower = start(STEPS + "time.sleep(60)")
    assert follow(follower, until=lambda state: state.step == 3) == LeftRunning()
    assert worker.is_alive(follower.run)
    again = Follower(follower.run, 1)
    threading.Timer(0.5, lambda: worker.Control(follower.run).send("detach")).start()
    assert follow(again) == LeftRunning()
    assert worker.is_alive(follower.run)


def test_an_order_to_detach_that_nobody_took_does_not_end_the_next_cell(start: Start) -> None:
    follower = start(STEPS + "time.sleep(0.5)\n" + "log.append('finished', reason='completed', step=3)")
    worker.Control(follower.run).send("detach")
    assert isinstance(follow(Follower(follower.run, 1, process=follower.process)), Finished)


def test_sigint_is_taken_while_the_cell_follows_and_given_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as presses:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert presses.count == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_sigint_is_left_alone() -> None:
    before, errors = signal.getsignal(signal.SIGINT), []

    def elsewhere() -> None:
        try:
            with interrupts():
                assert signal.getsignal(signal.SIGINT) is before
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []


def test_a_temporary_folder_that_was_left_behind_goes_and_one_in_use_or_new_stays(tmp_path: Path) -> None:
    names = ("old", "new", "used")
    folders = {name: tmp_path / f".starting-{name}-0123abcd" for name in names}
    for name, folder in folders.items():
        folder.mkdir()
        if name != "new":
            os.utime(folder, (1, 1))
    lock = worker.hold_lock(folders["used"])
    os.utime(folders["used"], (1, 1))
    sweep(tmp_path)
    assert [folder.exists() for folder in folders.values()] == [False, True, True]
    assert living_run("used", tmp_path) == (tmp_path / "used", folders["used"])
    assert living_run("new", tmp_path) is None
    assert lock is not None
    os.close(lock)


def test_a_root_that_was_made_for_a_run_of_which_nothing_came_goes_too(tmp_path: Path) -> None:
    with temporary_run(tmp_path / "a" / "b", "run") as temporary:
        folder = temporary.folder
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with temporary_run(tmp_path / "a" / "b", "run"):
        pass
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
