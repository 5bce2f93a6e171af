"""What the kernel and the worker may know of a replica, and bring from there: each by a child process with a timeout.

A call on a hung mount cannot be interrupted, not even by a kill. So neither the kernel nor the worker makes one: a
child does, and is left behind if it does not answer. What it finds is untrusted: a shared folder may hold anything.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.lease import Lease
from colab_magics.checkpoints.manifest import parse_folder_name
from colab_magics.checkpoints.marks import PINS
from colab_magics.checkpoints.mounts import absolute
from colab_magics.checkpoints.stores import shown
from colab_magics.errors import ColabMagicsError
from colab_magics.run import check_name

Progress = Callable[[int, int], None]
"""Is told of (bytes so far, bytes in all)."""

TIMEOUT = 30.0
"""Seconds without a sign of life after which a replica is said not to answer."""
_FETCHING = ".fetching-"
_MOST_LINE = 8 * 2**20


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A checkpoint in a replica: `whole` if its manifest reads and all sizes agree; no byte of it was hashed."""

    name: str
    step: int
    attempt: int
    whole: bool
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class RemoteRun:
    """A run in a replica.

    Attributes
    ----------
    id : str
        What tells it from another run of the same name.
    state : str
        `finished`, `failed` or `unfinished`, as far as its log had come there.
    step : int
        Of the newest whole checkpoint; 0 without one.
    checkpoints : tuple of RemoteCheckpoint
        The newest first.
    lease : Lease or None
        Who copies to it now, if somebody may be living.
    where : str
    """

    name: str
    id: str
    state: str
    step: int
    checkpoints: tuple[RemoteCheckpoint, ...]
    lease: Lease | None
    where: str


@dataclass(frozen=True)
class Fetched:
    """What came: the run's folder, the checkpoint from which it goes on (None: none was whole), what was skipped."""

    folder: Path
    name: str
    id: str
    checkpoint: str | None
    step: int
    skipped: tuple[tuple[str, str], ...]
    bytes: int


def look(where: str, *, may_be_new: bool = False, timeout: float = TIMEOUT) -> list[RemoteRun]:
    """The runs in a replica.

    Parameters
    ----------
    where : str
        A folder, or a URL of fsspec's.
    may_be_new : bool
        A folder that is not there holds no run, instead of being an error.
    timeout : float
        Seconds.

    Raises
    ------
    ColabMagicsError
        It cannot be reached, or does not answer.
    """
    told = _ask({"do": "look", "where": where, "may_be_new": may_be_new}, timeout)
    return [
        RemoteRun(
            **{key: one[key] for key in ("name", "id", "state", "step")},
            checkpoints=tuple(RemoteCheckpoint(**checkpoint) for checkpoint in one["checkpoints"]),
            lease=Lease(**one["lease"]) if one["lease"] else None,
            where=shown(where),
        )
        for one in told
    ]


def fetch(
    where: str,
    name: str,
    into: Path,
    checkpoint: str | None = None,
    progress: Progress | None = None,
    *,
    timeout: float = TIMEOUT,
) -> Fetched:
    """Bring a run from a replica: all that a new machine needs, and its newest checkpoint of which every byte is right.

    Parameters
    ----------
    into : Path
        The root: the run comes to `into / name`. If the same run is there already, what it lacks is added.
    checkpoint : str, optional
        The name of the one to bring; by default the newest that proves whole.
    progress : callable, optional
        Is called in this thread with the bytes that have come, and how many there are in all.
    timeout : float
        Seconds without a byte after which it is given up.

    Raises
    ------
    ColabMagicsError
        It cannot be reached, holds no such run or checkpoint, holds what is not ours, or the disk here is full.
    """
    check_name(name)
    if checkpoint is not None and parse_folder_name(checkpoint) is None:
        raise ColabMagicsError(f"{checkpoint!r} is no checkpoint's name.", "They are called like 00000100-a1.")
    root = absolute(into)
    _sweep(root)
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f"{_FETCHING}{name}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir(0o755)
    try:
        wish = {"do": "fetch", "where": where, "name": name, "into": str(temporary), "checkpoint": checkpoint}
        told = _ask(wish, timeout, progress)
        folder = root / name
        _settle(temporary, folder, str(told["id"]), shown(where))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    skipped = tuple((str(one), str(reason)) for one, reason in told["skipped"])
    return Fetched(folder, name, told["id"], told["checkpoint"], told["step"], skipped, told["bytes"])


def release(where: str, name: str, lease: Lease, *, timeout: float = TIMEOUT) -> bool:
    """Take the run's lease from a holder that has died; whether it was still that one, unrenewed."""
    wish = {"do": "release", "where": where, "name": check_name(name), "session": lease.session, "time": lease.time}
    return bool(_ask(wish, timeout))


def check(where: str, need: int, *, run_folder: Path | None = None, timeout: float = TIMEOUT) -> list[str]:
    """What a person should know before a run is copied to `where`, a sentence each; nothing if all is well.

    Parameters
    ----------
    need : int
        Bytes that the copy will take; 1.2 times as many should be free.
    run_folder : Path, optional
        Where the run lies: a copy on the same disk does not outlive it.

    Raises
    ------
    ColabMagicsError
        It cannot be reached, is not mounted, or cannot be written to.
    """
    wish = {"do": "check", "where": where, "need": need, "run_folder": str(run_folder) if run_folder else None}
    return [str(note) for note in _ask(wish, timeout)]


def _settle(temporary: Path, folder: Path, run: str, where: str) -> None:
    """Give what was fetched its place; what is there of the same run stays as it is."""
    from colab_magics.run import Run

    if not folder.exists():
        temporary.rename(folder)
        return
    if worker.is_alive(folder):
        raise ColabMagicsError(
            f"{folder.name} is being trained here.", "What it saves here is newer than what the replica holds."
        )
    if Run(folder).id != run:
        raise ColabMagicsError(
            f"Another run called {folder.name} is in {folder.parent}.",
            f"The one in {where} was begun elsewhere, and would be mixed with it.",
            "Fetch it into another root: --root PATH.",
        )
    for part in ("checkpoints", "prepared", PINS):
        if (folder / part).is_symlink():
            raise ColabMagicsError(
                f"{folder / part} is a symbolic link, and nothing is fetched through one.",
                "What it names may be anybody's.",
                "Make it a real folder, or fetch into another root: --root PATH.",
            )
    for part in ("recipe.yaml", "inputs.json", "adapter"):
        if (temporary / part).exists() and not (folder / part).exists():
            (temporary / part).rename(folder / part)
    for part in ("checkpoints", "prepared", PINS):
        for one in (temporary / part).iterdir() if (temporary / part).is_dir() else ():
            (folder / part).mkdir(exist_ok=True)
            if not (folder / part / one.name).exists():
                one.rename(folder / part / one.name)


def _sweep(root: Path) -> None:
    """Remove what fetches have left whose process is gone."""
    with suppress(OSError):
        for folder in root.glob(f"{_FETCHING}*"):
            pid = folder.name.split("-")[-2]
            if pid.isdigit() and worker.start_time(int(pid)) is None:
                shutil.rmtree(folder, ignore_errors=True)


# --- the child --------------------------------------------------------------------------------------------------------


def _ask(wish: dict[str, Any], timeout: float, progress: Progress | None = None) -> Any:
    """Have a child do it; its answer."""
    where = shown(wish["where"])
    with _child() as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(wish).encode() + b"\n")
        process.stdin.close()
        for message in _messages(process, timeout, where):
            if "progress" in message:
                if progress is not None:
                    progress(*message["progress"])
            elif "error" in message:
                raise ColabMagicsError.from_dict(message["error"])
            else:
                return message["result"]
    raise ColabMagicsError(f"{where} cannot be read.", "The process that asked it ended without a word.")


@contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "colab_magics.checkpoints.visit"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **worker.importable()},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
        # one that hangs in a call on a dead mount is not gone by a kill, and is not waited for
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)


def _messages(process: subprocess.Popen[bytes], timeout: float, where: str) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        deadline = time.monotonic() + timeout
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                if time.monotonic() < deadline:
                    continue
                raise ColabMagicsError(
                    f"{where} does not answer.",
                    f"Nothing came from there for {timeout:,.0f} seconds.",
                    "A mount that has dropped must be mounted again (on Colab: Runtime, Disconnect, or drive.mount).",
                )
            data = os.read(descriptor, 2**16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MOST_LINE:
                raise ColabMagicsError(f"{where} cannot be read.", "It holds more than can be ours.")
            deadline = time.monotonic() + timeout if lines else deadline
            yield from (json.loads(line) for line in lines)
