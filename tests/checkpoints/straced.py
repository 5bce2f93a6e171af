"""A real kill -9 at every system call of a real process, by strace.

The process is a fork of this one, which strace attaches to: only what it does is traced and counted, not the start of
an interpreter.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoints.acts import Act, scenes
from colab_magics.checkpoints.files import DISK

CHANGING = ("openat", "write", "fsync", "close", "rename", "mkdir", "rmdir", "unlink", "truncate")
_MARK = "/no-such-file-marks-the-beginning"


def strace_refuses() -> str | None:
    """Why no process can be traced here; None if one can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        _traced(lambda: None, Path(os.devnull), log=False)
    except RuntimeError as error:
        return str(error)
    return None


def _traced(act: Callable[[], object], output: Path, *inject: str, log: bool = True) -> tuple[int, list[str]]:
    """How a process that does `act` ended under strace, and the names of its calls."""
    if log:
        output.unlink(missing_ok=True)
    hear, go = os.pipe()
    begun, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(go)
            os.write(begins, b".")  # from here on it makes no call that is counted, until it is told to go
            # strace has attached before it traces: the mark is made until it has been seen
            while not select.select([hear], [], [], 0.001)[0]:
                Path(_MARK).exists()
            act()
            code = 0
        except BaseException:
            traceback.print_exc()  # the reason would be lost with the process
        finally:
            os._exit(code)
    os.read(begun, 1)
    for descriptor in (hear, begun, begins):
        os.close(descriptor)
    calls = f"trace={','.join(CHANGING)},stat,newfstatat"
    command = ["strace", "-qq", "-o", str(output), "-e", calls, *inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        while not (_is_seen(output) if log else _is_attached(pid, strace.pid)):
            if strace.poll() is not None:
                os.close(go)
                os.waitpid(pid, 0)
                assert strace.stderr is not None
                raise RuntimeError(f"strace cannot attach: {strace.stderr.read().decode().strip()[:200]}")
            time.sleep(0.001)
        os.close(go)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told = re.findall(r"^(\w+)\((.*)", output.read_text(errors="replace"), re.MULTILINE) if log else []
    return code, [name for name, rest in told if _MARK not in rest]


def _is_seen(output: Path) -> bool:
    return output.exists() and _MARK in output.read_text(errors="replace")


def _is_attached(pid: int, tracer: int) -> bool:
    return f"TracerPid:\t{tracer}\n" in Path(f"/proc/{pid}/status").read_text()


def calls_by_strace(act: Act, log: Path, scene: Path) -> list[str]:
    """The system calls of `act` that could change the disk."""
    code, calls = _traced(lambda: act.run(scene, DISK), log)
    if code:
        raise RuntimeError(f"{act.name} ended with {code}")
    return [call for call in calls if call in CHANGING]


def system_calls_of(act: Act, folder: Path) -> Iterator[tuple[str, Path]]:
    """Kills a process at each system call of `act` that could change the disk, before the call is made.

    Yields what it was, and the folder as it was left.

    Raises
    ------
    RuntimeError
        strace cannot be used, or a kill did not come where it was meant to.
    """
    log = folder / "strace.log"
    fresh = scenes(folder, act.prepare)
    for name, count in Counter(calls_by_strace(act, log, next(fresh))).items():
        for number in range(1, count + 1):
            inject = ("-e", f"inject={name}:signal=SIGKILL:when={number}")
            for _ in range(3):  # seen once in a thousand on a busy machine: the log does not end with this call
                scene = next(fresh)
                code, made = _traced(lambda scene=scene: act.run(scene, DISK), log, *inject)
                if code == -9 and made.count(name) == number and made[-1] == name:
                    break
            else:
                raise RuntimeError(f"the kill at {name} {number} ended with {code} after {made[-3:]}")
            yield f"{act.name}: {name} {number}", scene
