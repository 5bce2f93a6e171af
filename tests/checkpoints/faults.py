"""Disks that fail: at a chosen call, once or for good, or that die there as a machine does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.files import Disk

# What full, failing, read-only and vanished disks say, and the calls to which they say it.
WRITING = frozenset({"make_folder", "create", "write", "flush", "close", "rename", "flush_folder"})
ANY_CALL = WRITING | {"truncate", "unlink", "remove_folder"}
SAYS = {
    errno.ENOSPC: WRITING,
    errno.EDQUOT: WRITING,
    errno.EIO: ANY_CALL,
    errno.EROFS: ANY_CALL,
    errno.ENOTCONN: ANY_CALL,
}


class Killed(BaseException):
    """The process is gone: nothing that it would have done afterwards happens."""


class WatchedDisk(Disk):
    """Counts the calls, and asks before each what shall happen."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:  # noqa: ARG002
        """What happens in place of the call; the base class just makes it."""
        return really()

    def _call(self, call: str, *arguments: Any) -> Any:
        self.calls.append(call)
        method = getattr(super(), call)
        return self.instead(call, lambda: method(*arguments), *arguments)

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", path)

    def create(self, path: Path) -> int:
        return int(self._call("create", path))

    def write(self, descriptor: int, data: memoryview) -> int:
        return int(self._call("write", descriptor, data))

    def flush(self, descriptor: int) -> None:
        self._call("flush", descriptor)

    def close(self, descriptor: int) -> None:
        self._call("close", descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename", old, new)

    def truncate(self, path: Path) -> None:
        self._call("truncate", path)

    def unlink(self, path: Path) -> None:
        self._call("unlink", path)

    def remove_folder(self, path: Path) -> None:
        self._call("remove_folder", path)

    def flush_folder(self, path: Path) -> None:
        self._call("flush_folder", path)


class DyingDisk(WatchedDisk):
    """The process dies as it makes its `at`-th call (from 0), which is not made; a write is half made if `torn`."""

    def __init__(self, at: int, *, torn: bool = False) -> None:
        super().__init__()
        self.at, self.torn = at, torn
        self.open: set[int] = set()

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        if len(self.calls) <= self.at:
            result = really()
            if call == "create":
                self.open.add(result)
            elif call == "close":
                self.open.discard(arguments[0])
            return result
        if call == "write" and self.torn and len(self.calls) == self.at + 1:
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        for descriptor in self.open:  # as the system does for a process that is gone
            os.close(descriptor)
        self.open.clear()
        raise Killed


class FailingDisk(WatchedDisk):
    """From its `at`-th call on (from 0), the next call that this error fits fails with it: once, or every one."""

    def __init__(self, at: int, error: int, *, for_good: bool) -> None:
        super().__init__()
        self.at, self.error, self.for_good = at, error, for_good
        self.failed = 0

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        if len(self.calls) <= self.at or call not in SAYS[self.error] or (self.failed and not self.for_good):
            return really()
        self.failed += 1
        if call == "close":  # the descriptor is gone whatever close says
            really()
        if call == "write" and self.error in (errno.ENOSPC, errno.EDQUOT) and self.failed == 1:
            # a full disk first takes what still fits
            return os.write(arguments[0], arguments[1][: len(arguments[1]) // 2]) or self._refuse()
        return self._refuse()

    def _refuse(self) -> int:
        raise OSError(self.error, os.strerror(self.error))


class SlowlyFillingDisk(WatchedDisk):
    """Takes at most `most` bytes at a time, as pipes, network file systems and interrupted calls do."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        return os.write(arguments[0], arguments[1][: self.most]) if call == "write" else really()


class ForgetfulDisk(WatchedDisk):
    """A machine whose power fails at the `at`-th call: of every file that was not flushed, `keep` of the bytes remain.

    A rename is kept, as the cruellest journal would have it: names reach the disk before the bytes that they name.
    """

    def __init__(self, at: int, keep: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.at, self.keep = at, keep
        self.descriptors: dict[int, Path] = {}
        self.unflushed: set[Path] = set()

    def instead(self, call: str, really: Callable[[], Any], *arguments: Any) -> Any:
        if len(self.calls) > self.at:
            for path in self.unflushed:
                if path.exists():
                    path.write_bytes(self.keep(path.read_bytes()))
            self.unflushed.clear()
            raise Killed
        result = really()
        if call == "create":
            self.descriptors[result] = arguments[0]
            self.unflushed.add(arguments[0])
        elif call == "flush":
            self.unflushed.discard(self.descriptors.get(arguments[0], Path()))  # or it is a folder's
        elif call == "close":
            self.descriptors.pop(arguments[0])
        elif call == "rename":
            self.unflushed = {
                arguments[1] / path.name if path.parent == arguments[0] else path for path in self.unflushed
            }
        return result


def calls_of(act: Callable[[Disk], object]) -> list[str]:
    """The calls that `act` makes on a disk that works."""
    disk = WatchedDisk()
    act(disk)
    return disk.calls
