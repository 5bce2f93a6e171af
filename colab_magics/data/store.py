"""Tokens on disk: plain .npy files that are written as they come, read as memory maps, and never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.data.tokenise import Tokens, Trained

_MIB = 1 << 20
_HEADER = 128  # what numpy writes for one dimension; the true header replaces it when the length is known
META = "meta.json"
# int32 tokens and one mark each, end to end; where each document ends; what each holds.
ARRAYS: Mapping[str, type[np.generic]] = {
    "tokens": np.int32,
    "trained": np.bool_,
    "offsets": np.int64,
    "trained_counts": np.int32,
    "first_trained": np.int32,
}
# Of each document whether it is what should be said: only where answers are judged.
LABELS = "labels"


class Writer:
    """Builds one entry in a folder of its own; `commit` makes it appear whole or not at all."""

    def __init__(self, cache: Path, key: str) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        self._target = cache / key
        self._folder = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=cache))
        self._tokens = _Array(self._folder / "tokens.npy", np.int32)
        self._trained = _Array(self._folder / "trained.npy", np.bool_)
        self._digest = hashlib.blake2b(digest_size=16)
        # 8 bytes a document, where a list of numbers would take 36.
        self._ends = array("q", [0])
        self._counts = array("q")
        self._firsts = array("q")
        self._labels = array("b")

    @property
    def documents(self) -> int:
        """Documents so far."""
        return len(self._counts)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens so far."""
        return sum(self._counts)

    def add(self, tokens: Tokens, trained: Trained, *, continues: bool = False, desirable: bool | None = None) -> None:
        """One document, or a further piece of the last one; `desirable` where its answer is judged."""
        if desirable is not None:
            self._labels.append(desirable)
            self._digest.update(b"+" if desirable else b"-")
        count = int(trained.sum())
        if continues:
            self._ends[-1] += len(tokens)
            self._counts[-1] += count
        else:
            self._ends.append(self._ends[-1] + len(tokens))
            self._counts.append(count)
            self._firsts.append(int(trained.argmax()) if count else len(tokens))
        self._tokens.extend(tokens)
        self._trained.extend(trained)
        self._digest.update(tokens.tobytes())
        self._digest.update(np.packbits(trained).tobytes())

    def commit(self, meta: Mapping[str, Any]) -> Path:
        """Write what is left and rename the folder into its place; another process may have been first."""
        self._tokens.close()
        self._trained.close()
        small = {"offsets": self._ends, "trained_counts": self._counts, "first_trained": self._firsts}
        for name, values in small.items():
            with (self._folder / f"{name}.npy").open("wb") as file:
                np.lib.format.write_array(file, np.asarray(values, ARRAYS[name]), allow_pickle=False)
        names = [*ARRAYS]
        if self._labels:
            names.append(LABELS)
            np.save(self._folder / f"{LABELS}.npy", np.asarray(self._labels, np.bool_), allow_pickle=False)
        files = {f"{name}.npy": _seal(self._folder / f"{name}.npy") for name in names}
        whole = {**meta, "fingerprint": self._digest.hexdigest(), "files": files}
        (self._folder / META).write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
        try:
            self._folder.rename(self._target)
        except OSError:
            # The place is taken: by another worker that made the same entry, or by one that is damaged.
            if read_meta(self._target) is None:
                shutil.rmtree(self._target, ignore_errors=True)
                self._folder.rename(self._target)
            else:
                self.discard()
        return self._target

    def discard(self) -> None:
        """Leave nothing behind."""
        self._tokens.close()
        self._trained.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what a killed process left behind a day ago or more."""
    for path in cache.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path, ignore_errors=True)


class _Array:
    """A one-dimensional .npy file of a length that is known when it is closed."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        self._file.write(b"\0" * _HEADER)
        self._length = 0

    def extend(self, values: npt.NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._length += len(values)

    def close(self) -> None:
        if self._file.closed:
            return
        header = io.BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._length,),
        }
        np.lib.format.write_array_header_1_0(header, described)
        assert len(header.getvalue()) == _HEADER, len(header.getvalue())
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()


def _seal(path: Path) -> list[int]:
    """Size and checksum of a file's first and last MiB: what a torn, emptied or overwritten entry would not keep."""
    size = path.stat().st_size
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(_MIB))
        if size > _MIB:
            file.seek(max(_MIB, size - _MIB), os.SEEK_SET)
            checksum = zlib.crc32(file.read(), checksum)
    return [size, checksum]


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What `commit` was given, if the entry is whole; None if there is none or it is damaged."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        whole = all(_seal(folder / name) == list(seal) for name, seal in meta["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole and set(meta["files"]) - {f"{LABELS}.npy"} == {f"{name}.npy" for name in ARRAYS} else None


def read_labels(folder: Path) -> npt.NDArray[np.bool_] | None:
    """Of each document whether it is what should be said; None where nothing is judged."""
    return read_array(folder, LABELS) if (folder / f"{LABELS}.npy").is_file() else None


def read_array(folder: Path, name: str) -> npt.NDArray[Any]:
    """One array of an entry, mapped, read-only."""
    path = folder / f"{name}.npy"
    if path.stat().st_size == _HEADER:  # nothing to map
        return np.empty(0, ARRAYS[name])
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
