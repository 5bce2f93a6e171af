"""A Drive that acknowledges every write at once and uploads when it likes, in an order of its own, or never.

The mount is a plain folder with the extended attributes that Drive's own has. What the cloud knows is kept apart, as
files with names, parents and bytes, and only that is left when the machine is gone.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.faults import WatchedDisk
from colab_magics.checkpoints.drive import ID, Cloud, DriveStore, Known


class MachineGone(BaseException):
    """The virtual machine is gone, with all that was not uploaded."""


@dataclass
class Node:
    """A file or folder in the cloud."""

    name: str
    parent: str
    data: bytes | None  # None: a folder

    def known(self) -> Known:
        data = self.data or b""
        return Known(
            name=self.name,
            parents=(self.parent,),
            size=len(data),
            md5=hashlib.md5(data).hexdigest(),
            sha256=hashlib.sha256(data).hexdigest(),
            trashed=False,
        )


@dataclass
class AbsentMindedDrive:
    """The mount at `mount`, and the cloud behind it. Every `tick` it uploads something, or not."""

    mount: Path
    rng: random.Random
    diligence: float
    most: int = 2
    cloud: dict[str, Node] = field(default_factory=dict)
    ticks: int = 0
    dies_at: int = 10**9
    dropped: bool = False

    def __post_init__(self) -> None:
        self.mount.mkdir(parents=True)
        self._number = 0
        os.setxattr(self.mount, ID, b"root-of-the-drive")
        self.cloud["root-of-the-drive"] = Node("My Drive", "", None)

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks >= self.dies_at:
            raise MachineGone
        if self.rng.random() < self.diligence:
            paths = _all_below(self.mount)
            for path in self.rng.sample(paths, min(len(paths), self.most)):
                self._upload(path)
            if self.rng.random() < 0.2:
                there = {_id(path) for path in paths} | {"root-of-the-drive"}
                if gone := [one for one in self.cloud if one not in there]:
                    self.cloud.pop(self.rng.choice(gone))

    def _upload(self, path: Path) -> None:
        """One thing, of one file or folder: its id, a part of its bytes, all of them, or its name."""
        parent = _id(path.parent)
        if parent not in self.cloud:
            return self._upload(path.parent)
        one = _id(path)
        if not one or one.startswith("local"):
            self._number += 1
            early = self.rng.random() < 0.3  # an id is given, and nothing behind it yet
            new = f"{'local' if self.rng.random() < 0.3 else 'cloud'}-{self._number:08d}"
            os.setxattr(path, ID, new.encode())
            if early or new.startswith("local"):
                return None
            one = new
        data = path.read_bytes() if path.is_file() else None
        node = self.cloud.get(one)
        if node is None:
            if data and self.rng.random() < 0.3:  # its bytes are on their way
                data = data[: self.rng.randrange(len(data))]
            self.cloud[one] = Node(path.name, parent, data)
        elif self.rng.random() < 0.5:
            node.data = data
        else:
            node.name, node.parent = path.name, parent
        return None

    def upload_everything(self) -> None:
        """As a Drive does that is given time: the cloud is what the mount is."""
        for path in sorted(self.mount.rglob("*")):
            one = _id(path)
            if not one or one.startswith("local"):
                self._number += 1
                one = f"cloud-{self._number:08d}"
                os.setxattr(path, ID, one.encode())
            self.cloud[one] = Node(path.name, _id(path.parent), path.read_bytes() if path.is_file() else None)

    def mounted_elsewhere(self, place: Path) -> Path:
        """What another machine finds: the cloud, and nothing else."""
        folders = {"root-of-the-drive": place}
        place.mkdir(parents=True)
        pending = dict(self.cloud)
        while ready := [one for one, node in pending.items() if node.parent in folders]:
            for one in ready:
                node = pending.pop(one)
                path = folders[node.parent] / node.name
                if node.data is not None:
                    path.write_bytes(node.data)
                else:
                    path.mkdir(exist_ok=True)
                    folders[one] = path
        return place


def _all_below(folder: Path) -> list[Path]:
    """Sorted, so that a seed means the same each time."""
    return [Path(top, name) for top, folders, files in os.walk(folder) for name in sorted((*folders, *files))]


def _id(path: Path) -> str:
    try:
        return os.getxattr(path, ID).decode()
    except OSError:
        return ""


class CloudOf(Cloud):
    """The cloud behind such a Drive, asked without a network."""

    def __init__(self, drive: AbsentMindedDrive) -> None:
        super().__init__(lambda: "a token")
        self.drive = drive

    def knows(self, file: str) -> Known | None:
        self.drive.tick()
        node = self.drive.cloud.get(file)
        return node.known() if node is not None else None


class DriveDisk(WatchedDisk):
    """The calls on the mount; nothing is flushed to a real disk, for that is not what is tested."""

    def __init__(self, drive: AbsentMindedDrive) -> None:
        super().__init__()
        self.drive = drive

    def instead(self, call: str, really: Callable[[], Any], *_: Any) -> Any:
        self.drive.tick()
        if self.drive.dropped and call != "close":
            raise OSError(107, "Transport endpoint is not connected")
        return None if call in ("flush", "flush_folder") else really()


class PretendDriveStore(DriveStore):
    """The store on such a Drive; its mount may drop."""

    def __init__(self, drive: AbsentMindedDrive, run_folder: Path, *, asks: bool) -> None:
        super().__init__(
            drive.mount / "colab_magics", run_folder=run_folder, cloud=lambda: CloudOf(drive) if asks else None
        )
        self.drive = drive
        self.disk = DriveDisk(drive)

    def ready(self) -> None:
        self.drive.tick()
        if self.drive.dropped:
            raise OSError(107, "Transport endpoint is not connected")
        super().ready()
