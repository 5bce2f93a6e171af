"""Google Drive as Colab mounts it: a write is first of all a promise.

What was written to the mount lies on the machine's own disk until Drive has uploaded it, in an order of its own, and
is gone with the machine until then. The mount reads it back all the same. So a copy there is handed over, and no
more, until the cloud itself names its files' hashes, each in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.mounts import Mount, mounts
from colab_magics.checkpoints.stores import Standing, Told

API = "https://www.googleapis.com/drive/v3"
ID = "user.drive.id"
_SCOPE = "https://www.googleapis.com/auth/drive.readonly"
_ID = re.compile(r"[A-Za-z0-9_-]{10,100}")
_MOST = 2**16
_LOOK_EVERY = 300.0


def mounted_drive(among: Sequence[Mount] | None = None) -> Path | None:
    """The folder of the person's own files on a mounted Drive, or None. No call is made on the mount."""
    for mount in reversed(mounts() if among is None else among):
        if mount.is_drive:
            return Path(mount.point) / "MyDrive"
    return None


@dataclass(frozen=True)
class Known:
    """What the cloud says of one file or folder."""

    name: str
    parents: tuple[str, ...]
    size: int
    md5: str
    sha256: str
    trashed: bool


class Cloud:
    """Drive's own word on a file, by its API.

    Parameters
    ----------
    token : callable
        An access token; raises what it likes if there is none.
    base : str
        Of the API's addresses.
    """

    def __init__(self, token: Callable[[], str], base: str = API) -> None:
        self._token, self._base = token, base

    def knows(self, file: str) -> Known | None:
        """What is known of the file with that id; None if nothing is.

        Raises
        ------
        OSError
            No answer; a `PermissionError` where there is no leave to ask.
        """
        fields = "name,parents,size,md5Checksum,sha256Checksum,trashed"
        address = f"{self._base}/files/{urllib.parse.quote(file, safe='')}?fields={fields}&supportsAllDrives=true"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self._token()}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                told = json.loads(answer.read(_MOST))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            if error.code in (401, 403):
                raise PermissionError(error.code, "no leave to ask Drive") from None
            raise
        except ValueError:
            return None
        return _known(told)


def _known(told: Any) -> Known | None:
    if not isinstance(told, Mapping):
        return None
    parents = told.get("parents")
    size = str(told.get("size", "-1"))
    return Known(
        name=str(told.get("name", "")),
        parents=tuple(map(str, parents)) if isinstance(parents, list) else (),
        size=int(size) if size.lstrip("-").isdigit() else -1,
        md5=str(told.get("md5Checksum", "")),
        sha256=str(told.get("sha256Checksum", "")),
        trashed=told.get("trashed") is not False,
    )


def google_cloud() -> Cloud | None:
    """The cloud, if this process has credentials for it: `auth.authenticate_user()` leaves some on Colab."""
    try:
        import google.auth
        import google.auth.transport.requests

        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except Exception:  # the library is missing, or there are no credentials: one answer for both
        return None

    def token() -> str:
        if not credentials.valid:
            try:
                credentials.refresh(google.auth.transport.requests.Request())
            except Exception as error:
                raise PermissionError(f"no leave to ask Drive: {type(error).__name__}") from None
        return str(credentials.token)

    return Cloud(token)


def drive_id(path: Path) -> str:
    """The id that Drive gave a file or folder; empty as long as it has none in the cloud, or where nobody says.

    It is a hint: an id of Drive's own machine-local kind begins with `local`, and means that nothing was uploaded.
    """
    try:
        told = os.getxattr(path, ID, follow_symlinks=False).decode("ascii", "replace").strip("\0 ")
    except OSError:
        return ""
    return told if _ID.fullmatch(told) and not told.startswith("local") else ""


class DriveStore(FolderStore):
    """A folder on a mounted Drive.

    Parameters
    ----------
    cloud : callable
        Gives the cloud to ask, or None where there is nobody to ask.
    """

    truncates = True  # what is deleted goes to the trash, and counts against the quota there

    def __init__(
        self,
        root: Path,
        *,
        run_folder: Path | None = None,
        known: Sequence[PurePath] = (),
        cloud: Callable[[], Cloud | None] = google_cloud,
    ) -> None:
        super().__init__(root, run_folder=run_folder, known=known)
        self._find_cloud = cloud
        self._cloud: Cloud | None = None
        self._found_at = float("-inf")
        self._proven: set[str] = set()
        self._hashes: dict[str, tuple[int, str, str]] = {}

    def standing(self) -> Standing:
        return "handed over"

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        # files made anew are other files in the cloud
        self._proven = {one for one in self._proven if not one.startswith(f"{path}/")}
        self._hashes = {one: known for one, known in self._hashes.items() if not one.startswith(f"{path}/")}
        super().put_folder(path, source, manifest, told)

    def put(self, path: str, data: bytes) -> None:
        self._proven.discard(path)
        self._hashes.pop(path, None)
        super().put(path, data)

    def proven(self, path: str, names: Sequence[str]) -> bool:
        """Whether the cloud has these files of the folder, whole, under their names and in their place."""
        cloud = self._someone_to_ask()
        if cloud is None:
            return False
        try:
            if not all(self._file_is_there(cloud, f"{path}/{name}") for name in names):
                return False
            # an uploaded file is of no use where nobody looks: the folder may still bear its staging name there
            return all(self._place_is_right(cloud, folder) for folder in _upwards(path))
        except PermissionError:
            self._cloud = None  # as good as nobody, until the next time that credentials are looked for
            return False
        except (urllib.error.URLError, TimeoutError):
            return False

    def _someone_to_ask(self) -> Cloud | None:
        """The cloud; credentials are looked for every few minutes, for a person may give them at any time."""
        if time.monotonic() - self._found_at > _LOOK_EVERY:
            self._found_at = time.monotonic()
            self._cloud = self._find_cloud()
        return self._cloud

    def ends(self, path: str, names: Sequence[str]) -> bool:
        """Whether there is nobody to ask, and nothing hints at files that are still on their way."""
        if self._someone_to_ask() is not None:
            return False
        paths = [self.root / path / name for name in names]
        return all(drive_id(one) for one in paths) or not any(_has_id(one) for one in paths)

    def _file_is_there(self, cloud: Cloud, path: str) -> bool:
        if path in self._proven:
            return True
        file, folder = drive_id(self.root / path), drive_id((self.root / path).parent)
        if not file or not folder:
            return False
        known = cloud.knows(file)
        if known is None or known.trashed or known.name != PurePosixPath(path).name or folder not in known.parents:
            return False
        size, md5, sha256 = self._hashed(path)
        told = [(known.md5, md5), (known.sha256, sha256)]
        whole = known.size == size and any(one for one, _ in told) and all(one in ("", ours) for one, ours in told)
        if whole:
            self._proven.add(path)
        return whole

    def _place_is_right(self, cloud: Cloud, path: str) -> bool:
        """Whether a folder has its name in the cloud, and lies in the folder in which it lies here."""
        place = self.root / path
        if place.name == "MyDrive":  # the person's own root, which bears another name in the cloud
            return True
        file, parent = drive_id(place), drive_id(place.parent)
        if not file or not parent:
            return False
        known = cloud.knows(file)
        return known is not None and not known.trashed and known.name == place.name and parent in known.parents

    def _hashed(self, path: str) -> tuple[int, str, str]:
        """(size, MD5, SHA-256) of what the mount gives back, which was compared with the manifest before."""
        if path not in self._hashes:
            size, md5, sha256 = 0, hashlib.md5(usedforsecurity=False), hashlib.sha256()
            for piece in self.pieces(path, cached=False):
                size += len(piece)
                md5.update(piece)
                sha256.update(piece)
            self._hashes[path] = (size, md5.hexdigest(), sha256.hexdigest())
        return self._hashes[path]


def _has_id(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, ID, follow_symlinks=False))
    except OSError:
        return False


def _upwards(path: str) -> list[str]:
    """The folder at `path` and those above it, up to the store's own root."""
    place = PurePosixPath(path)
    return [str(place), *map(str, place.parents)]
