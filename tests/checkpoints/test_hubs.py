"""Stores that take commits or versions: the Hugging Face Hub and Kaggle. Neither is asked; both are pretended."""

# ruff: noqa: ARG002  (a pretended API takes what the real one takes)

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import copies, scenes
from colab_magics.checkpoints import remote
from colab_magics.checkpoints.kaggle import KaggleStore
from colab_magics.checkpoints.manifest import read_manifest
from colab_magics.checkpoints.replica.copying import Replication
from colab_magics.checkpoints.stores import whole
from colab_magics.checkpoints.urls import HubStore
from colab_magics.checkpoints.visit import look_at

fsspec = pytest.importorskip("fsspec")

PRETEND_KAGGLEHUB = '''
"""Kaggle's library, with a folder for the cloud."""
import fnmatch, os, shutil

def dataset_upload(handle, folder, version_notes="", ignore_patterns=()):
    cloud = os.path.join(os.environ["PRETEND_KAGGLE"], handle)
    number = len(os.listdir(cloud)) if os.path.isdir(cloud) else 0
    def ignored(top, names):
        return [name for name in names if any(fnmatch.fnmatch(os.path.join(top, name), one) for one in ignore_patterns)]
    shutil.copytree(folder, os.path.join(cloud, f"{number:03d}"), ignore=ignored)

def dataset_download(handle, force_download=False):
    cloud = os.path.join(os.environ["PRETEND_KAGGLE"], handle)
    return os.path.join(cloud, max(os.listdir(cloud)))
'''


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the versions of pretended datasets lie."""
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "kagglehub.py").write_text(PRETEND_KAGGLEHUB)
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path / "libraries"), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PRETEND_KAGGLE", str(tmp_path / "kaggle"))
    monkeypatch.delitem(__import__("sys").modules, "kagglehub", raising=False)
    return tmp_path / "kaggle"


def test_a_run_goes_through_a_kaggle_dataset_in_few_versions(kaggle: Path, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    said = copies.Said()
    replication = Replication(folder, KaggleStore("kaggle://me/run", run_folder=folder), 2, said)
    copies.copy_all(replication, ended=False)
    for step in (20, 30):
        scenes.save(folder / "checkpoints", step)
        copies.copy_all(replication, ended=False)
    assert len(os.listdir(kaggle / "me" / "run")) == 1, "the next version is not before ten minutes are over"
    copies.finish(folder)
    copies.copy_all(replication)
    replication.close()
    assert replication.finished
    assert said.states("00000030-a1") == ["handed over"]
    shutil.rmtree(folder)
    (found,) = remote.look("kaggle://me/run")
    assert (found.step, found.state, found.lease) == (30, "finished", None)
    came = remote.fetch("kaggle://me/run", "kwanzaa", tmp_path / "new")
    assert scenes.is_as_saved(came.folder / "checkpoints" / "00000030-a1", 30)
    assert (came.folder / "adapter" / "adapter_config.json").exists()


def test_what_names_no_dataset_is_refused(kaggle: Path) -> None:
    for where in ("kaggle://me", "kaggle://me/../run", "kaggle://me/run/more"):
        with pytest.raises(ValueError, match="names no dataset"):
            KaggleStore(where)


class PretendHub:
    """The Hub's API, which puts every commit's files into fsspec's memory."""

    def __init__(self, inside: str) -> None:
        self.fs = fsspec.filesystem("memory")
        self.inside = inside
        self.commits: list[list[str]] = []
        self.repositories: list[tuple[str, str, bool]] = []

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.repositories.append((repo, repo_type, private))

    def create_commit(self, repo: str, operations: Iterable[Any], *, commit_message: str, repo_type: str) -> None:
        added = list(operations)
        for one in added:
            content = one.path_or_fileobj
            data = Path(content).read_bytes() if isinstance(content, str) else content
            self.fs.pipe_file(f"{self.inside}/{one.path_in_repo}", data)
        self.commits.append([one.path_in_repo for one in added])

    def delete_file(self, path: str, repo: str, *, repo_type: str) -> None:
        from huggingface_hub.errors import EntryNotFoundError

        if not self.fs.exists(f"{self.inside}/{path}"):
            raise EntryNotFoundError("no such file")
        self.fs.rm_file(f"{self.inside}/{path}")

    def delete_folder(self, path: str, repo: str, *, repo_type: str) -> None:
        self.fs.rm(f"{self.inside}/{path}", recursive=True)


def test_a_checkpoint_is_one_commit_to_a_private_repository(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = HubStore("hf://datasets/me/runs/mine")
    store.api = hub = PretendHub(str(tmp_path))
    store.fs, store.root = hub.fs, f"{tmp_path}/mine"
    said = copies.replicated(folder, store, limit=1)
    assert hub.repositories == [("me/runs", "dataset", True)]
    assert said.states("00000010-a1") == ["confirmed"]
    (commit,) = [one for one in hub.commits if any("checkpoints" in path for path in one)]
    assert sorted(path.rpartition("/")[2] for path in commit) == sorted([*scenes.contents(10), "MANIFEST.json"])
    assert all(path.startswith("mine/kwanzaa/checkpoints/00000010-a1/") for path in commit)
    scenes.save(folder / "checkpoints", 20)
    copies.replicated(folder, store, limit=1)
    (found,) = look_at(store)
    assert [one["name"] for one in found["checkpoints"]] == ["00000020-a1"]
    assert found["lease"] is None
    assert whole(store, "kwanzaa/checkpoints/00000020-a1") == read_manifest(folder / "checkpoints" / "00000020-a1")


def test_an_address_on_the_hub_names_a_repository_and_a_folder_in_it() -> None:
    for where, wanted in {
        "hf://me/runs": ("me/runs", "model", ""),
        "hf://datasets/me/runs": ("me/runs", "dataset", ""),
        "hf://me/runs/a/b": ("me/runs", "model", "a/b"),
    }.items():
        store = HubStore(where)
        assert (store.repo, store.repo_type, store.inside) == wanted
    with pytest.raises(ValueError, match="names no repository"):
        HubStore("hf://me")
