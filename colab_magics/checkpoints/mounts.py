"""What is mounted where, and what that means for a copy: the same disk, another one, a network, or nothing at all.

Asked of `/proc/self/mounts` alone. `stat` and `statvfs` of a hung mount never return, so nothing here touches a path
on a file system that is not local.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

MOUNTS = Path("/proc/self/mounts")
FSTAB = Path("/etc/fstab")
COLAB_DRIVE = PurePath("/content/drive")

# Not 9p and virtiofs: they are what a virtual machine or gVisor has for its own disk.
_NETWORK = re.compile(r"(nfs\d*|cifs|smb\d*|smbfs|ncpfs|ceph|glusterfs|lustre|beegfs|gpfs|afs|davfs|fuse(\..+)?)")
_MEMORY = frozenset(("tmpfs", "ramfs"))
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of the table: where, of which type, and what."""

    point: PurePath
    type: str
    source: str

    @property
    def is_drive(self) -> bool:
        """Whether this is Google Drive as Colab mounts it."""
        return self.type == "fuse.drive" or (self.point == COLAB_DRIVE and self.type.startswith("fuse"))

    @property
    def is_network(self) -> bool:
        """Whether a call on it may wait for a network, or for a process of somebody else's."""
        return self.type != "fuseblk" and _NETWORK.fullmatch(self.type) is not None

    @property
    def is_fuse(self) -> bool:
        """Whether a process of somebody else's decides what a written byte means."""
        return self.type == "fuse" or self.type.startswith("fuse.")

    @property
    def is_memory(self) -> bool:
        """Whether it ends with the machine."""
        return self.type in _MEMORY


def mounts(table: Path = MOUNTS) -> list[Mount]:
    """All that is mounted, in the order of mounting; none where there is no such table."""
    try:
        lines = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split()
        if len(fields) >= 3:
            source, point, kind = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), field) for field in fields[:3])
            found.append(Mount(PurePath(point), kind, source))
    return found


def absolute(path: str | os.PathLike[str]) -> Path:
    """`path` from the root on, `~` and `..` resolved by their letters alone: no call on a file system."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))


def mount_of(path: Path, among: Sequence[Mount] | None = None) -> Mount | None:
    """On which mount `path` lies (or would lie): the one with the longest point; of equals, the last one mounted."""
    where = absolute(path)
    found = None
    for mount in mounts() if among is None else among:
        if where.is_relative_to(mount.point) and (found is None or len(mount.point.parts) >= len(found.point.parts)):
            found = mount
    return found


def missing_mount(
    path: Path, *, among: Sequence[Mount] | None = None, known: Sequence[PurePath] = (), fstab: Path = FSTAB
) -> PurePath | None:
    """The known mount point above `path` on which nothing is mounted now; None if all is well.

    Known are Colab's `/content/drive`, what `/etc/fstab` names, and `known`: where this path's mount was before.
    """
    where = absolute(path)
    there = mounts() if among is None else among
    for point in (COLAB_DRIVE, *(mount.point for mount in _promised(fstab)), *known):
        if len(point.parts) > 1 and where.is_relative_to(point) and all(mount.point != point for mount in there):
            return point
    return None


def _promised(fstab: Path) -> list[Mount]:
    """The table's lines that are mount points (a swap partition has none)."""
    return [mount for mount in mounts(fstab) if not mount.source.startswith("#") and mount.point.is_absolute()]


def is_local(path: str | os.PathLike[str], among: Sequence[Mount] | None = None, *, _links: int = 0) -> bool:
    """Whether `path` lies on a disk of this machine, and on no network or FUSE file system.

    Links are followed one by one, and never into a mount that might hang.
    """
    there = mounts() if among is None else among
    where = absolute(path)
    for place in (*reversed(where.parents), where):
        mount = mount_of(place, there)
        if mount is not None and mount.is_network:
            return False
        if place.is_symlink() and _links < 40:
            target = absolute(place.parent / place.readlink())
            return is_local(target / where.relative_to(place), there, _links=_links + 1)
    return True
