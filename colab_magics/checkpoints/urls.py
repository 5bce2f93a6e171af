"""Object stores, by fsspec: no rename there, so the manifest goes last; and the Hugging Face Hub, by whole commits."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest
from colab_magics.checkpoints.mounts import missing_mount, mount_of
from colab_magics.checkpoints.stores import PIECE, Item, Standing, Store, Told, read, sealed_pieces, shown


class UrlStore:
    """Whatever fsspec opens.

    Parameters
    ----------
    where : str
        `s3://bucket/path`, `gs://…`, `file:///…`, `memory://…`. Credentials are the library's affair: the
        environment, its own files.

    Raises
    ------
    ImportError
        The library for that kind of URL is not installed.
    """

    lease_every = 60.0
    patience = 30.0
    copy_every = 0.0

    def __init__(self, where: str, *, run_folder: Path | None = None) -> None:
        import fsspec

        self.where = shown(where)
        self.protocol = where.partition("://")[0]
        options = {"auto_mkdir": True} if self.protocol == "file" else {}
        self.fs, root = fsspec.core.url_to_fs(where, **options)
        self.root = str(root).rstrip("/")
        self._run_folder = run_folder

    def at(self, path: str) -> str:
        """The store's own name for a path."""
        return posixpath.join(self.root, path) if path not in ("", ".") else self.root

    def ready(self) -> None:
        gone = missing_mount(Path(self.root)) if self.protocol == "file" else None
        if gone is not None:
            raise OSError(107, f"nothing is mounted on {gone}")

    def standing(self) -> Standing:
        if self.protocol == "memory":
            return "local"  # this process's own
        if self.protocol != "file":
            return "confirmed"
        mount = mount_of(Path(self.root))
        here = self._run_folder is not None and Path(self.root).stat().st_dev == self._run_folder.stat().st_dev
        if here or (mount is not None and mount.is_memory):
            return "local"
        return "handed over" if mount is not None and mount.is_fuse else "confirmed"

    def proven(self, path: str, names: Sequence[str]) -> bool:  # noqa: ARG002
        return False

    def ends(self, path: str, names: Sequence[str]) -> bool:  # noqa: ARG002
        return True

    def names(self, path: str) -> list[Item]:
        folder = self.at(path)
        self.fs.invalidate_cache()  # what another session wrote, and what was written past this listing
        try:
            told: Sequence[dict[str, Any]] = self.fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for one in told:
            name = PurePosixPath(str(one["name"]).rstrip("/")).name
            # a listing of a file, or of an empty folder's marker, names the place itself
            same = str(one["name"]).strip("/") == folder.strip("/")
            if not same and not one.get("islink") and one["type"] in ("file", "directory"):
                found.append(Item(name, int(one.get("size") or 0), one["type"] == "directory"))
        return found

    def pieces(self, path: str, *, cached: bool = True) -> Iterator[bytes]:  # noqa: ARG002
        with self.fs.open(self.at(path), "rb", cache_type="none") as file:
            while piece := file.read(PIECE):
                yield bytes(piece)

    def put(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(self.at(path), data)

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        for name, sealed in manifest.files.items():
            with self.fs.open(self.at(f"{path}/{name}"), "wb") as file:
                for piece in sealed_pieces(source / name, sealed, told):
                    file.write(piece)
        self.put(f"{path}/{MANIFEST}", manifest.to_json())

    def sync(self) -> None:
        """Nothing: every call has done what it says."""

    def delete(self, path: str) -> None:
        try:
            self.fs.rm_file(self.at(path))
        except FileNotFoundError:
            return

    def discard(self, path: str, run: str) -> None:
        text = read(self, f"{path}/{MANIFEST}", 2**20)
        if text is None:
            raise Broken("it has no manifest")
        manifest = Manifest.from_json(text)
        if manifest.run != run:
            raise Broken("it belongs to another run")
        for name in (MANIFEST, *manifest.files):  # the manifest first: what is left is not taken for whole
            self.delete(f"{path}/{name}")
        if self.protocol == "file":
            self.fs.rmdir(self.at(path))

    def tidy(self, path: str, run: str) -> None:
        """Nothing: a folder without its manifest is written anew, under the same names."""

    def free(self) -> int | None:
        return None


class HubStore(UrlStore):
    """A private repository on the Hugging Face Hub: all files of a checkpoint in one commit.

    `hf://owner/name/path`, `hf://datasets/owner/name/path`. Each small file is a commit of its own, and the Hub
    counts commits: the lease is renewed less often.
    """

    lease_every = 240.0
    patience = 900.0

    def __init__(self, where: str) -> None:
        from huggingface_hub import HfApi

        super().__init__(where)
        self.api: Any = HfApi()
        self._made = False
        kinds = {"datasets": "dataset", "spaces": "space"}
        first, *rest = self.root.split("/")
        self.repo_type = kinds.get(first, "model")
        parts = rest if first in kinds else [first, *rest]
        if len(parts) < 2:
            raise ValueError(f"{where} names no repository: hf://owner/name")
        self.repo, self.inside = "/".join(parts[:2]), "/".join(parts[2:])

    def ready(self) -> None:
        if not self._made:
            self.api.create_repo(self.repo, repo_type=self.repo_type, private=True, exist_ok=True)
            self._made = True

    def put(self, path: str, data: bytes) -> None:
        self._commit({path: data}, f"{path}")

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        for name, sealed in manifest.files.items():  # the library reads the files by itself
            for _ in sealed_pieces(source / name, sealed):
                pass
        files: dict[str, str | bytes] = {f"{path}/{name}": str(source / name) for name in manifest.files}
        self._commit({**files, f"{path}/{MANIFEST}": manifest.to_json()}, path)
        told(manifest.size)

    def _commit(self, files: dict[str, str | bytes] | dict[str, bytes], says: str) -> None:
        from huggingface_hub import CommitOperationAdd

        added = [
            CommitOperationAdd(path_in_repo=posixpath.join(self.inside, path), path_or_fileobj=content)
            for path, content in files.items()
        ]
        self.api.create_commit(self.repo, added, commit_message=says, repo_type=self.repo_type)

    def delete(self, path: str) -> None:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            self.api.delete_file(posixpath.join(self.inside, path), self.repo, repo_type=self.repo_type)
        except EntryNotFoundError:
            return

    def discard(self, path: str, run: str) -> None:
        text = read(self, f"{path}/{MANIFEST}", 2**20)
        if text is None or Manifest.from_json(text).run != run:
            raise Broken("it carries no manifest of this run")
        self.api.delete_folder(posixpath.join(self.inside, path), self.repo, repo_type=self.repo_type)


def hub_store(where: str) -> Store:
    """The store of an `hf://` URL."""
    return HubStore(where)
