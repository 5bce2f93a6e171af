"""Every call that changes a disk, in one place.

Commit, prune and replicate make their calls through a `Disk`, so that a test can count them, refuse one of them as a
full or failing disk does, or end the process at any of them.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class Disk:
    """The file system, one method a call. Nothing here follows a symbolic link that stands for a file."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(0o755)

    def create(self, path: Path) -> int:
        """A descriptor of a new file; there must be none of that name."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """How many bytes were taken: it may be fewer than given."""
        return os.write(descriptor, data)

    def flush(self, descriptor: int) -> None:
        """Have the bytes on the disk itself before going on."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def truncate(self, path: Path) -> None:
        os.truncate(path, 0)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def flush_folder(self, path: Path) -> None:
        """Have a folder's names on the disk; some network file systems cannot, and need no telling."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            return
        try:
            self.flush(descriptor)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        finally:
            os.close(descriptor)


# what fsync of a folder says where the file system has none (EINVAL, ENOTSUP, ENOSYS, EBADF)
_CANNOT = (22, 95, 38, 9)

DISK = Disk()


def write_all(disk: Disk, descriptor: int, data: memoryview) -> None:
    """Write every byte, however few the system takes at a time."""
    while len(data):
        taken = disk.write(descriptor, data)
        if taken == 0:  # asking for ever would hang the training, not end it
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = data[taken:]
