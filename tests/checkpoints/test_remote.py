"""A run is found in a replica and brought from there, on a machine that has nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest

from checkpoints import copies, scenes
from colab_magics.checkpoints import remote
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.stores import missing_package
from colab_magics.checkpoints.verify import verify
from colab_magics.errors import ColabMagicsError


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """A replica of a finished run with three checkpoints, whose own folder is gone."""
    folder = copies.make_run(tmp_path / "old", steps=(10, 20, 30))
    copies.finish(folder)
    place = tmp_path / "durable"
    copies.replicated(folder, FolderStore(place))
    for step in (10, 20):  # only the newest is copied of those that are there already
        shutil.copytree(folder / "checkpoints" / f"{step:08d}-a1", place / "kwanzaa" / "checkpoints" / f"{step:08d}-a1")
    shutil.rmtree(folder.parent)
    return place


def test_look_names_the_runs_their_steps_and_states(replica: Path) -> None:
    (found,) = remote.look(str(replica))
    assert (found.name, found.id, found.state, found.step) == ("kwanzaa", copies.RUN, "finished", 30)
    assert [one.name for one in found.checkpoints] == ["00000030-a1", "00000020-a1", "00000010-a1"]
    assert all(one.whole for one in found.checkpoints)
    assert found.lease is None


def test_fetch_brings_all_that_a_new_machine_needs(replica: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    came = remote.fetch(
        str(replica), "kwanzaa", tmp_path / "new", progress=lambda done, total: told.append((done, total))
    )
    folder = tmp_path / "new" / "kwanzaa"
    assert (came.folder, came.checkpoint, came.step, came.skipped) == (folder, "00000030-a1", 30, ())
    assert scenes.is_as_saved(verify_path(folder, 30), 30)
    assert verify(folder / "prepared" / "train").run == copies.RUN
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == b"weights" * 100
    assert not (folder / "adapter" / "MANIFEST.json").exists()
    assert (folder / "recipe.yaml").read_text() == "model: tiny\ndata: rows.jsonl\n"
    assert told[-1][0] == told[-1][1] == came.bytes
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["kwanzaa"]


def verify_path(folder: Path, step: int) -> Path:
    path = folder / "checkpoints" / f"{step:08d}-a1"
    verify(path, run=copies.RUN)
    return path


def test_fetch_passes_over_altered_checkpoints_and_names_them(replica: Path, tmp_path: Path) -> None:
    checkpoints = replica / "kwanzaa" / "checkpoints"
    weights = checkpoints / "00000030-a1" / "adapter_model.safetensors"
    altered = bytearray(weights.read_bytes())
    altered[700] ^= 1
    weights.write_bytes(altered)
    (checkpoints / "00000020-a1" / "MANIFEST.json").unlink()
    came = remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert came.checkpoint == "00000010-a1"
    assert dict(came.skipped) == {
        "00000030-a1": "adapter_model.safetensors was altered",
        "00000020-a1": "it has no manifest: it was not finished",
    }
    assert os.listdir(tmp_path / "new" / "kwanzaa" / "checkpoints") == ["00000010-a1"]


def test_fetch_brings_the_one_that_is_asked_for(replica: Path, tmp_path: Path) -> None:
    assert remote.fetch(str(replica), "kwanzaa", tmp_path / "new", "00000020-a1").step == 20
    with pytest.raises(ColabMagicsError, match="has no checkpoint 00000099-a1"):
        remote.fetch(str(replica), "kwanzaa", tmp_path / "newer", "00000099-a1")
    assert not any((tmp_path / "newer").iterdir())


def test_fetch_adds_to_the_same_run_and_refuses_another_of_its_name(replica: Path, tmp_path: Path) -> None:
    remote.fetch(str(replica), "kwanzaa", tmp_path / "new", "00000020-a1")
    remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert len(os.listdir(tmp_path / "new" / "kwanzaa" / "checkpoints")) == 2
    other = copies.make_run(tmp_path / "third", run=scenes.OTHER_RUN)
    with pytest.raises(ColabMagicsError, match="Another run called kwanzaa"):
        remote.fetch(str(replica), "kwanzaa", tmp_path / "third")
    assert os.listdir(other / "checkpoints") == ["00000010-a1"]


def test_fetch_adds_nothing_through_a_linked_checkpoints_folder(replica: Path, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "new")
    elsewhere = (folder / "checkpoints").rename(tmp_path / "elsewhere")
    (folder / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(ColabMagicsError, match="is a symbolic link"):
        remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert os.listdir(elsewhere) == ["00000010-a1"]


def test_a_commit_of_which_only_the_rename_was_lost_is_found(replica: Path, tmp_path: Path) -> None:
    checkpoints = replica / "kwanzaa" / "checkpoints"
    (checkpoints / "00000030-a1").rename(checkpoints / ".staging-00000030-a1-0123abcd")
    assert remote.fetch(str(replica), "kwanzaa", tmp_path / "new").checkpoint == "00000030-a1"


def test_a_hostile_replica_reaches_nothing_outside_the_root(replica: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("hf_not_yours")
    run = replica / "kwanzaa"
    for name in ("adapter_config.json", "state.json"):  # a link with the right bytes is a link all the same
        kept = run / "checkpoints" / "00000030-a1" / name
        kept.rename(tmp_path / name)
        kept.symlink_to(tmp_path / name)
    (run / "checkpoints" / "00000020-a1").rename(tmp_path / "elsewhere")
    (run / "checkpoints" / "00000020-a1").symlink_to(tmp_path / "elsewhere")
    (run / "recipe.yaml").unlink()
    (run / "recipe.yaml").symlink_to(secret)
    (run / "prepared" / "train").rename(run / "prepared" / "..data")
    (replica / "not a run's name").mkdir()
    came = remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert came.checkpoint == "00000010-a1"
    assert [name for name, _ in came.skipped] == ["00000030-a1"]
    assert not (came.folder / "recipe.yaml").exists()
    assert not any(path.is_symlink() for path in came.folder.rglob("*"))
    assert not any("hf_not_yours" in path.read_text("latin-1") for path in came.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/evil.json", "evil.py", "evil.pkl", ".bashrc", "a/b.json"])
def test_a_manifest_that_names_what_is_not_ours_is_not_followed(name: str, replica: Path, tmp_path: Path) -> None:
    folder = replica / "kwanzaa" / "checkpoints" / "00000030-a1"
    text = (folder / "MANIFEST.json").read_text()
    forged = json.loads(text)
    forged.pop("hash")
    files = {**forged.pop("files"), name: {"size": 4, "blake2b": "0" * 64}}
    (folder / "MANIFEST.json").write_bytes(sealed_anew({**forged, "files": files}))
    came = remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert came.checkpoint == "00000020-a1"
    assert [skipped for skipped, _ in came.skipped] == ["00000030-a1"]


def sealed_anew(told: dict[str, object]) -> bytes:
    """A manifest with a right hash of its own: whoever forges one can compute that too."""
    from hashlib import blake2b

    body = json.dumps(told, indent=1).removesuffix("\n}").encode()
    return body + f',\n "hash": "{blake2b(body, digest_size=32).hexdigest()}"\n}}\n'.encode()


def test_the_forged_seal_is_a_right_one() -> None:
    told = json.loads(Manifest("data", "0" * 16, {}).to_json())
    told.pop("hash")
    assert Manifest.from_json(sealed_anew(told)).run == "0" * 16


def test_what_is_too_large_to_be_ours_is_not_read(replica: Path, tmp_path: Path) -> None:
    with (replica / "kwanzaa" / "inputs.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ColabMagicsError, match="cannot be fetched"):
        remote.fetch(str(replica), "kwanzaa", tmp_path / "new")
    assert not any((tmp_path / "new").iterdir())


def test_names_that_leave_the_root_are_refused(replica: Path, tmp_path: Path) -> None:
    for name in ("../kwanzaa", "/etc", ".."):
        with pytest.raises(ColabMagicsError):
            remote.fetch(str(replica), name, tmp_path / "new")


def test_a_place_that_is_not_there_is_told_apart_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="There is no folder"):
        remote.look(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert remote.look(str(tmp_path / "empty")) == []
    with pytest.raises(ColabMagicsError, match="Nothing is mounted on /content/drive"):
        remote.look("/content/drive/MyDrive/colab_magics")


@pytest.mark.parametrize(
    ("where", "why", "todo"),
    [
        ("s3://", "It names no bucket.", "Write s3://bucket/path."),
        ("hf://mine", "It names no repository.", "Write hf://owner/name."),
        ("kaggle://mine", "It names no data set.", "Write kaggle://owner/dataset."),
        ("s3x://bucket/runs", "No kind of store is called s3x.", "Did you mean s3://?"),
        ("{home}/file/runs", "{home}/file is a file, and no folder.", "Name a folder, or a URL."),
        ("file://{home}/file", "{home}/file is a file, and no folder.", "Name a folder, or a URL."),
    ],
)
def test_an_address_that_can_hold_nothing_is_told_with_what_to_write(
    where: str, why: str, todo: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for ask in (remote.look, lambda place: remote.check(place, 1)):
        with pytest.raises(ColabMagicsError) as raised:
            ask(where.format(home=tmp_path))
        assert raised.value.why == why.format(home=tmp_path)
        assert raised.value.next_steps == (todo,)


def test_a_missing_library_is_named_as_it_is_installed() -> None:
    import fsspec

    protocol, library = next(
        (protocol, library)
        for protocol, library in (("gs", "gcsfs"), ("az", "adlfs"), ("oci", "ocifs"))
        if importlib.util.find_spec(library) is None
    )
    with pytest.raises(ImportError) as missing:
        fsspec.filesystem(protocol)
    assert missing_package(missing.value) == library


def test_memory_is_told_as_what_it_is() -> None:
    assert remote.check("memory://x", 1) == [
        "memory://x is in the memory of the process that copies: the copy ends with it."
    ]


def test_check_names_a_copy_that_would_end_with_the_machine(tmp_path: Path) -> None:
    notes = remote.check(str(tmp_path / "copy"), 10**6, run_folder=tmp_path)
    assert len(notes) == 1
    assert "ends with the machine" in notes[0]
    assert os.listdir(tmp_path / "copy") == []
    assert any("free" in note for note in remote.check(str(tmp_path / "copy"), 10**16))
    with pytest.raises(ColabMagicsError, match="cannot be reached"):
        remote.check("/content/drive/MyDrive/colab_magics", 1)
    assert not Path("/content/drive/MyDrive").exists()
