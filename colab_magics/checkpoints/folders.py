"""A store that is a folder: another disk, a persistent home, a mount."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath

from colab_magics.checkpoints.commit import DELETING, STAGING, commit, discard, remove, write
from colab_magics.checkpoints.files import DISK, Disk, write_all
from colab_magics.checkpoints.manifest import (
    Broken,
    Manifest,
)
from colab_magics.checkpoints.mounts import absolute, missing_mount, mount_of, mounts
from colab_magics.checkpoints.stores import (
    LEASE,
    PIECE,
    Item,
    Standing,
    Told,
    committed_name,
    sealed_pieces,
    whole,
)
from colab_magics.checkpoints.verify import ASIDE


class FolderStore:
    """A folder: another disk, a persistent home, a mount.

    Parameters
    ----------
    known : sequence of PurePath
        Mount points on which it lay before: if one of them is not mounted now, nothing is written.
    """

    lease_every = 60.0
    patience = 30.0
    copy_every = 0.0
    truncates = False

    def __init__(self, root: Path, *, run_folder: Path | None = None, known: Sequence[PurePath] = ()) -> None:
        self.root = absolute(root)
        self.where = str(self.root)
        self.disk: Disk = DISK
        self._run_folder = run_folder
        self._known = [*known]
        self._appended: dict[str, int] = {}

    def ready(self) -> None:
        there = mounts()
        gone = missing_mount(self.root, among=there, known=self._known)
        if gone is not None:
            # a plain folder made there would take every byte, and end with the machine
            raise OSError(errno.ENOTCONN, f"nothing is mounted on {gone}")
        mount = mount_of(self.root, there)
        if mount is not None and len(mount.point.parts) > 1 and mount.point not in self._known:
            self._known.append(mount.point)
        for folder in (*reversed(self.root.parents), self.root):
            if not folder.is_dir():
                with suppress(FileExistsError):
                    self.disk.make_folder(folder)

    @property
    def mount_point(self) -> str:
        """The point of the mount on which it lies; empty for the root's own disk."""
        return str(self._known[-1]) if self._known else ""

    def standing(self) -> Standing:
        mount = mount_of(self.root)
        if mount is not None and mount.is_memory:
            return "local"
        if self._run_folder is not None and self.root.stat().st_dev == self._run_folder.stat().st_dev:
            return "local"
        return "handed over" if mount is not None and mount.is_fuse else "confirmed"

    def proven(self, path: str, names: Sequence[str]) -> bool:  # noqa: ARG002
        return False

    def ends(self, path: str, names: Sequence[str]) -> bool:  # noqa: ARG002
        return True

    def _open(self, path: str, flags: int) -> int:
        """Open below the root, following no link on the way."""
        *folders, last = PurePosixPath(path).parts or (".",)
        at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in folders:
                if name == "..":
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            if last == "..":
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
            return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
        finally:
            os.close(at)

    def names(self, path: str) -> list[Item]:
        try:
            descriptor = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:
                return []
            raise
        found = []
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        told = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(told.st_mode) or stat.S_ISDIR(told.st_mode):
                            found.append(Item(entry.name, told.st_size, stat.S_ISDIR(told.st_mode)))
        finally:
            os.close(descriptor)
        return found

    def pieces(self, path: str, *, cached: bool = True) -> Iterator[bytes]:
        with os.fdopen(self._open(path, os.O_RDONLY), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Broken(f"{PurePosixPath(path).name} is no file")
            if not cached and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(PIECE):
                yield piece

    def _made(self, path: str) -> Path:
        """The folder at `path`, made where it is missing, after a look that it lies where it should."""
        self.ready()
        folder = self.root
        for name in PurePosixPath(path).parts:
            folder = folder / name
            try:
                mode = folder.lstat().st_mode
            except FileNotFoundError:
                self.disk.make_folder(folder)
                continue
            if not stat.S_ISDIR(mode):
                raise OSError(errno.ENOTDIR, f"{folder} is no folder of ours")
        return folder

    def put(self, path: str, data: bytes) -> None:
        target = self._made(str(PurePosixPath(path).parent)) / PurePosixPath(path).name
        before = self._appended.pop(path, None) if target.exists() else None
        if path.endswith(".jsonl") and before is not None and before <= len(data):
            # a log only grows: what is new is added, and no old version is left for a Drive to count
            self._overwrite(target, before, data[before:], before)
        elif target.name == LEASE and before == len(data):
            # so is a lease that is renewed every minute: a Drive would keep each one in its trash
            self._overwrite(target, before, data, 0)
        else:
            staged = target.with_name(f"{STAGING}{target.name}-{secrets.token_hex(4)}")
            try:
                write(staged, [data], self.disk)
                self.disk.rename(staged, target)
            except BaseException:
                with suppress(OSError):
                    self.disk.unlink(staged)
                raise
            self.disk.flush_folder(target.parent)
        self._appended[path] = len(data)

    def _overwrite(self, target: Path, before: int, data: bytes, begin: int) -> None:
        descriptor = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != before:
                raise OSError(errno.EIO, f"{target.name} is not as it was left")
            os.lseek(descriptor, begin, os.SEEK_SET)
            write_all(self.disk, descriptor, memoryview(data))
            self.disk.flush(descriptor)
        finally:
            self.disk.close(descriptor)

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        target = self._made(str(PurePosixPath(path).parent)) / PurePosixPath(path).name
        if target.exists() or target.is_symlink():
            # torn, or altered, or of other data; never ours to judge, so it is kept out of the way
            self.disk.rename(target, target.with_name(f"{ASIDE}{target.name}-{secrets.token_hex(2)}"))
        contents = {name: sealed_pieces(source / name, sealed, told) for name, sealed in manifest.files.items()}
        commit(target, contents, manifest, disk=self.disk)

    def sync(self) -> None:
        """Nothing: every call has done what it says."""

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.disk.unlink(self.root / path)

    def discard(self, path: str, run: str) -> None:
        self.ready()
        discard(self.root / path, run=run, disk=self.disk, truncate=self.truncates)

    def tidy(self, path: str, run: str) -> None:
        folder = self.root / path
        for item in self.names(path):
            here = folder / item.name
            if item.name.startswith(STAGING) and not item.is_folder:
                self.disk.unlink(here)
            elif item.name.startswith((STAGING, DELETING)):
                if item.name.startswith(STAGING) and self._finished(path, item.name, run):
                    continue
                remove(here, disk=self.disk, truncate=self.truncates)

    def _finished(self, path: str, staged: str, run: str) -> bool:
        """Whether only the rename was missing, and now is done: no byte of it is copied again."""
        target = self.root / path / committed_name(staged)
        if target.name == staged or target.exists():
            return False
        try:
            whole(self, f"{path}/{staged}", run=run)
        except Broken:
            return False
        self.disk.rename(target.with_name(staged), target)
        self.disk.flush_folder(target.parent)
        return True

    def free(self) -> int | None:
        return shutil.disk_usage(self.root).free
