"""A private Kaggle dataset: it takes whole versions only, and not many of them.

The copy is made in a folder beside the run's files first, and that folder becomes a version: at most one in ten
minutes while the training goes on, and a last one at its end. Kaggle reads nothing back to us before it has processed
a version, so what it took is handed over, and no more is ever said.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import DELETING, STAGING
from colab_magics.checkpoints.folders import FolderStore
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.stores import LEASE, Standing, Told
from colab_magics.checkpoints.verify import ASIDE

MIRROR = ".kaggle"
_HANDLE = re.compile(r"kaggle://(?P<handle>[A-Za-z0-9_-]+/[A-Za-z0-9_-]+)/?")
_NOT_SENT = [f"*{LEASE}", f"*{STAGING}*", f"*{DELETING}*", f"*{ASIDE}*"]


class KaggleStore(FolderStore):
    """A dataset, `kaggle://owner/name`; by kagglehub, which finds its own credentials.

    Parameters
    ----------
    run_folder : Path, optional
        The run that is copied there. Without one, the newest version is downloaded, to be read.

    Raises
    ------
    ValueError
        It names no dataset.
    ImportError
        kagglehub is not installed.
    """

    copy_every = 600.0
    patience = 900.0  # kagglehub says nothing while it sends a file

    def __init__(self, where: str, *, run_folder: Path | None = None) -> None:
        found = _HANDLE.fullmatch(where)
        if found is None:
            raise ValueError(f"{where} names no dataset: kaggle://owner/name")
        import kagglehub

        self._hub: Any = kagglehub
        self._handle = found["handle"]
        if run_folder is not None:
            root = run_folder / MIRROR
        else:
            root = Path(kagglehub.dataset_download(self._handle, force_download=True))
        super().__init__(root, run_folder=run_folder)
        self.where = where
        self._unsent = False

    def standing(self) -> Standing:
        return "handed over"

    def put(self, path: str, data: bytes) -> None:
        super().put(path, data)
        self._unsent |= not path.endswith(LEASE)

    def put_folder(self, path: str, source: Path, manifest: Manifest, told: Told) -> None:
        super().put_folder(path, source, manifest, told)
        self._unsent = True

    def sync(self) -> None:
        if self._unsent:
            self._hub.dataset_upload(
                self._handle, str(self.root), version_notes="colab_magics", ignore_patterns=_NOT_SENT
            )
            self._unsent = False
