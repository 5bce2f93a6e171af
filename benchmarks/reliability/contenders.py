"""What is compared: a training that saves, can be killed, and is told to go on from what it saved."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STEPS = 40
SEED = 42
ROWS_A_STEP = 4
KEPT = 3  # checkpoints, besides what is under way


class Contender(Protocol):
    """One training, fixed in everything but when it is killed."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Make a new run of the empty `folder`."""

    def start(self, folder: Path) -> int:
        """Train to the end, in the process that this is; the exit code."""

    def resume(self, folder: Path) -> int:
        """Go on from what is saved in `folder`, to the end."""

    def saved(self, folder: Path) -> list[Path]:
        """The checkpoints that it would choose from, whole or not, the newest last."""

    def weights(self, folder: Path) -> Path:
        """The file with the trained weights."""

    def saving_share(self, folder: Path) -> float:
        """Of the time from the first step to the last, the part in which a checkpoint was being written."""

    def told(self, folder: Path) -> str:
        """What the last resumption said of the checkpoints that it passed over."""

    def complaints(self, folder: Path) -> list[str]:
        """What the run on `folder` said of saves that failed."""

    def why(self, folder: Path) -> str:
        """The reason for which the last process on `folder` failed, in a line."""


@dataclass(frozen=True)
class Process:
    """A fork of this process, which has imported everything and has executed no torch operation."""

    pid: int

    @staticmethod
    def start(act: Callable[[], int], said: Path) -> Process:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return Process(pid)
        code = 1
        try:
            os.setsid()
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = act()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self) -> int | None:
        """The exit code, once there is one."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, until: Callable[[], bool] = lambda: False, seconds: float = 300.0) -> int | None:
        """Its exit code; None if `until` came true first.

        Raises
        ------
        TimeoutError
            Neither came; it is killed.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            code = self.ended()
            if code is not None or until():
                return code
            time.sleep(0.002)
        self.kill()
        raise TimeoutError(f"process {self.pid} did not end in {seconds:.0f} s")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def said(folder: Path) -> Path:
    """Where the last process on `folder` wrote what it said: beside the disk, if that is one that may be full."""
    beside = folder.parent if folder.parent.is_mount() else folder
    return beside.with_name(f"{beside.name}.said")


def digest(path: Path) -> str:
    """By which weights are compared, bit for bit."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
