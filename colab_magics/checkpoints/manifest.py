"""The manifest of a committed folder: what is in it, whose it is, and the hashes by which an altered byte is found.

It is written last. A folder is whole if its manifest's own hash holds and every file has the size and hash that the
manifest names: nothing else counts, neither names nor times nor the order in which files reached a disk or a cloud.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

MANIFEST = "MANIFEST.json"
VERSION = 1
_FORMAT = "colab_magics"
_MOST_MANIFEST = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOLDER_NAME = re.compile(r"(?P<step>[0-9]{8})-a(?P<attempt>0|[1-9][0-9]{0,5})")
# The hash is of the bytes before it, not of what they mean: a manifest that was cut or edited anywhere is found out.
_TAIL = ',\n "hash": "{}"\n}}\n'
_TAIL_READ = re.compile(_TAIL.format("([0-9a-f]{64})").encode())
_TAIL_LENGTH = len(_TAIL.format("0" * 64))
_KNOWN = {"format", "version", "kind", "run", "step", "attempt", "files", "hash"}

Kind = Literal["checkpoint", "data"]


class Broken(Exception):
    """A folder that is not what was committed; the text says how, in a few words."""


@dataclass(frozen=True)
class Sealed:
    """One file: bytes and BLAKE2b-256 in hex."""

    size: int
    blake2b: str


@dataclass(frozen=True)
class Manifest:
    """What a committed folder says of itself.

    Attributes
    ----------
    kind : {"checkpoint", "data"}
    run : str
        The id of the run to which it belongs (not its name: that may be given twice).
    files : mapping of file name to Sealed
    step, attempt : int
        Of a checkpoint; 0 otherwise.
    facts : mapping
        Everything else that readers want without opening the files: name, total_steps, samples, time, parent, recipe
        and data fingerprints, versions, metrics, method. Unknown keys are kept.
    """

    kind: Kind
    run: str
    files: Mapping[str, Sealed]
    step: int = 0
    attempt: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest itself."""
        return sum(file.size for file in self.files.values())

    @property
    def metrics(self) -> Mapping[str, Any]:
        """`loss`, `eval_loss` (of this very step, if it was evaluated), …"""
        found = self.facts.get("metrics")
        return found if isinstance(found, Mapping) else {}

    def to_json(self) -> bytes:
        """How it is written, with its own hash.

        Raises
        ------
        ValueError
            It could not be read again: a name that is no file's of ours, a fact that takes a field's place, too long.
        """
        if taken := _KNOWN.intersection(self.facts):
            raise ValueError(f"facts cannot be called {', '.join(sorted(taken))}")
        if not all(may_be_named(name) for name in self.files):
            raise ValueError("there are names among the files that no file of ours has")
        told = {
            "format": _FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "run": self.run,
            "step": self.step,
            "attempt": self.attempt,
            **self.facts,
            "files": {name: {"size": file.size, "blake2b": file.blake2b} for name, file in sorted(self.files.items())},
        }
        body = json.dumps(told, indent=1).removesuffix("\n}").encode()
        text = body + _TAIL.format(_hash_of(body)).encode()
        if len(text) > _MOST_MANIFEST:
            raise ValueError(f"a manifest of {len(text):,} bytes would not be read again")
        return text

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """The manifest that `to_json` wrote.

        Raises
        ------
        Broken
            It is no manifest of ours, was altered, or names a file that could lie elsewhere.
        """
        try:
            tail = _TAIL_READ.fullmatch(text, max(0, len(text) - _TAIL_LENGTH))
            if tail is None or tail[1].decode() != _hash_of(text[:-_TAIL_LENGTH]):
                raise Broken("the manifest was altered")
            told = json.loads(text)
            if told["format"] != _FORMAT or told["kind"] not in get_args(Kind):
                raise Broken("the manifest is of no kind that is known")
            if told["version"] > VERSION:
                raise Broken("it was written by a newer colab_magics")
            files = {str(name): Sealed(int(one["size"]), str(one["blake2b"])) for name, one in told["files"].items()}
            if not all(may_be_named(name) for name in files):
                raise Broken("the manifest names files that cannot be ours")
            facts = {key: value for key, value in told.items() if key not in _KNOWN}
            return Manifest(told["kind"], str(told["run"]), files, int(told["step"]), int(told["attempt"]), facts)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Broken("the manifest cannot be read") from None


def may_be_named(name: str) -> bool:
    """Whether a file of a committed folder may have that name."""
    return _FILE_NAME.fullmatch(name) is not None and name != MANIFEST


def _hash_of(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=32).hexdigest()


def new_hash() -> Any:
    """The hash of files: BLAKE2b-256, in the standard library and twice as fast as SHA-256."""
    return hashlib.blake2b(digest_size=32)


def folder_name(step: int, attempt: int) -> str:
    """What a checkpoint's folder is called."""
    return f"{step:08d}-a{attempt}"


def parse_folder_name(name: str) -> tuple[int, int] | None:
    """(step, attempt), or None if that is no checkpoint's name."""
    found = _FOLDER_NAME.fullmatch(name)
    return (int(found["step"]), int(found["attempt"])) if found else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`, without a look at the files.

    Raises
    ------
    Broken
        There is none, or it is not one.
    """
    try:
        descriptor = os.open(folder / MANIFEST, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Broken("it has no manifest: it was not finished") from None
    except OSError as error:
        raise Broken(f"the manifest cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_MANIFEST:
            raise Broken("the manifest is no small file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return Manifest.from_json(file.read(_MOST_MANIFEST + 1))
    except OSError as error:
        raise Broken(f"the manifest cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
