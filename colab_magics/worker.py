"""Starting the process that trains, knowing whether it lives, and giving it orders.

A run's folder holds all of it: `worker.json` (who), `worker.lock` (held for life), `worker-NN.log` (its stdout
and stderr) and `control/` (one small file an order). Any notebook, terminal or machine part that can see the
folder can do the same as the cell that started it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

Order = Literal["stop", "stop-now", "save", "detach"]

INFO = "worker.json"
LOCK = "worker.lock"


def log_path(folder: Path, attempt: int) -> Path:
    """Where the attempt's stdout and stderr go."""
    return folder / f"worker-{attempt:02d}.log"


def spawn(
    folder: Path, attempt: int, *, arguments: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a worker on `folder`, in a session of its own, so that it outlives the kernel.

    Parameters
    ----------
    folder : Path
        The run's folder, or its temporary folder while the preflight runs.
    attempt : int
        Which attempt this is, from 1.
    arguments : tuple of str
        More arguments for `python -m colab_magics.training`.
    env : mapping
        Variables on top of this process's own. Tokens travel here and nowhere else.
    """
    Control(folder).clear()
    environment = {**os.environ, **importable(), **(env or {})}
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment.setdefault("PYTHONFAULTHANDLER", "1")
    # One allocation policy that does not shatter the card into holes when document lengths vary.
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Torch's threads wait for each other by spinning. Where another process wants a core too (the kernel, on Colab's
    # two), a spinning thread keeps the one it waits for from running: steps took 10 times as long and more.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # -P: a `datasets/` or `torch.py` beside the notebook must not shadow the library.
    command = [
        sys.executable,
        "-P",
        "-m",
        "colab_magics.training",
        str(folder),
        "--attempt",
        str(attempt),
        *arguments,
    ]
    with log_path(folder, attempt).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _write_info(folder, process.pid, attempt)
    return process


def importable() -> dict[str, str]:
    """How the worker finds this package when it is used from a checkout that is not installed."""
    home = str(Path(__file__).resolve().parents[1])
    if home in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) or "site-packages" in home:
        return {}
    paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), home]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def _write_info(folder: Path, pid: int, attempt: int) -> None:
    info = {
        "pid": pid,
        "start_time": start_time(pid),
        "boot_id": boot_id(),
        "host": socket.gethostname(),
        "attempt": attempt,
    }
    partial = folder / f".{INFO}.{os.getpid()}"
    partial.write_text(json.dumps(info))
    partial.replace(folder / INFO)


def read_info(folder: Path) -> dict[str, Any] | None:
    """What `worker.json` says, if it is there and whole."""
    try:
        info = json.loads((folder / INFO).read_text())
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> float | None:
    """The process's start, by which a pid that was given to another process is told apart; None if it is gone.

    A zombie (killed, not yet waited for) is gone.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def hold_lock(folder: Path, *, wait: float = 2.0) -> int | None:
    """Take the run's lock for the life of this process; None if another worker holds it.

    The descriptor must stay open: the kernel drops the lock with the process, however it dies. A reader that is
    just asking holds a shared lock for microseconds, so we try for `wait` seconds.
    """
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() > deadline:
                os.close(fd)
                return None
            time.sleep(0.01)


def is_alive(folder: Path) -> bool:
    """Whether a worker works on `folder`: its lock is held, or its pid lives with the same start time.

    The pid counts only on the machine and boot that wrote it, and a zombie (killed, not yet waited for) does not.
    """
    return lock_is_held(folder / LOCK) or alive_pid(folder) is not None


def lock_is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path` for its life."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def alive_pid(folder: Path) -> int | None:
    """The pid of the folder's living worker on this machine."""
    import psutil

    info = read_info(folder)
    if not info or info.get("boot_id") != boot_id() or info.get("host") != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(info["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() != info.get("start_time"):
            return None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
    return int(process.pid)


class Control:
    """The orders in a run's `control/` folder; the only way back to the worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "control"

    def send(self, order: Order) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / order).touch()

    def pending(self) -> frozenset[str]:
        """The orders given and not yet taken."""
        try:
            return frozenset(os.listdir(self._folder))
        except FileNotFoundError:
            return frozenset()

    def take(self, order: Order) -> bool:
        """Whether `order` was given; it is then no longer pending."""
        try:
            (self._folder / order).unlink()
        except FileNotFoundError:
            return False
        return True

    def clear(self) -> None:
        """Forget what was ordered of an earlier attempt."""
        for order in self.pending():
            (self._folder / order).unlink(missing_ok=True)


def kill(folder: Path, *, wait: float = 5.0) -> None:
    """End the folder's worker, and all it has started, at once; returns when it is gone, or after `wait` seconds.

    A loop of one's own runs in a person's kernel, which is not killed: it ends at its next step, and saves nothing.
    """
    pid = alive_pid(folder)
    if pid is None and "kernel" in (read_info(folder) or {}) and lock_is_held(folder / LOCK):
        Control(folder).send("stop-now")
        deadline = time.monotonic() + wait
        while lock_is_held(folder / LOCK) and time.monotonic() < deadline:
            time.sleep(0.02)
        return
    if pid is not None:
        # what was killed says nothing more: the order stays there, for whoever asks how it ended
        Control(folder).send("stop-now")
        with suppress(ProcessLookupError, PermissionError):
            # start_new_session made the worker a group leader, so its group is its own
            os.killpg(pid, signal.SIGKILL)
        deadline = time.monotonic() + wait
        while is_alive(folder) and time.monotonic() < deadline:
            time.sleep(0.02)


def was_killed(folder: Path) -> bool:
    """Whether the folder's last worker was ended by `kill`, and not by the machine."""
    return "stop-now" in Control(folder).pending()


def log_tail(folder: Path, attempt: int, lines: int = 5) -> list[str]:
    """The last `lines` lines that the attempt's worker printed."""
    try:
        with log_path(folder, attempt).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
