"""Who is alive, and who is told what: real processes, real locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.worker import Control

pytestmark = [pytest.mark.colab, pytest.mark.face]

HOLD = """
import sys, time
from pathlib import Path
from colab_magics import worker
fd = worker.hold_lock(Path(sys.argv[1]))
print(fd is not None, flush=True)
time.sleep(60)
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""


def _wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that `worker.json` names, in a session of its own, which holds no lock."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    worker._write_info(tmp_path, process.pid, attempt=1)
    yield process
    process.kill()
    process.wait()


def test_a_folder_without_a_worker_is_not_alive(tmp_path: Path) -> None:
    assert not worker.is_alive(tmp_path)


def test_a_worker_is_alive_by_its_lock_alone(tmp_path: Path) -> None:
    environment = {**os.environ, **worker.importable()}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert worker.is_alive(tmp_path)
        assert worker.hold_lock(tmp_path, wait=0.1) is None, "a second worker must not get the run"
        holder.kill()
    assert not worker.is_alive(tmp_path), "the lock goes with the process, however it dies"


def test_asking_whether_it_is_alive_does_not_keep_a_worker_from_its_lock(tmp_path: Path) -> None:
    for _ in range(50):
        worker.is_alive(tmp_path)
    fd = worker.hold_lock(tmp_path)
    assert fd is not None
    os.close(fd)


def test_a_worker_is_alive_by_pid_before_it_has_its_lock(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    assert worker.is_alive(tmp_path)
    assert worker.alive_pid(tmp_path) == sleeper.pid


def test_a_killed_worker_that_its_parent_has_not_waited_for_is_not_alive(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    _wait_until(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().split(")")[1].split()[0] == "Z")
    assert not worker.is_alive(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("start_time", 1.0), ("boot_id", "another boot"), ("host", "another machine")]
)
def test_a_pid_that_was_given_to_another_process_is_not_our_worker(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], field: str, value: object
) -> None:
    info = json.loads((tmp_path / "worker.json").read_text())
    (tmp_path / "worker.json").write_text(json.dumps({**info, field: value}))
    assert not worker.is_alive(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "many"}'])
def test_a_torn_worker_json_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "worker.json").write_text(text)
    assert not worker.is_alive(tmp_path)


def test_kill_ends_the_worker_and_what_it_has_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        worker._write_info(tmp_path, process.pid, attempt=1)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        worker.kill(tmp_path)
    import psutil

    _wait_until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert not worker.is_alive(tmp_path)


def test_an_order_is_pending_until_it_is_taken_once(tmp_path: Path) -> None:
    control = Control(tmp_path)
    assert control.pending() == frozenset()
    control.send("stop")
    control.send("stop")
    assert control.pending() == {"stop"}
    assert control.take("stop")
    assert not control.take("stop")
    assert control.pending() == frozenset()


def test_orders_of_an_earlier_attempt_are_forgotten(tmp_path: Path) -> None:
    Control(tmp_path).send("stop")
    Control(tmp_path).send("save")
    Control(tmp_path).clear()
    assert Control(tmp_path).pending() == frozenset()


def test_the_end_of_a_log_is_its_last_lines_that_say_something(tmp_path: Path) -> None:
    worker.log_path(tmp_path, 1).write_text("first\n" + "\n".join(f"line {n}" for n in range(5000)) + "\n\n \n")
    assert worker.log_tail(tmp_path, 1, lines=2) == ["line 4998", "line 4999"]
    assert worker.log_tail(tmp_path, 2) == []


def test_a_file_beside_the_notebook_does_not_shadow_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert worker.spawn(tmp_path, 1, arguments=("--help",)).wait() == 0, worker.log_tail(tmp_path, 1)
