"""The child process of `remote`: one wish on stdin, news and the answer on stdout, a line of JSON each.

Whatever lies in the store is taken for hostile: names, sizes and hashes are checked before a byte is written, only
names that can be ours are looked at, and no link is followed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import commit, write
from colab_magics.checkpoints.files import DISK
from colab_magics.checkpoints.lease import give_back, held, owner, run_id
from colab_magics.checkpoints.manifest import Broken, Manifest, parse_folder_name
from colab_magics.checkpoints.marks import PINS
from colab_magics.checkpoints.mounts import COLAB_DRIVE, absolute, missing_mount
from colab_magics.checkpoints.replica.copying import (
    ADAPTER,
    CHECKPOINTS,
    EVENTS,
    INPUTS,
    PREPARED,
    RECIPE,
)
from colab_magics.checkpoints.replica.telling import amount, without_secrets
from colab_magics.checkpoints.stores import (
    Store,
    checked,
    committed_name,
    is_full,
    is_ours,
    missing_package,
    open_store,
    read,
    shown,
    whole,
    why_local,
)
from colab_magics.errors import ColabMagicsError, nearest

MOST_RUNS = 1000
_MOST_SMALL = {RECIPE: 2**20, INPUTS: 4 * 2**20, EVENTS: 256 * 2**20}
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_TELL_EVERY = 0.25


def main() -> None:
    # what the libraries print must not come between our lines
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    wish = json.loads(sys.stdin.readline())
    where = shown(wish["where"])

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        answer({"result": _perform(wish, answer)})
    except ColabMagicsError as error:
        answer({"error": error.to_dict()})
    except Exception as error:  # a store's library raises what it likes
        answer({"error": _explained(error, where, wish["do"]).to_dict()})
    answers.close()
    os._exit(0)  # threads of a store's library may hang


def _perform(wish: dict[str, Any], answer: Any) -> Any:
    folder = wish.get("run_folder")
    _check_address(wish["where"])
    if wish["do"] != "check" and not _is_there(wish["where"], may_be_new=wish.get("may_be_new", False)):
        return []
    store = open_store(wish["where"], run_folder=Path(folder) if folder else None)
    if wish["do"] == "look":
        return look_at(store, lambda: answer({"progress": [0, 0]}))
    if wish["do"] == "release":
        there = held(store, wish["name"])
        same = there is not None and (there.session, there.time) == (wish["session"], wish["time"])
        if there is not None and same:
            give_back(store, wish["name"], there.session)
        return same
    if wish["do"] == "check":
        return check_store(store, int(wish["need"]))
    return Fetching(store, wish["name"], Path(wish["into"]), answer).run(wish["checkpoint"])


def _check_address(where: str) -> None:
    """Raise where `where` can name no store, whatever lies there."""
    protocol, is_url, rest = where.partition("://")
    if not is_url or protocol == "file":
        path = absolute(rest if is_url else where)
        file = next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), None)
        if file is not None:
            raise ColabMagicsError(
                f"{where} cannot hold copies.", f"{file} is a file, and no folder.", "Name a folder, or a URL."
            )
        return
    import fsspec

    known = sorted({*fsspec.available_protocols(), "kaggle"})
    if protocol not in known:
        close = nearest(protocol, known)
        raise ColabMagicsError(
            f"{shown(where)} cannot be reached.",
            f"No kind of store is called {protocol}.",
            f"Did you mean {close}://?" if close else "Name a folder, or a URL: s3://, gs://, hf://, kaggle://.",
        )
    wanted = {"hf": "owner/name", "kaggle": "owner/dataset", "s3": "bucket/path", "gs": "bucket/path"}
    parts = [part for part in rest.split("/") if part]
    if protocol in wanted and (rest.startswith("/") or len(parts) < (2 if wanted[protocol].startswith("owner") else 1)):
        raise ColabMagicsError(
            f"{shown(where)} cannot be reached.",
            f"It names no {'repository' if protocol == 'hf' else 'data set' if protocol == 'kaggle' else 'bucket'}.",
            f"Write {protocol}://{wanted[protocol]}.",
        )


def _is_there(where: str, *, may_be_new: bool) -> bool:
    """Whether `where` is there; raises where it must be, and below a mount point where nothing is mounted."""
    if "://" in where:
        return True
    gone = missing_mount(absolute(where))
    if gone is not None:
        drive = gone == COLAB_DRIVE
        raise ColabMagicsError(
            f"{where} cannot be reached.",
            f"Nothing is mounted on {gone}.",
            "from google.colab import drive; drive.mount('/content/drive')" if drive else f"Mount {gone} first.",
        )
    there = absolute(where).is_dir()
    if not there and not may_be_new:
        raise ColabMagicsError(
            f"There is no folder {where}.",
            "No run was ever copied there.",
            "Name the folder or URL to which it was copied: --from WHERE.",
        )
    return there


def _explained(error: Exception, where: str, what: str) -> ColabMagicsError:
    words = without_secrets(str(error.strerror or error) if isinstance(error, OSError) else str(error))
    if isinstance(error, ImportError):
        return ColabMagicsError(f"{where} cannot be reached.", words, f"%pip install {missing_package(error)}")
    if what == "fetch" and is_full(error):
        return ColabMagicsError("The disk here is full.", words, "Make room, or fetch into another root: --root PATH.")
    if "://" not in where:
        todo = "Check the path and who may write there, or name another folder."
    elif isinstance(error, FileNotFoundError):
        todo = "Make the bucket first, or correct its name."
    else:
        todo = "Check the address, the network, and the credentials in the environment or the library's own files."
    return ColabMagicsError(f"{where} cannot be reached.", words or type(error).__name__, todo)


# --- look -------------------------------------------------------------------------------------------------------------


def look_at(store: Store, alive: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Every run in the store, as `RemoteRun` has it; `alive` is called after each."""
    names = [item.name for item in store.names("") if item.is_folder and _RUN_NAME.fullmatch(item.name)]
    found = []
    for name in sorted(names)[:MOST_RUNS]:
        run = describe(store, name)
        found += [run] if run is not None else []
        alive()
    return found


def describe(store: Store, name: str) -> dict[str, Any] | None:
    """What is known of one run; None if that is none."""
    run = owner(store, name)
    if not run:
        return None
    checkpoints = []
    for folder, step, attempt in candidates(store, name):
        path = f"{name}/{CHECKPOINTS}/{folder}"
        told: dict[str, Any] = {"name": committed_name(folder), "step": step, "attempt": attempt}
        try:
            manifest = whole(store, path, run=run, full=False)
            checkpoints.append({**told, "whole": True, "bytes": manifest.size})
        except Broken as broken:
            checkpoints.append({**told, "whole": False, "bytes": 0, "reason": str(broken)})
    lease = held(store, name)
    return {
        "name": name,
        "id": run,
        "state": _state(store, name),
        "step": next((one["step"] for one in checkpoints if one["whole"]), 0),
        "checkpoints": checkpoints,
        "lease": asdict(lease) if lease is not None and lease.is_living() else None,
    }


def candidates(store: Store, name: str) -> list[tuple[str, int, int]]:
    """(folder, step, attempt), the newest first: checkpoints, and those of which only the rename may be missing."""
    found = []
    for item in store.names(f"{name}/{CHECKPOINTS}"):
        told = parse_folder_name(committed_name(item.name))
        if item.is_folder and told is not None:
            found.append((item.name, *told))
    # of the same checkpoint, the committed one first
    return sorted(found, key=lambda one: (one[2], one[1], not one[0].startswith(".")), reverse=True)


def _state(store: Store, name: str) -> str:
    try:
        text = read(store, f"{name}/{EVENTS}", _MOST_SMALL[EVENTS]) or b""
    except Broken:
        return "unfinished"
    state = "unfinished"
    for line in text.split(b"\n"):
        if b'"finished"' in line or b'"failed"' in line or b'"started"' in line:
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                kind = event.get("kind") if isinstance(event, dict) else None
                if kind == "started":
                    state = "unfinished"
                elif kind == "finished":
                    state = "unfinished" if event.get("reason") == "stopped" else "finished"
                elif kind == "failed":
                    state = "failed"
    return state


# --- fetch ------------------------------------------------------------------------------------------------------------


class Fetching:
    """Brings one run into an empty folder."""

    def __init__(self, store: Store, name: str, into: Path, answer: Any) -> None:
        self.store, self.name, self.into = store, name, into
        self._answer, self._told = answer, 0.0
        self._done = self._total = 0

    def run(self, wanted: str | None) -> dict[str, Any]:
        """Bring it; what came, as `Fetched` has it."""
        run = owner(self.store, self.name)
        if not run:
            raise ColabMagicsError(
                f"There is no run called {self.name!r} in {self.store.where}.",
                "No event log, lease or manifest of ours is in that folder.",
                "%checkpoint fetch --help shows how to name another place.",
            )
        for name, most in _MOST_SMALL.items():
            self._small(name, most)
        self._pins()
        folders = self._data(run)
        chosen = [one for one in candidates(self.store, self.name) if wanted in (None, committed_name(one[0]))]
        if wanted is not None and not chosen:
            raise ColabMagicsError(
                f"{self.name} has no checkpoint {wanted} in {self.store.where}.",
                "It was deleted there, or never copied.",
                f"%checkpoint fetch {self.name} brings the newest.",
            )
        came, skipped = self._newest(run, chosen, sum(manifest.size for _, manifest in folders))
        for path, manifest in folders:
            try:
                self._folder(path, path, manifest)
            except Broken as broken:
                skipped.append((path, str(broken)))
        step = parse_folder_name(came)[0] if came is not None else 0  # type: ignore[index]
        self._tell(last=True)
        told = {"id": run, "checkpoint": came, "step": step, "skipped": skipped, "bytes": self._done}
        if (self.into / EVENTS).is_file() and run_id((self.into / EVENTS).read_bytes()) not in ("", run):
            raise ColabMagicsError(f"{self.name} cannot be fetched.", "Its log and its checkpoints are of two runs.")
        return told

    def _small(self, name: str, most: int) -> None:
        try:
            data = read(self.store, f"{self.name}/{name}", most)
        except Broken as broken:
            raise ColabMagicsError(f"{self.name} cannot be fetched.", str(broken)) from None
        if data is not None:
            write(self.into / name, [data[: data.rfind(b"\n") + 1] if name == EVENTS else data], DISK)

    def _pins(self) -> None:
        pinned = [item.name for item in self.store.names(f"{self.name}/{PINS}") if parse_folder_name(item.name)]
        if pinned:
            (self.into / PINS).mkdir()
            for name in pinned[:MOST_RUNS]:
                (self.into / PINS / name).touch()

    def _data(self, run: str) -> list[tuple[str, Manifest]]:
        """The prepared data's folders and the result's, of those whose sizes agree."""
        names = [item.name for item in self.store.names(f"{self.name}/{PREPARED}") if _DATA_NAME.fullmatch(item.name)]
        found = []
        for path in (*(f"{PREPARED}/{name}" for name in sorted(names)[:16]), ADAPTER):
            with suppress(Broken):
                manifest = whole(self.store, f"{self.name}/{path}", run=run, full=False)
                if manifest.kind == "data":
                    found.append((path, manifest))
        return found

    def _newest(
        self, run: str, chosen: Sequence[tuple[str, int, int]], besides: int
    ) -> tuple[str | None, list[tuple[str, str]]]:
        skipped: list[tuple[str, str]] = []
        for folder, _, _ in chosen:
            path, target = f"{self.name}/{CHECKPOINTS}/{folder}", committed_name(folder)
            try:
                manifest = whole(self.store, path, run=run, full=False)
                if manifest.kind != "checkpoint":
                    raise Broken("it is no checkpoint")
                self._total = self._done + manifest.size + besides
                self._folder(f"{CHECKPOINTS}/{folder}", f"{CHECKPOINTS}/{target}", manifest)
                return target, skipped
            except Broken as broken:
                if (target, str(broken)) not in skipped:
                    skipped.append((target, str(broken)))
        return None, skipped

    def _folder(self, path: str, to: str, manifest: Manifest) -> None:
        """Bring one folder, every byte checked against its manifest on the way."""
        free = shutil.disk_usage(self.into).free
        if manifest.size > free:
            raise ColabMagicsError(
                "The disk here is full.",
                f"{to} needs {amount(manifest.size)}, {amount(free)} is free.",
                "Make room, or fetch into another root: --root PATH.",
            )
        target = self.into / to
        target.parent.mkdir(exist_ok=True)
        before = self._done
        contents = {
            name: checked(name, self._pieces(f"{self.name}/{path}/{name}"), sealed)
            for name, sealed in manifest.files.items()
            if is_ours(name)
        }
        try:
            if to == ADAPTER:  # it is kept without a manifest
                target.mkdir()
                for name, pieces in contents.items():
                    write(target / name, pieces, DISK)
            else:
                commit(target, contents, manifest)
        except Broken:
            self._done = before
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _pieces(self, path: str) -> Iterator[bytes]:
        for piece in self.store.pieces(path):
            yield piece
            self._done += len(piece)
            self._tell()

    def _tell(self, *, last: bool = False) -> None:
        if last or time.monotonic() - self._told > _TELL_EVERY:
            self._told = time.monotonic()
            total = self._done if last else max(self._total, self._done)
            self._answer({"progress": [self._done, total]})


# --- check ------------------------------------------------------------------------------------------------------------


def check_store(store: Store, need: int) -> list[str]:
    """Whether a copy can be made there: it is reached, a file is written, read back and deleted."""
    store.ready()
    if store.copy_every:  # of a store that takes versions only, one is not spent on a question
        return []
    probe = f".probe-{os.getpid()}"
    store.put(probe, b"colab_magics")
    try:
        if read(store, probe, 64) != b"colab_magics":
            raise ColabMagicsError(f"{store.where} does not give back what is written to it.")
    finally:
        store.delete(probe)
    notes = []
    free = store.free()
    if free is not None and free < 1.2 * need:
        notes.append(f"{store.where} has {amount(free)} free; the copy takes about {amount(need)}.")
    if store.standing() == "local":
        notes.append(why_local(store.where))
    return notes


if __name__ == "__main__":
    main()
