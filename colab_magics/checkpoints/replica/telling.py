"""What the replica process says of itself: trouble once per change, progress every few seconds, no secret ever."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.checkpoints.lease import Refused
from colab_magics.checkpoints.mounts import COLAB_DRIVE
from colab_magics.checkpoints.replica import LOG
from colab_magics.checkpoints.replica.copying import Full
from colab_magics.checkpoints.stores import is_full, missing_package, shown, why_local
from colab_magics.events import EventLog

_TELL_EVERY = 2.0
_TROUBLE = frozenset(("waiting", "full", "refused"))
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)


class Teller:
    """Writes the `replica` events of the run's own folder; from any thread."""

    def __init__(self, folder: Path, where: str) -> None:
        self.where = shown(where)
        self._folder = folder
        self._log = EventLog(folder / LOG, 1)
        self._lock = threading.Lock()
        self._trouble = ""
        self._said_local = False
        self._told = float("-inf")
        self._reached = 0

    def say(
        self,
        state: str,
        *,
        checkpoint: str = "",
        step: int | None = None,
        done: int = 0,
        total: int = 0,
        left: int = 0,
        message: str = "",
        reason: str = "",
        mount: str = "",
    ) -> bool:
        """Append an event, if it is news; whether it was. `reason` is what makes two troubles the same one."""
        with self._lock:
            self._log.attempt = int((worker.read_info(self._folder) or {}).get("attempt") or 1)
            if state == "warning":
                self._log.append("warning", message=without_secrets(message))
                return True
            if not self._is_news(state, done, reason):
                return False
            if state == "local" and not self._said_local:
                self._said_local = True
                message = why_local(self.where)
            fields: dict[str, Any] = {"state": state, "where": self.where}
            if checkpoint:
                fields |= {"checkpoint": checkpoint, "step": step}
            fields |= {"bytes_done": done, "bytes_total": total, "bytes_left": left}
            told = {"message": without_secrets(message), **({"mount": mount} if mount else {})}
            self._log.append("replica", **fields, **told)
            return True

    def _is_news(self, state: str, done: int, reason: str) -> bool:
        now = time.monotonic()
        if state in _TROUBLE:
            if f"{state} {reason}" == self._trouble:
                return False
            self._trouble = f"{state} {reason}"
        elif state == "copying":
            # while it fails again and again, a new try is news only once it comes further than those before it
            further = done > self._reached
            self._reached = max(done, self._reached)
            if (self._trouble and not further) or (done > 0 and now - self._told < _TELL_EVERY):
                return False
            self._told, self._trouble = now, ""
        else:
            self._trouble, self._reached = "", 0
        return True


def without_secrets(text: str) -> str:
    """`text` without the values of variables that hold a secret: a library may name one in its errors."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


def trouble(error: BaseException, where: str, *, ended: bool = False) -> tuple[str, str, str]:
    """(state, what makes it the same trouble, message); `ended`: the training has, and is no comfort any more."""
    again = "It is tried again." if ended else "The training goes on."
    since = " after the end" if ended else ""  # then it is told anew
    if isinstance(error, Refused):
        return (
            "refused",
            str(error),
            f"{where} is left alone: {error}. %%finetune --fork NAME goes on under another name.",
        )
    if isinstance(error, Full) or is_full(error):
        need = f" The next copy needs {amount(error.need)}" if isinstance(error, Full) else ""
        free = f", {amount(error.free)} is free" if isinstance(error, Full) and error.free is not None else ""
        drive = " Empty Drive's trash: it counts too." if where.startswith(str(COLAB_DRIVE)) else ""
        return "full", since, f"{where} is full.{need}{free}{'.' if need else ''}{drive} {again}"
    if isinstance(error, ImportError):
        return (
            "waiting",
            "import",
            f"{where} needs a library: %pip install {missing_package(error)}. The copy then begins by itself.",
        )
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error) or type(error).__name__
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EROFS:
        what = f"{where} is read-only, and nothing can be written there."
    elif code in (errno.EACCES, errno.EPERM):
        what = f"{where} may not be written to: {_first_line(reason)}."
    else:
        what = f"{where} does not answer: {_first_line(reason)}."
    goes_on = "" if ended else " The training goes on."
    return "waiting", type(error).__name__ + reason[:40] + since, f"{what} It is tried again.{goes_on}"


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200].rstrip(". ") if text.strip() else "no reason given"


def amount(size: int) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
