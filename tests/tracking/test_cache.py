"""A cache entry is made once, is checked when it is read, and is never in the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disks import small_disk

from colab_magics.errors import ColabMagicsError
from colab_magics.tracking.cache import Cache

pytestmark = [pytest.mark.colab, pytest.mark.face]


class Made:
    """Counts how often it is made."""

    def __init__(self, value: Any = None) -> None:
        self.value = {"tokens": np.arange(10), "n": 3} if value is None else value
        self.times = 0

    def __call__(self, *_: Any) -> Any:
        self.times += 1
        return self.value


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> Cache:
    return Cache(tmp_path / "cache", said.append)


def test_it_is_made_once_and_then_read(cache: Cache) -> None:
    make = Made()
    first, second = (cache.get("tokens", make, ()) for _ in range(2))
    assert make.times == 1
    assert second["tokens"].tolist() == first["tokens"].tolist()
    assert second["n"] == 3


def test_other_arguments_are_another_entry(cache: Cache, tmp_path: Path) -> None:
    make, file = Made(), tmp_path / "rows.txt"
    file.write_text("a")
    for arguments in ((1,), (2,), (1,), (np.arange(3),), (np.arange(1, 4),), (np.arange(3),), (file,), (file,)):
        cache.get("tokens", make, arguments)
    assert make.times == 5
    file.write_text("ab")
    cache.get("tokens", make, (file,))
    assert make.times == 6


@pytest.mark.parametrize("changed", ["time", "size"])
def test_a_file_that_was_written_again_is_read_again_though_its_size_or_its_time_is_the_same(
    cache: Cache, tmp_path: Path, changed: str
) -> None:
    make, file = Made(), tmp_path / "rows.txt"
    for text, time in (("a", 1), ("b", 2) if changed == "time" else ("bb", 1)):
        file.write_text(text)
        os.utime(file, (time, time))
        cache.get("tokens", make, (file,))
    assert make.times == 2


def test_an_entry_that_lies_in_anothers_place_is_not_taken_for_it(cache: Cache) -> None:
    cache.get("tokens", Made(1), (1,))
    (first,) = cache.folder.iterdir()
    cache.get("tokens", Made(2), (2,))
    (second,) = set(cache.folder.iterdir()) - {first}
    shutil.rmtree(second)
    first.rename(second)
    assert cache.get("tokens", Made(3), (2,)) == 3


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "manifest"])
def test_a_broken_entry_is_made_anew_and_said(cache: Cache, said: list[str], harm: str) -> None:
    make = Made()
    cache.get("tokens", make, ())
    (place,) = cache.folder.iterdir()
    path = place / ("MANIFEST.json" if harm == "manifest" else "value.safetensors")
    data = path.read_bytes()
    match harm:
        case "missing":
            path.unlink()
        case "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case _:
            path.write_bytes(data[:-3])
    assert cache.get("tokens", make, ())["n"] == 3
    assert make.times == 2
    assert "is made anew" in said[0]
    cache.get("tokens", make, ())
    assert make.times == 2


def test_what_cannot_be_kept_is_given_back_all_the_same(cache: Cache, said: list[str]) -> None:
    value = {"fn": [len]}
    assert cache.get("tokens", Made(value), ()) is value
    assert 'cache("tokens")["fn"][0] cannot be saved' in said[0]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, said: list[str]) -> None:
    with small_disk(tmp_path / "disk", "64k") as place:
        cache = Cache(place / "cache", said.append)
        cache.get("tokens", Made(np.zeros(100_000)), ())
        assert list(cache.folder.iterdir()) == []
    assert "could not be kept" in said[0]


def test_an_argument_that_nobody_can_tell_apart_is_refused(cache: Cache) -> None:
    with pytest.raises(ColabMagicsError, match="argument 1 of cache is a function"):
        cache.get("tokens", Made(), (lambda: 0,))
