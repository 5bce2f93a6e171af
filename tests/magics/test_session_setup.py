"""`%session setup`: the folders it makes, where what stays is kept, and the trouble it tells."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import pytest

from colab_magics.checkpoints.mounts import Mount
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import durable, session_facts, session_setup
from colab_magics.magics.checkpoint import configured_replica
from colab_magics.session.folders import Paths

from .conftest import session_says

pytestmark = pytest.mark.face


@pytest.fixture
def shell(session_shell: Any) -> Any:
    return session_shell


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretends to be a platform whose persistent storage is a folder of the test's, on a mount of its own."""

    def pretend(key: str, home: Path | None, *, mounted: bool = True) -> None:
        there = [Mount(PurePath("/"), "ext4", "/dev/sda1")]
        if home is not None and mounted:
            there.append(Mount(PurePath(home), "ext4", "/dev/sdb1"))
        for module in (session_setup, durable, session_facts):
            monkeypatch.setattr(module, "mounts", lambda: list(there))
        monkeypatch.setenv("COLAB_MAGICS_PLATFORM", key)
        if home is not None:
            (tmp_path / "session.toml").write_text(f'[platforms.{key}]\npersistent = "{home}"\n')

    return pretend


def test_setup_beside_the_notebook_makes_the_folders_and_binds_them(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = session_says(shell, capsys, "setup --out paths")
    paths = shell.user_ns["paths"]
    assert isinstance(paths, Paths)
    assert paths.root == tmp_path / "notebook"
    assert sorted(path.name for path in paths.root.iterdir()) == ["checkpoints", "datasets", "logs", "outputs"]
    assert told.splitlines()[0] == "This machine"
    assert all(str(path) in told for path in paths.folders.values())
    assert configured_replica(shell) == "", "a copy on the runs' own disk would protect nothing"


def test_setup_twice_changes_nothing(shell: Any, capsys: Any, tmp_path: Path) -> None:
    first = session_says(shell, capsys, "setup")
    (tmp_path / "notebook" / "datasets" / "rows.jsonl").write_text("{}\n")
    assert session_says(shell, capsys, "setup") == first
    assert (tmp_path / "notebook" / "datasets" / "rows.jsonl").exists()


def test_where_another_disk_stays_the_copies_of_runs_go_there(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    elsewhere("paperspace", storage)
    told = session_says(shell, capsys, "setup --out paths")
    assert configured_replica(shell) == str(storage / "colab_magics" / "checkpoints")
    assert f"copied to               {storage}/colab_magics/checkpoints" in told
    assert (storage / "colab_magics" / "datasets").is_dir()


def test_a_replica_of_your_own_stays(shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    (tmp_path / "storage").mkdir()
    elsewhere("paperspace", tmp_path / "storage")
    shell.run_line_magic("config", "CheckpointMagics.replica = 's3://mine/runs'")
    assert "copied to               s3://mine/runs" in session_says(shell, capsys, "setup")
    assert configured_replica(shell) == "s3://mine/runs"


def test_where_the_working_directory_stays_runs_stay_with_it(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    elsewhere("lightning", tmp_path)
    told = session_says(shell, capsys, "setup --out paths")
    assert shell.user_ns["paths"].checkpoints == tmp_path / "notebook" / "checkpoints"
    assert f"nowhere: {tmp_path} stays by itself" in told
    assert configured_replica(shell) == ""
    elsewhere("kaggle", tmp_path)
    assert f"nowhere: {tmp_path} stays only if Persistence is on" in session_says(shell, capsys, "setup")


def test_storage_that_is_not_there_is_not_made_up(shell: Any, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    elsewhere("runpod", tmp_path / "workspace", mounted=False)
    with pytest.raises(ColabMagicsError, match=r"There is no .*/workspace on this machine") as refused:
        shell.run_line_magic("session", "setup")
    assert "%session set runpod.persistent FOLDER" in str(refused.value)
    assert not (tmp_path / "workspace").exists()


class PretendedDrive:
    """`google.colab.drive`, whose Drive appears in the table of mounts when it is mounted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.refuses = 0, False
        self.there = [Mount(PurePath("/"), "ext4", "/dev/sda1")]
        drive = ModuleType("google.colab.drive")
        drive.mount = self.mount  # type: ignore[attr-defined]
        colab = ModuleType("google.colab")
        colab.drive = drive  # type: ignore[attr-defined]
        for name, module in (("google", ModuleType("google")), ("google.colab", colab), ("google.colab.drive", drive)):
            monkeypatch.setitem(sys.modules, name, module)
        for where in (session_setup, durable, session_facts):
            monkeypatch.setattr(where, "mounts", lambda: list(self.there))
        monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "colab-free")

    def mount(self, point: str) -> None:
        self.asked += 1
        if self.refuses:
            raise ValueError("mount failed: the window was closed")
        self.there.append(Mount(PurePath(point), "fuse.drive", "drive"))


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> PretendedDrive:
    return PretendedDrive(monkeypatch)


def test_on_colab_drive_is_mounted_once_and_holds_the_folders(
    shell: Any, capsys: Any, drive: PretendedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(session_setup, "_make_by_a_child", lambda folders, *_: made.extend(folders))
    told = session_says(shell, capsys, "setup --out paths")
    session_says(shell, capsys, "setup")
    assert drive.asked == 1
    assert str(shell.user_ns["paths"].datasets) == "/content/drive/MyDrive/colab_magics/datasets"
    assert made[: len(made) // 2] == list(shell.user_ns["paths"].folders.values())
    assert configured_replica(shell) == "/content/drive/MyDrive/colab_magics/checkpoints"
    assert "/content/drive/MyDrive/datasets" in told


def test_a_drive_that_is_said_to_be_mounted_and_is_not_has_no_folders_made_in_its_place(
    shell: Any, drive: PretendedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: made.append(self))
    monkeypatch.setattr(sys.modules["google.colab.drive"], "mount", lambda _: None)
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup")
    assert refused.value.lines()[1] == "Colab says that it is, but there is no such mount."
    assert not made


def test_storage_that_may_not_be_written_to_is_told_with_how_to_name_another(
    shell: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "colab_magics").touch()  # root may write anywhere else
    elsewhere("paperspace", storage)
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup")
    assert "%session set paperspace.persistent FOLDER" in refused.value.next_steps[0]


def test_a_value_in_a_file_that_dies_with_the_machine_is_not_called_one_for_every_session(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    elsewhere("paperspace", tmp_path / "storage")
    told = session_says(shell, capsys, "set idle 60 min")
    assert 'session.idle = "60 min", until this machine ends.' in told
    assert told.splitlines()[-1].endswith("keep this line in the notebook.")
    elsewhere("paperspace", tmp_path)
    assert 'session.idle = "60 min", for every session.' in session_says(shell, capsys, "set idle 60 min")


def test_a_drive_that_is_not_allowed_ends_the_cell_in_words(shell: Any, drive: PretendedDrive) -> None:
    drive.refuses = True
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup --out paths")
    assert refused.value.lines()[:2] == [
        "Drive was not mounted, and /content/drive/MyDrive/colab_magics is on it.",
        "Colab says: mount failed: the window was closed.",
    ]
    assert "paths" not in shell.user_ns
    assert configured_replica(shell) == ""


def test_folders_on_a_mount_are_made_by_a_child_and_its_trouble_is_told(tmp_path: Path) -> None:
    session_setup._make_by_a_child([tmp_path / "a" / "b", tmp_path / "a"], tmp_path, "")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ColabMagicsError, match="were not made") as refused:
        session_setup._make_by_a_child([tmp_path / "file" / "b"], tmp_path, "Make room there.")
    assert "Not a directory" in str(refused.value)
    assert refused.value.next_steps == ("Make room there.",)


def test_a_mount_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = tmp_path / "python"
    hung.write_text("#!/bin/sh\nexec sleep 20\n")
    hung.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hung))
    monkeypatch.setattr(session_setup, "_PATIENCE", 0.2)
    with pytest.raises(ColabMagicsError, match="does not answer"):
        session_setup._make_by_a_child([tmp_path / "a"], tmp_path, "")
