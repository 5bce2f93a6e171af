"""A shared folder is hostile: nothing outside of it is read, written or deleted, and nothing in it is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from checkpoints.scenes import RUN, contents, is_as_saved, save
from colab_magics.checkpoints.commit import commit, discard, sweep
from colab_magics.checkpoints.manifest import _TAIL, MANIFEST, Broken, Manifest, _hash_of
from colab_magics.checkpoints.retention import superfluous
from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.checkpoints.verify import entries, newest_verified, set_aside, verify

pytestmark = pytest.mark.face


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What a person has beside the run, and must find as it was."""
    place = tmp_path / "home"
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")
    save(place, 1)
    return place


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    place = tmp_path / "runs" / "kwanzaa" / "checkpoints"
    place.mkdir(parents=True)
    return place


def is_untouched(home: Path) -> bool:
    return (home / "thesis.tex").read_text() == "years of work" and is_as_saved(home / "00000001-a1", 1)


def test_a_checkpoint_that_is_a_link_is_not_used_and_what_it_names_is_not_deleted(
    home: Path, checkpoints: Path
) -> None:
    link = checkpoints / "00000001-a1"
    link.symlink_to(home / "00000001-a1")
    found = newest_verified(checkpoints)
    assert found.entry is None
    with pytest.raises(Broken):
        discard(link, run=RUN)
    set_aside(found.skipped[0])
    sweep(checkpoints)
    assert is_untouched(home)


@pytest.mark.parametrize("name", [*contents(1), MANIFEST])
@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_a_file_that_is_a_link_is_not_read_though_its_bytes_would_be_right(
    home: Path, checkpoints: Path, name: str, how: str
) -> None:
    folder = save(checkpoints, 1)
    (folder / name).unlink()
    there = home / "00000001-a1" / name
    (folder / name).symlink_to(there if how == "absolute" else os.path.relpath(there, folder))
    with pytest.raises(Broken, match="symbolic"):
        verify(folder)
    if name != MANIFEST:
        discard(folder, run=RUN, truncate=True)
        assert list(checkpoints.iterdir()) == []
    assert is_untouched(home)


def _claiming(folder: Path, name: str) -> None:
    """A manifest of `folder` that names a file elsewhere, and whose own hash holds."""
    told = json.loads((folder / MANIFEST).read_text())
    del told["hash"]
    told["files"] = {name: {"size": 13, "blake2b": "0" * 64}}
    body = json.dumps(told, indent=1).removesuffix("\n}").encode()
    (folder / MANIFEST).write_bytes(body + _TAIL.format(_hash_of(body)).encode())


@pytest.mark.parametrize("climb", ["../../../../home/thesis.tex", "/etc/hostname", "..", "a/../../thesis.tex"])
def test_a_manifest_that_claims_files_elsewhere_is_refused_and_deletes_nothing_there(
    home: Path, checkpoints: Path, climb: str
) -> None:
    folder = save(checkpoints, 1)
    _claiming(folder, climb)
    with pytest.raises(Broken, match="cannot be ours"):
        verify(folder)
    with pytest.raises(Broken, match="cannot be ours"):
        discard(folder, run=RUN)
    assert is_untouched(home)
    assert (folder / "state.json").exists()


def test_only_folders_with_our_name_and_our_manifest_are_ever_deleted(home: Path, checkpoints: Path) -> None:
    kept = {"my-copy-of-00000001-a1", "checkpoint-500", "00000001", ".git", "00000003-a1", ".broken-00000004-a1-aa"}
    for name in kept:
        (checkpoints / name).mkdir()
        (checkpoints / name / "weights").write_bytes(b"a person's")
    for step in (5, 6, 7):
        save(checkpoints, step)
    for entry in superfluous(entries(checkpoints), limit=1, verified="00000007-a1", confirmed=None, pinned=()):
        discard(entry.folder, run=RUN)
    sweep(checkpoints)
    assert {path.name for path in checkpoints.iterdir()} == {*kept, "00000007-a1"}
    assert all((checkpoints / name / "weights").read_bytes() == b"a person's" for name in kept)


def test_a_checkpoints_folder_that_is_a_link_is_not_followed(checkpoints: Path, tmp_path: Path) -> None:
    save(checkpoints, 1)
    (checkpoints / ".staging-00000002-a1-aa").mkdir()
    link = tmp_path / "linked"
    link.symlink_to(checkpoints)
    assert entries(link) == []
    assert newest_verified(link).entry is None
    assert sweep(link) == []
    assert sorted(path.name for path in checkpoints.iterdir()) == [".staging-00000002-a1-aa", "00000001-a1"]


def test_a_manifest_and_a_file_that_claim_to_be_huge_are_not_read_into_memory(checkpoints: Path) -> None:
    folder = save(checkpoints, 1)
    os.truncate(folder / MANIFEST, 2**40)
    os.truncate(folder / "optimizer.safetensors", 2**40)
    tracemalloc.start()
    try:
        assert newest_verified(checkpoints).entry is None
        with pytest.raises((ValueError, OSError)):
            read_tensors(folder / "optimizer.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_files_are_hashed_without_being_held_in_memory(checkpoints: Path) -> None:
    piece = memoryview(bytes(2**20))
    commit(
        checkpoints / "00000001-a1",
        {"model.safetensors": (piece for _ in range(64))},
        Manifest("checkpoint", RUN, {}, 1, 1),
    )
    tracemalloc.start()
    try:
        verify(checkpoints / "00000001-a1")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_the_mode_of_our_files_lets_nobody_else_write(checkpoints: Path) -> None:
    folder = save(checkpoints, 1)
    assert all(path.stat().st_mode & 0o022 == 0 for path in (folder, *folder.iterdir()))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_a_pickle_in_a_checkpoint_is_never_loaded(tmp_path: Path, checkpoints: Path) -> None:
    """Planted wherever a file may stand, with hashes that hold: hashes are not trust."""
    bomb = pickle.dumps(Bomb())
    names = (*contents(1), "optimizer.pt", "training_args.bin")
    commit(checkpoints / "00000001-a1", {name: [bomb] for name in names}, Manifest("checkpoint", RUN, {}, 1, 1))
    seen = tmp_path / "seen"
    child = f"""
import sys
from pathlib import Path
def heard(event, arguments):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen"):
        Path({str(seen)!r}).write_text(event)
sys.addaudithook(heard)
from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.checkpoints.verify import newest_verified
folder = newest_verified(Path({str(checkpoints)!r})).entry.folder
for path in folder.iterdir():
    try: read_tensors(path)
    except ValueError: pass
assert "pickle" not in sys.modules and "torch" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", child], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert not seen.exists(), seen.read_text()


def is_pickle(data: bytes) -> bool:
    """Whether anything would unpickle it: a stream of opcodes from its first byte to a STOP, or torch's zip of one."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        return True
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except Exception:
        return False


def test_nothing_that_we_write_is_a_pickle(checkpoints: Path) -> None:
    assert is_pickle(pickle.dumps({"a": 1}))
    folder = save(checkpoints, 1)
    assert not any(is_pickle(path.read_bytes()) for path in folder.iterdir())


def test_a_planted_token_is_in_no_file_that_we_write(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "plantedCanary" * 3
    for name in ("HF_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, token)
    folder = save(checkpoints, 1)
    assert not any(token.encode() in path.read_bytes() for path in folder.iterdir())
