"""Every kind of store holds the same tree, and is believed only as far as it gives the bytes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from checkpoints import copies, scenes
from colab_magics.checkpoints import remote
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.manifest import Broken, read_manifest
from colab_magics.checkpoints.stores import Store, open_store, read, shown, whole
from colab_magics.checkpoints.urls import UrlStore

KEYS = {"AWS_ACCESS_KEY_ID": "planted-access-key", "AWS_SECRET_ACCESS_KEY": "planted-secret-key"}


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server, in a process of its own; its address."""
    if find_spec("moto") is None or find_spec("s3fs") is None or find_spec("flask") is None:
        pytest.skip("moto[server] and s3fs are not installed")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    said = tmp_path_factory.mktemp("s3") / "log"
    with said.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        copies.wait_for(lambda: server.poll() is not None or "Running on" in said.read_text())
        yield said.read_text().split("Running on ")[1].split()[0]
        server.kill()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    name = f"runs-{time.monotonic_ns()}"
    request = urllib.request.Request(f"{s3}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    return f"s3://{name}/mine"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "copy")
    if request.param == "file":
        return UrlStore(f"file://{tmp_path}/copy")
    if request.param == "memory":
        return UrlStore(f"memory://{tmp_path}/copy")
    return UrlStore(request.getfixturevalue("bucket"))


def test_a_run_is_copied_pruned_and_copied_on(store: Store, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    said = copies.replicated(folder, store, limit=1)
    assert said.states("00000010-a1") == ["local" if store.where.startswith("memory") else "confirmed"]
    for step in (20, 30):
        scenes.save(folder / "checkpoints", step)
        copies.replicated(folder, store, limit=1)
    copies.finish(folder)
    copies.replicated(folder, store, limit=1)
    assert [item.name for item in store.names("kwanzaa/checkpoints") if item.is_folder] == ["00000030-a1"]
    assert whole(store, "kwanzaa/checkpoints/00000030-a1") == read_manifest(folder / "checkpoints" / "00000030-a1")
    assert read(store, "kwanzaa/events.jsonl", 2**20) == (folder / "events.jsonl").read_bytes()
    assert whole(store, "kwanzaa/adapter").files.keys() == {"adapter_model.safetensors", "adapter_config.json"}
    assert {item.name for item in store.names("kwanzaa")} == {
        *("adapter", "checkpoints", "events.jsonl", "inputs.json", "prepared", "recipe.yaml"),
    } | ({"pins"} & {item.name for item in store.names("kwanzaa")})


def test_the_best_and_the_pinned_are_copied_and_kept_too(store: Store, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=())
    scenes.save(folder / "checkpoints", 10, eval_loss=0.5)
    for step in (20, 30):
        scenes.save(folder / "checkpoints", step, eval_loss=0.9)
    scenes.save(folder / "checkpoints", 40)
    (folder / "pins").mkdir()
    (folder / "pins" / "00000020-a1").touch()
    copies.replicated(folder, store, limit=1)
    there = sorted(item.name for item in store.names("kwanzaa/checkpoints") if item.is_folder)
    assert there == ["00000010-a1", "00000020-a1", "00000040-a1"]
    assert [item.name for item in store.names("kwanzaa/pins")] == ["00000020-a1"]
    (folder / "pins" / "00000020-a1").unlink()
    scenes.save(folder / "checkpoints", 50)
    copies.replicated(folder, store, limit=1)
    there = sorted(item.name for item in store.names("kwanzaa/checkpoints") if item.is_folder)
    assert there == ["00000010-a1", "00000050-a1"]
    assert store.names("kwanzaa/pins") == []


def test_a_copy_that_was_cut_short_or_altered_is_made_anew(store: Store, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    copies.replicated(folder, store)
    path = "kwanzaa/checkpoints/00000010-a1"
    weights = read(store, f"{path}/adapter_model.safetensors", 2**20)
    assert weights is not None
    store.put(f"{path}/adapter_model.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(Broken, match="altered"):
        whole(store, path)
    copies.replicated(folder, store)
    assert whole(store, path, run=copies.RUN)
    store.delete(f"{path}/MANIFEST.json")
    copies.replicated(folder, store)
    assert whole(store, path, run=copies.RUN)


def test_a_source_that_is_altered_is_not_copied_and_the_one_before_it_is(store: Store, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10, 20))
    weights = folder / "checkpoints" / "00000020-a1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    said = copies.replicated(folder, store)
    assert any("00000020-a1 is not copied" in one.get("message", "") for one in said.all)
    assert whole(store, "kwanzaa/checkpoints/00000010-a1")
    with pytest.raises(Broken):
        whole(store, "kwanzaa/checkpoints/00000020-a1")


def test_data_that_was_prepared_anew_replaces_the_old(store: Store, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    copies.replicated(folder, store)
    shutil.rmtree(folder / "prepared")
    shutil.rmtree(folder / "checkpoints")
    again = copies.make_run(tmp_path / "again")
    from colab_magics.checkpoints.commit import commit
    from colab_magics.checkpoints.manifest import Manifest

    (folder / "prepared").mkdir()
    commit(folder / "prepared" / "train", {"tokens.npy": [b"other"]}, Manifest("data", copies.RUN, {}))
    shutil.copytree(again / "checkpoints", folder / "checkpoints")
    copies.replicated(folder, store)
    assert whole(store, "kwanzaa/prepared/train") == read_manifest(folder / "prepared" / "train")


def test_only_files_that_we_made_are_copied(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    copies.finish(folder)
    (tmp_path / "secret").write_text("hf_secret")
    (folder / ".env").write_text("hf_secret")
    (folder / "notes.txt").write_text("hf_secret")
    (folder / "adapter" / ".env").write_text("hf_secret")
    (folder / "adapter" / "training_args.bin").write_text("hf_secret")
    (folder / "adapter" / "vocab.json").symlink_to(tmp_path / "secret")
    (folder / "prepared" / "stray.npy").write_text("hf_secret")
    (folder / "prepared" / "linked").symlink_to(tmp_path)
    copies.replicated(folder, FolderStore(tmp_path / "copy"))
    copied = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert copied
    assert not any(path.is_symlink() or b"hf_secret" in path.read_bytes() for path in copied)


def test_a_run_goes_through_s3_to_a_new_machine_and_no_key_is_in_a_file(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colab_magics.checkpoints import replica

    token = "hf_" + "notarealtokenatall"
    monkeypatch.setenv("HF_TOKEN", token)
    folder = copies.make_run(tmp_path / "runs", steps=(10, 20))
    copies.finish(folder)
    assert replica.start(folder, bucket, 3).wait(60) == 0
    assert copies.news(folder)[-1]["state"] == "done"
    assert copies.news(folder)[-2]["state"] in ("confirmed", "copying")
    (found,) = remote.look(bucket)
    assert (found.name, found.step, found.state, found.lease) == ("kwanzaa", 20, "finished", None)
    came = remote.fetch(bucket, "kwanzaa", tmp_path / "new")
    assert scenes.is_as_saved(came.folder / "checkpoints" / "00000020-a1", 20)
    assert remote.check(bucket, 10**9) == []
    planted = [*KEYS.values(), token]
    for path in (*folder.rglob("*"), *came.folder.rglob("*")):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in planted), path


def test_memory_is_never_more_than_local_and_a_missing_library_says_so(tmp_path: Path) -> None:
    assert UrlStore("memory://x").standing() == "local"
    assert open_store(f"file://{tmp_path}").standing() == "confirmed"
    with pytest.raises(remote.ColabMagicsError):
        remote.look("no-such-protocol://x")


def test_a_password_in_a_url_is_not_shown() -> None:
    assert shown("ftp://me:secret@host/runs?token=1") == "ftp://host/runs"
    assert shown("/a/folder?") == "/a/folder?"


def test_the_runs_own_disk_is_only_local(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = FolderStore(tmp_path / "copy", run_folder=folder)
    said = copies.replicated(folder, store)
    assert said.states("00000010-a1") == ["local"]
    store = UrlStore(f"file://{tmp_path}/copy2", run_folder=folder)
    assert copies.replicated(folder, store).states("00000010-a1") == ["local"]


def test_links_in_a_replica_are_not_followed_when_it_is_written(tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    (tmp_path / "copy").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "copy" / "kwanzaa").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="no folder of ours"):
        copies.replicated(folder, FolderStore(tmp_path / "copy"))
    assert os.listdir(tmp_path / "elsewhere") == []
