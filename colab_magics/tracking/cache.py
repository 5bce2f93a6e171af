"""A cache for what a loop computes before it begins: made once, whole or not there, and checked when it is read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import Contents, commit, sweep
from colab_magics.checkpoints.manifest import Broken, Manifest
from colab_magics.checkpoints.tensors import laid_out, read_tensors
from colab_magics.checkpoints.verify import verify
from colab_magics.errors import ColabMagicsError
from colab_magics.tracking import arrays
from colab_magics.tracking.functions import own_code
from colab_magics.tracking.values import Encoder, Unsaveable, decode

VALUE, TENSORS = "value.json", "value.safetensors"


class Cache:
    """The cache of one run.

    Parameters
    ----------
    folder : Path
        Where its entries lie; it may be thrown away at any time.
    say : callable
        Is told, in a line, of an entry that could not be kept or was broken.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say

    def get(self, key: str, make: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """What `make(*arguments)` gives; see `Tracked.cache`."""
        asked = _identity(key, arguments)
        identity = _with_code(asked, make)
        place = self.folder / f"{re.sub('[^A-Za-z0-9_-]+', '-', key)[:40] or 'entry'}-{asked[:24]}"
        try:
            manifest = verify(place)
            made = manifest.facts.get("made", "at an unknown time")
            if manifest.run == identity:
                told = json.loads((place / VALUE).read_text(encoding="utf-8"))
                value = decode(told, read_tensors(place / TENSORS))
                self._say(f"{key} is from the cache, made {made}.")
                return value
            if manifest.facts.get("asked") == asked:
                self._say(f"{key} is made anew: its function is not the one of {made}.")
        except (Broken, OSError, ValueError, KeyError) as error:
            if place.exists():
                self._say(f"The cache's {key} is broken ({error}), and is made anew.")
        value = make(*arguments)
        self._keep(key, place, identity, asked, value)
        return value

    def _keep(self, key: str, place: Path, identity: str, asked: str, value: Any) -> None:
        encoder = Encoder()
        try:
            told = encoder.encode(value, f'cache("{key}")', "value")
        except Unsaveable as error:
            self._say(f"Not kept: {error.what} {error.why}")
            return
        # numbers that nobody changes while they are written: no copy is made
        tensors = {name: arrays.on_host(one) for name, one in encoder.tensors.items()}
        files: Contents = {
            VALUE: [json.dumps(told, allow_nan=False).encode()],
            TENSORS: laid_out({name: arrays.buffer(one) for name, one in tensors.items()}, {"format": "pt"}),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            if place.exists():
                shutil.rmtree(place)
            made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
            commit(place, files, Manifest("data", identity, {}, facts={"key": key, "asked": asked, "made": made}))
        except OSError as error:
            with suppress(OSError):
                shutil.rmtree(place)
            self._say(
                f"{key} could not be kept in {self.folder}: {error.strerror or error}. It is made anew next time."
            )


def _identity(key: str, arguments: Sequence[Any]) -> str:
    """What tells an entry from all others, whatever function makes it: its name, and what its arguments hold.

    Raises
    ------
    ColabMagicsError
        An argument is of no kind whose contents can be told.
    """
    digest = hashlib.blake2b(digest_size=32)

    def more(value: Any, where: str, key: str) -> Any:  # noqa: ARG001
        if isinstance(value, os.PathLike):
            return _of_file(Path(value))
        if callable(value) and hasattr(value, "__code__"):
            raise ColabMagicsError(
                f"{where} is a function, whose result nobody can foretell.",
                "An entry is known again by its name and its arguments.",
                "Give make itself what it needs, and a version as an argument.",
            )
        return None

    encoder = Encoder(more)
    told = [encoder.encode(one, f"argument {at + 1} of cache", f"{at}") for at, one in enumerate(arguments)]
    digest.update(json.dumps([key, told]).encode())
    return _with_tensors(digest, encoder)


def _with_code(asked: str, make: Callable[..., Any]) -> str:
    """What tells an entry from one that another function has made, or the same one before it was changed."""
    encoder = Encoder()

    def value(one: Any) -> Any:
        try:
            return encoder.encode(one, "a default", f"{len(encoder.tensors)}")
        except ColabMagicsError:
            return f"of type {type(one).__qualname__}"  # no more can be told of it

    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([asked, own_code(make, value)]).encode())
    return _with_tensors(digest, encoder)


def _with_tensors(digest: hashlib.blake2b, encoder: Encoder) -> str:
    for name, one in encoder.tensors.items():
        digest.update(name.encode())
        digest.update(arrays.buffer(arrays.on_host(one)).data)
    return digest.hexdigest()


def _of_file(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        return {"file": str(path)}
    return {"file": str(path.absolute()), "size": found.st_size, "changed": found.st_mtime_ns}
