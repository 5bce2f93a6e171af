"""A replica whose mount hangs: the worker never touches it, and so cannot hang with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.magics.starting import write_inputs
from colab_magics.recipe import parse
from colab_magics.run import Run

pytest.importorskip("torch")

BODY = "model: demo\ndata: demo\nmax_steps: 100000\nsave_every: 3\neffective_batch_size: 2"
_HANG = 60  # seconds a call


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace cannot trace here: {tried.stderr.decode()[:80]}")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    write_inputs(folder, parse(BODY).recipe, {})
    yield Run(folder)
    worker.kill(folder)
    pid = _replica_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def _replica_pid(folder: Path) -> int | None:
    found = subprocess.run(
        ["pgrep", "-f", f"checkpoints.replica {folder}"], capture_output=True, text=True, check=False
    )
    pids = [int(line) for line in found.stdout.split() if int(line) != os.getpid()]
    return pids[0] if pids else None


def _wait(what: object, seconds: float = 120) -> None:
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _steps(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["kind"] == "step"), default=0)


def test_the_worker_makes_no_call_on_the_replica_s_mount(run: Run, tmp_path: Path) -> None:
    """From its start to its end, preflight included: every call there is a child's."""
    replica, trace = tmp_path / "mount" / "copies", tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=%file,%process,write,fsync", "-y", "-s", "300"]
    command += [sys.executable, "-P", "-m", "colab_magics.training", str(run.folder), "--replica", str(replica)]
    with subprocess.Popen(command, env={**os.environ, **worker.importable()}, start_new_session=True) as traced:
        try:
            _wait(lambda: any(event.get("state") == "local" for event in run.history()), 240)
            worker.Control(run.folder).send("stop")
            assert traced.wait(120) == 0
        finally:
            if traced.poll() is None:
                os.killpg(traced.pid, signal.SIGKILL)
    _wait(lambda: not worker.lock_is_held(run.folder / "replica.lock"), 60)
    lines = trace.read_text(errors="replace").splitlines()
    worker_threads, others = _family(lines)
    assert others, "the copies are another process's"
    assert any(str(replica) in line for line in lines if int(line.split()[0]) in others)
    touching = [line for line in lines if int(line.split()[0]) in worker_threads and str(replica) in _place(line)]
    assert not touching, "\n".join(line[:200] for line in touching[:5])


def _family(lines: list[str]) -> tuple[set[int], set[int]]:
    """The traced process and its threads, and all other processes."""
    threads, others = {int(lines[0].split()[0])}, set()
    pending: dict[int, bool] = {}  # calls that another's line has cut in two: was a thread asked for?
    for line in lines:
        pid, call = int(line.split()[0]), line.split(maxsplit=1)[1]
        if not re.match(r"(<\.\.\. )?(clone3?|v?fork)\b", call):
            continue
        thread = pending.pop(pid, False) if call.startswith("<...") else "CLONE_THREAD" in call
        made = re.search(r"= (\d+)$", call)
        if made is None:
            pending[pid] = thread
        else:
            (threads if thread and pid in threads else others).add(int(made[1]))
    return threads, others


def _place(line: str) -> str:
    """What a call is made on: its path, or its descriptor's; not what it writes, nor a program's arguments."""
    call = line.split(maxsplit=1)[1]
    if call.startswith("execve("):
        return ""
    return call.partition(",")[0] if call.startswith("write(") else call


def test_a_mount_that_hangs_for_a_minute_a_call_holds_up_no_step_and_no_checkpoint(run: Run, tmp_path: Path) -> None:
    replica = tmp_path / "mount"
    process = worker.spawn(run.folder, 1, arguments=("--replica", str(replica)))
    _wait(lambda: any(event.get("state") == "local" for event in run.history()))
    pid = _replica_pid(run.folder)
    assert pid is not None
    calls = "openat,write,rename,mkdir,fsync,unlink,stat,newfstatat,statfs,getdents64"
    hang = ["strace", "-f", "-qq", "-o", os.devnull, "-P", str(replica), "-P", str(replica / "mine")]
    hang += ["-P", str(replica / "mine" / "checkpoints"), "-e", f"trace={calls}"]
    hang += ["-e", f"inject={calls}:delay_enter={_HANG}000000", "-p", str(pid)]
    with subprocess.Popen(hang) as strace:
        time.sleep(1)  # until it is attached
        step, saved = _steps(run), _saved(run)
        began = time.monotonic()
        _wait(lambda: _saved(run) >= saved + 3, 60)
        assert _steps(run) > step + 10
        assert time.monotonic() - began < _HANG, "three checkpoints in less than one call of the mount takes"
        process.kill()
        process.wait()
        strace.kill()


def _saved(run: Run) -> int:
    return sum(event["kind"] == "checkpoint" and event["action"] == "saved" for event in run.events())
