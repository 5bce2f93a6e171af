"""What is mounted decides what a copy is worth, and where none may be made."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from colab_magics.checkpoints.mounts import Mount, is_local, missing_mount, mount_of, mounts

COLAB = """\
overlay / overlay rw,relatime 0 0
tmpfs /dev tmpfs rw 0 0
/dev/sda1 /kaggle/working ext4 rw 0 0
drive /content/drive fuse.drive rw,nosuid 0 0
10.0.0.2:/home /home/jovyan nfs4 rw 0 0
/dev/sdb1 /mnt/two\\040words ext4 rw 0 0
gcsfuse /mnt/bucket fuse.gcsfuse rw 0 0
/dev/sdc1 /mnt/stick fuseblk rw 0 0
"""


@pytest.fixture
def colab(tmp_path: Path) -> list[Mount]:
    table = tmp_path / "mounts"
    table.write_text(COLAB)
    return mounts(table)


def test_a_path_lies_on_the_longest_mount_above_it(colab: list[Mount]) -> None:
    def on(path: str) -> str:
        mount = mount_of(Path(path), colab)
        assert mount is not None
        return mount.type

    assert on("/content/drive/MyDrive/runs") == "fuse.drive"
    assert on("/content/drives") == "overlay"
    assert on("/mnt/two words/runs") == "ext4"
    assert on("/home/jovyan/../jovyan/runs") == "nfs4"


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/content/runs", True),
        ("/content/drive/MyDrive/runs", False),
        ("/content/drive/../runs", True),
        ("/home/jovyan/runs", False),
        ("/mnt/bucket/runs", False),
        ("/mnt/stick/runs", True),
        ("/kaggle/working", True),
        ("/dev/shm", True),
    ],
)
def test_networks_and_fuse_are_not_local(path: str, local: bool, colab: list[Mount]) -> None:
    assert is_local(path, colab) is local


def test_a_link_into_a_mount_is_found_without_a_step_into_it(colab: list[Mount], tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("/content/drive/MyDrive/runs")
    assert not is_local(tmp_path / "runs", colab)
    assert not is_local(tmp_path / "runs" / "kwanzaa", colab)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert is_local(tmp_path / "loop", colab)


def test_a_dropped_drive_is_missed_and_a_mounted_one_is_not(colab: list[Mount]) -> None:
    path = Path("/content/drive/MyDrive/runs")
    assert missing_mount(path, among=colab) is None
    without = [mount for mount in colab if not mount.is_drive]
    assert missing_mount(path, among=without) == PurePath("/content/drive")
    assert missing_mount(Path("/content/runs"), among=without) is None


def test_a_mount_of_fstab_or_of_an_earlier_session_is_missed(colab: list[Mount], tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(
        "# disks\n/dev/sdd1 /mnt/backup ext4 defaults 0 2\nUUID=1 none swap sw 0 0\n/dev/sda1 / ext4 x 0 1\n"
    )
    assert missing_mount(Path("/mnt/backup/runs"), among=colab, fstab=fstab) == PurePath("/mnt/backup")
    assert missing_mount(Path("/mnt/other"), among=colab, fstab=fstab) is None
    known = [PurePath("/mnt/usb")]
    assert missing_mount(Path("/mnt/usb/runs"), among=colab, known=known, fstab=fstab) == PurePath("/mnt/usb")


def test_where_there_is_no_table_everything_is_local(tmp_path: Path) -> None:
    assert mounts(tmp_path / "none") == []
    assert is_local(tmp_path, [])
    assert mount_of(tmp_path, []) is None
