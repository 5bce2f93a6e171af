"""What is said of a copy on Google Drive is never more than the cloud itself says."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath

import pytest

from checkpoints import copies, scenes
from checkpoints.drives import AbsentMindedDrive, CloudOf, MachineGone, PretendDriveStore
from colab_magics.checkpoints.drive import ID, Cloud, DriveStore, drive_id, mounted_drive
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.manifest import parse_folder_name
from colab_magics.checkpoints.mounts import Mount, mounts
from colab_magics.checkpoints.replica import copying
from colab_magics.checkpoints.replica.copying import Replication
from colab_magics.checkpoints.stores import committed_name
from colab_magics.checkpoints.verify import verify
from colab_magics.checkpoints.visit import Fetching
from colab_magics.errors import ColabMagicsError

DEATHS = int(os.environ.get("COLAB_MAGICS_DRIVE_DEATHS", "500"))
STEPS = (10, 20, 30, 40)


@pytest.fixture(autouse=True)
def _at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    there = mounts()
    monkeypatch.setattr("colab_magics.checkpoints.folders.mounts", lambda: there)
    monkeypatch.setattr(copying, "CONFIRM_EVERY", 0.0)
    try:
        os.setxattr(tmp_path, ID, b"x")
    except OSError:
        pytest.skip("this disk keeps no extended attributes, by which a Drive tells its ids")


def test_never_a_false_confirmed_and_the_newest_whole_is_always_found(tmp_path: Path) -> None:
    runs = copies.make_run(tmp_path / "made", steps=STEPS)
    deaths = [_death(seed, runs, tmp_path / str(seed)) for seed in range(DEATHS)]
    confirmed = sum(death["confirmed"] is not None for death in deaths)
    fetched = sum(death["fetched"] is not None for death in deaths)
    print(f"\n{DEATHS} deaths: {confirmed} with a confirmed copy, {fetched} with one to fetch, 0 false, 0 passed over")
    assert confirmed > DEATHS / 20
    assert fetched > confirmed


def _death(seed: int, made: Path, place: Path) -> dict[str, str | None]:
    """One machine that trains, copies and dies; what was confirmed and what a new machine finds."""
    rng = random.Random(seed)
    folder = place / "runs" / "kwanzaa"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns(*(f"{step:08d}-a1" for step in STEPS[1:])))
    drive = AbsentMindedDrive(place / "MyDrive", rng, diligence=rng.choice([0.0, 0.3, 0.6, 0.6]))
    drive.most = rng.choice([2, 6])
    drive.dies_at = rng.randrange(40, 180)
    said = copies.Said()
    asks = rng.random() < 0.8
    to_come = [*STEPS[1:]]
    replication = Replication(folder, PretendDriveStore(drive, folder, asks=asks), rng.choice([1, 2]), said)
    try:
        while True:
            drive.tick()
            if to_come and rng.random() < 0.2:
                name = f"{to_come.pop(0):08d}-a1"
                shutil.copytree(made / "checkpoints" / name, folder / "checkpoints" / name)
            drive.dropped = rng.random() < (0.5 if drive.dropped else 0.03)
            try:
                replication.turn(ended=not to_come and rng.random() < 0.1)
            except OSError:
                continue
    except MachineGone:
        pass
    confirmed = [one["checkpoint"] for one in said.all if one["state"] == "confirmed"]
    assert asks or not confirmed, "nobody was asked, and yet it is confirmed"
    shutil.rmtree(folder)
    found = _newest_fetched(drive.mounted_elsewhere(place / "new" / "MyDrive"), place)
    newest_confirmed = max(confirmed, key=_age_order, default=None)
    if newest_confirmed is not None:
        assert found is not None, f"seed {seed}: {newest_confirmed} was confirmed, and nothing is there"
        assert _age_order(found) >= _age_order(newest_confirmed), f"seed {seed}"
        assert verify(place / "fetched" / "prepared" / "train"), "without its data it is of no use on a new machine"
        assert (place / "fetched" / "recipe.yaml").read_bytes() == (made / "recipe.yaml").read_bytes()
    shutil.rmtree(place)
    return {"confirmed": newest_confirmed, "fetched": found}


def _newest_fetched(drive: Path, place: Path) -> str | None:
    """What a fetch brings, which must be the newest of those whose every byte is there."""
    checkpoints = drive / "colab_magics" / "kwanzaa" / "checkpoints"
    there = [path for path in checkpoints.iterdir() if not path.name.startswith(".d")] if checkpoints.is_dir() else []
    whole = [committed_name(path.name) for path in there if _is_whole(path)]
    target = place / "fetched"
    target.mkdir()
    try:
        came = Fetching(FolderStore(drive / "colab_magics"), "kwanzaa", target, lambda _: None).run(None)
    except ColabMagicsError:
        assert not whole
        return None
    assert came["checkpoint"] == max(whole, key=_age_order, default=None)
    if came["checkpoint"] is not None:
        assert scenes.is_as_saved(target / "checkpoints" / came["checkpoint"], came["step"])
    return str(came["checkpoint"]) if came["checkpoint"] else None


def _is_whole(folder: Path) -> bool:
    """Without the code that is tested: every byte is what was saved, and the manifest names it."""
    step = int(committed_name(folder.name)[:8])
    try:
        files = json.loads((folder / "MANIFEST.json").read_text())["files"]
        return set(files) == set(scenes.contents(step)) and scenes.is_as_saved(folder, step)
    except (OSError, ValueError, KeyError):
        return False


def _age_order(name: str) -> tuple[int, int]:
    step, attempt = parse_folder_name(name) or (0, 0)
    return attempt, step


@pytest.fixture
def drive(tmp_path: Path) -> AbsentMindedDrive:
    return AbsentMindedDrive(tmp_path / "MyDrive", random.Random(1), diligence=0.0)


def test_a_drive_that_uploads_nothing_is_never_more_than_handed_over(drive: AbsentMindedDrive, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    said = copies.replicated(folder, PretendDriveStore(drive, folder, asks=True))
    assert said.states("00000010-a1") == ["handed over"]


def test_it_is_confirmed_once_every_file_is_in_the_cloud_and_in_its_place(
    drive: AbsentMindedDrive, tmp_path: Path
) -> None:
    folder = copies.make_run(tmp_path / "runs")
    said = copies.Said()
    replication = Replication(folder, PretendDriveStore(drive, folder, asks=True), 3, said)
    copies.copy_all(replication)
    assert not replication.finished
    drive.upload_everything()
    (data,) = [one for one, node in drive.cloud.items() if node.name == "tokens.npy"]
    uploaded = drive.cloud.pop(data)  # without its data, a checkpoint is of no use on a new machine
    copies.copy_all(replication)
    assert said.states("00000010-a1") == ["handed over"]
    drive.cloud[data] = uploaded
    (place,) = [one for one, node in drive.cloud.items() if node.name == "00000010-a1"]
    for wrong in (".staging-00000010-a1-0a0b0c0d", "00000010-a1 (1)"):  # all bytes are there, and nobody finds them
        drive.cloud[place].name = wrong
        copies.copy_all(replication)
        assert said.states("00000010-a1") == ["handed over"]
    drive.cloud[place].name = "00000010-a1"
    copies.copy_all(replication)
    assert said.states("00000010-a1") == ["handed over", "confirmed"]
    assert replication.finished


def test_without_credentials_the_copy_ends_when_nothing_hints_at_bytes_on_their_way(
    drive: AbsentMindedDrive, tmp_path: Path
) -> None:
    folder = copies.make_run(tmp_path / "runs")
    replication = Replication(folder, PretendDriveStore(drive, folder, asks=False), 3, copies.Said())
    copies.copy_all(replication)
    weights = drive.mount / "colab_magics" / "kwanzaa" / "checkpoints" / "00000010-a1" / "state.json"
    os.setxattr(weights, ID, b"local-12345678")
    assert not replication.finished
    drive.upload_everything()
    assert replication.finished
    assert replication.newest_standing == "handed over"


def test_what_is_pruned_on_a_drive_is_emptied_first(drive: AbsentMindedDrive, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs", steps=(10,))
    store = PretendDriveStore(drive, folder, asks=True)
    replication = Replication(folder, store, 1, copies.Said())
    for step in (20, 30, 40):
        copies.copy_all(replication, ended=False)
        scenes.save(folder / "checkpoints", step)
    drive.upload_everything()
    copies.copy_all(replication)
    calls = store.disk.calls  # type: ignore[attr-defined]
    assert calls.count("truncate") >= 5
    assert calls.index("truncate") < len(calls) - 1 - calls[::-1].index("unlink")


def test_a_local_id_is_no_id(tmp_path: Path) -> None:
    for told, wanted in (
        (b"local-000001", ""),
        (b"1aBcDeFgHiJkL_-x", "1aBcDeFgHiJkL_-x"),
        (b"short", ""),
        (b"a/../b" * 3, ""),
    ):
        os.setxattr(tmp_path, ID, told)
        assert drive_id(tmp_path) == wanted
    assert drive_id(tmp_path / "none") == ""


def test_a_mounted_drive_is_found_by_its_type() -> None:
    drive = Mount(PurePath("/mnt/gdrive"), "fuse.drive", "drive")
    assert mounted_drive([drive]) == Path("/mnt/gdrive/MyDrive")
    assert mounted_drive([Mount(PurePath("/content/drive"), "fuse", "x")]) == Path("/content/drive/MyDrive")
    assert mounted_drive([Mount(PurePath("/content/drive"), "ext4", "x")]) is None
    assert mounted_drive([Mount(PurePath("/mnt/x"), "fuse.sshfs", "x")]) is None


class DriveApi(BaseHTTPRequestHandler):
    """Answers as Drive's own API does."""

    drive: AbsentMindedDrive

    def do_GET(self) -> None:
        file = self.path.partition("/files/")[2].partition("?")[0]
        may = self.headers["Authorization"] == "Bearer a token"
        node = self.drive.cloud.get(file) if may else None
        told = {"name": node.name, "parents": [node.parent], "trashed": False} if node else {"error": {"code": 404}}
        if node and node.data is not None:
            known = node.known()
            told |= {"size": str(known.size), "md5Checksum": known.md5, "sha256Checksum": known.sha256}
        body = json.dumps(told).encode()
        self.send_response(200 if node else 404 if may else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def api(drive: AbsentMindedDrive) -> Iterator[str]:
    handler = type("Handler", (DriveApi,), {"drive": drive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_clouds_own_api_is_asked(drive: AbsentMindedDrive, api: str, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = DriveStore(drive.mount / "colab_magics", run_folder=folder, cloud=lambda: Cloud(lambda: "a token", api))
    said = copies.Said()
    replication = Replication(folder, store, 3, said)
    copies.copy_all(replication)
    assert said.states("00000010-a1") == ["handed over"]
    drive.upload_everything()
    assert Cloud(lambda: "a token", api).knows("none-of-that-id") is None
    file = next(one for one, node in drive.cloud.items() if node.name == "state.json")
    assert Cloud(lambda: "a token", api).knows(file) == CloudOf(drive).knows(file)
    drive.cloud[file].data = b"{}"
    copies.copy_all(replication)
    assert said.states("00000010-a1") == ["handed over"]
    drive.upload_everything()
    copies.copy_all(replication)
    assert said.states("00000010-a1") == ["handed over", "confirmed"]


def test_no_leave_to_ask_is_as_nobody_to_ask(drive: AbsentMindedDrive, api: str, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    store = DriveStore(drive.mount / "colab_magics", run_folder=folder, cloud=lambda: Cloud(lambda: "a stranger", api))
    replication = Replication(folder, store, 3, copies.Said())
    for _ in range(4):
        drive.upload_everything()
        copies.copy_all(replication)
    assert replication.finished
    assert replication.newest_standing == "handed over"


def test_a_cloud_that_gives_no_answer_confirms_nothing(drive: AbsentMindedDrive, tmp_path: Path) -> None:
    folder = copies.make_run(tmp_path / "runs")
    cloud = Cloud(lambda: "a token", "http://127.0.0.1:9")
    store = DriveStore(drive.mount / "colab_magics", run_folder=folder, cloud=lambda: cloud)
    replication = Replication(folder, store, 3, copies.Said())
    for _ in range(10):
        replication.turn(ended=True)
        drive.upload_everything()
    assert replication.newest_standing == "handed over"
