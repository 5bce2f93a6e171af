"""What this machine's disk, memory and Drive hold now, gathered so that a frame of the panel may ask for it.

Nothing here waits on a mount: `statvfs` of a Drive that hangs never returns, so a child process asks it, at most every
few minutes, and what it says is there at a later call.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from colab_magics.checkpoints.drive import mounted_drive
from colab_magics.checkpoints.mounts import COLAB_DRIVE, Mount, is_local, mount_of, mounts
from colab_magics.errors import ColabMagicsError
from colab_magics.session.flags import Facts, Usage, flags
from colab_magics.session.here import Session, this_session
from colab_magics.session.settings import user_file
from colab_magics.session.table import Table, load_table

DRIVE_EVERY = 300.0  # seconds between two looks at Drive: it asks Google
FLAGS_EVERY = 30.0
_PATIENCE = 20.0
# Isolated and without site-packages: it starts in 15 ms. The root is asked too: a mount that repeats the machine's own
# disk says nothing of the account.
_ASK = """
import json, os, sys
def usage(path):
    found = os.statvfs(path)
    return [(found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks * found.f_frsize]
print(json.dumps([usage(sys.argv[1]), usage("/")]))
"""


class DriveLook:
    """Looks at a mount that may hang through a child process, and never waits for it unless told to.

    Attributes
    ----------
    state : str
        `waiting` until it has answered for the first time, then `mounted`, or `silent` where it does not answer.
    """

    def __init__(self, name: str = "Drive", every: float = DRIVE_EVERY, patience: float = _PATIENCE) -> None:
        self._every, self._patience = every, patience
        self._child: subprocess.Popen[bytes] | None = None
        self._at = float("-inf")
        self._name = name
        self.found: Usage | None = None
        self.state: Literal["waiting", "mounted", "silent"] = "waiting"

    def look(self, drive: Path | None, wait: float = 0.0) -> Usage | None:
        """What it holds, as far as it is known by now; `wait` that many seconds for the first answer."""
        if drive is None:
            self.found, self.state = None, "waiting"
            return None
        now = time.monotonic()
        if self._child is None and now - self._at >= self._every:
            self._at = now
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _ASK, str(drive)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        while self._child is not None and not self._heard() and time.monotonic() - now < wait:
            time.sleep(0.02)
        return self.found

    def _heard(self) -> bool:
        """Whether the child has answered, or is given up."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        if child.poll() is None:
            if time.monotonic() - self._at < self._patience:
                return False
            child.kill()  # in a call on a dead mount that does not end it, and nobody waits for it
            child.returncode = -9  # or Python looks after it for ever
            self.found, self.state = None, "silent"
        else:
            self.found, self.state = None, "mounted"
            with suppress(ValueError, IndexError, TypeError):
                account, machine = json.loads(child.stdout.read())
                if account[1] > 0 and account[1] != machine[1]:
                    self.found = Usage(self._name, *account)
        child.stdout.close()
        self._child = None
        return True


DRIVE = DriveLook()


@lru_cache(maxsize=4)
def storage_look(home: Path) -> DriveLook:
    """The one that looks at the folder which outlives the session: also a volume of it may be on a network."""
    return DriveLook(str(home))


def _storage(session: Session | None, cwd: Path, among: Sequence[Mount]) -> Path | None:
    """The folder that outlives the session, where that is neither on Drive nor on the disk of the notebook."""
    with suppress(ColabMagicsError):  # a mistake in the user's own table: %session tells it
        home = (session or this_session()).platform.persistent
        if home is not None and not Path(home).is_relative_to(COLAB_DRIVE):
            apart = mount_of(Path(home), among) != mount_of(cwd, among) or not is_local(cwd, among)
            return Path(home) if apart else None
    return None


def facts(
    session: Session | None,
    *,
    memory: Sequence[Usage] = (),
    run: tuple[str, float] | None = None,
    idle: float | None = None,
    wait: float = 0.0,
) -> Facts:
    """The machine's facts, with what the caller knows of the GPUs and the run. Takes a millisecond, and `wait`."""
    from colab_magics.memory.host import host_memory

    here = Path.cwd()
    among = mounts()
    disk = None
    if is_local(here, among):
        with suppress(OSError):
            found = shutil.disk_usage(here)
            disk = Usage(str(here), found.used, found.used + found.free)  # what is reserved is nobody's
    host = host_memory()
    home = _storage(session, here, among)
    storage = storage_look(home).look(home, wait) if home is not None else None
    drive = DRIVE.look(mounted_drive(among), wait)
    return Facts(tuple(memory), Usage("RAM", host.used, host.total), disk, storage, drive, run, session, idle)


def raised(known: Facts) -> tuple[str, ...]:
    """The red flags of these facts, a sentence or two each, with the user's thresholds."""
    try:
        table = load_table(user_file())
    except ColabMagicsError:  # a mistake in the user's own table: %session tells it
        table = load_table()
    return tuple(str(flag) for flag in flags(known, table.thresholds, own_thresholds(table)))


def own_thresholds(table: Table) -> frozenset[str]:
    """The thresholds that the user has set."""
    return frozenset(path[1] for path in table.own if path[0] == "thresholds")


class MachineFlags:
    """The flags as a panel shows them. The machine is looked at twice a minute, whatever the number of frames."""

    def __init__(self, every: float = FLAGS_EVERY) -> None:
        self._every, self._at = every, float("-inf")
        self._machine = Facts()

    def now(self, memory: Sequence[Usage] = (), run: tuple[str, float] | None = None) -> tuple[str, ...]:
        """What is red now, but for the session's time and idleness, which a panel tells itself.

        Parameters
        ----------
        memory : the GPUs', as the worker has sampled them
        run : the living run, and for how many seconds its worker has been at it
        """
        at = time.monotonic()
        if at - self._at >= self._every:
            self._at = at
            self._machine = facts(None)
        return raised(replace(self._machine, memory=tuple(memory), run=run))


MACHINE_FLAGS = MachineFlags()
