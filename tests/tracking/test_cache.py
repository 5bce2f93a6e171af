"""A cache entry is made once, is checked when it is read, and is never in the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial, wraps
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


def written(body: str, name: str = "make", file: str = "cell") -> Any:
    """The function that a cell with this text defines."""
    space: dict[str, Any] = {"partial": partial, "wraps": wraps}
    exec(compile(body, file, "exec"), space)
    return space[name]


BODY = """
def make(n=1, *, k=(1, 2)):
    class Rows:
        most = 7
        def __init__(self):
            self.a = self.b = 0
    def inner(x):
        return x + 2
    return inner(n) * 3 + (n in {"a", "b"}) + Rows.most
"""


@pytest.mark.parametrize(
    ("was", "now"),
    [("* 3", "* 4"), ("x + 2", "x + 5"), ("x + 2", "x - 2"), ("n=1", "n=2"), ("k=(1, 2)", "k=(1, 3)"),
     ("inner(n)", "abs(n)"), ('"b"', '"c"'), ("most = 7", "most = 8"), ("* 3", "* 3.0")],
)  # fmt: skip
def test_a_function_that_has_changed_makes_its_value_anew_and_a_line_says_so(
    cache: Cache, said: list[str], was: str, now: str
) -> None:
    assert cache.get("tokens", written(BODY), ()) == 16
    changed = written(BODY.replace(was, now))
    assert cache.get("tokens", changed, ()) == changed()
    assert re.fullmatch(
        r"tokens is made anew: its function is not the one of \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", said[-1]
    )
    assert len(list(cache.folder.iterdir())) == 1, "the old one is of no use any more"
    cache.get("tokens", changed, ())
    assert re.fullmatch(r"tokens is from the cache, made \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", said[-1])


def test_a_function_that_is_defined_again_as_it_was_is_the_same_wherever_it_stands(
    cache: Cache, said: list[str]
) -> None:
    cache.get("tokens", written(BODY), ())
    cache.get("tokens", written("# a comment\n" * 9 + BODY.replace("    class", "\n\n    class"), file="other"), ())
    assert [line.partition(",")[0] for line in said] == ["tokens is from the cache"]


def test_another_process_knows_the_function_again(tmp_path: Path) -> None:
    lines = [
        "from pathlib import Path",
        "from colab_magics.tracking.cache import Cache",
        BODY,
        f"Cache(Path({os.fspath(tmp_path)!r}), print).get('tokens', make, ())",
    ]
    for seed, told in (("1", ""), ("2", "tokens is from the cache, made ")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
        )
        assert ended.stdout.startswith(told)
        assert bool(ended.stdout) == bool(told)


@pytest.mark.parametrize(
    ("body", "was", "now"),
    [
        ("def f(a, b):\n return a + b\nmake = partial(f, 1, b=2)", "1, b=2", "1, b=3"),
        ("def f(a, b):\n return a + b\nmake = partial(f, 1, b=2)", "a + b", "a - b"),
        ("def f(g):\n return g(1)\nmake = partial(f, lambda x: x + 1)", "x + 1", "x + 2"),
        ("def f(a):\n return a\nmake = partial(f, [len, 1][1])", "return a", "return -a"),
        ("def d(f):\n @wraps(f)\n def g(): return f()\n return g\n@d\ndef make(): return 1", "return 1", "return 2"),
        ("class M:\n def __call__(self):\n  return 1\nmake = M()", "return 1", "return 2"),
        ("class M:\n def give(self):\n  return 1\nmake = M().give", "return 1", "return 2"),
    ],
    ids=["what a partial was given", "its function", "a function it was given", "its function again", "a decorated one",
         "an object", "a method"],
)  # fmt: skip
def test_the_function_is_found_in_whatever_stands_around_it(cache: Cache, body: str, was: str, now: str) -> None:
    for text in (body, body.replace(was, now)):
        make = written(text)
        assert cache.get("tokens", make, ()) == make()


def test_of_what_has_no_code_only_the_arguments_count(cache: Cache, said: list[str]) -> None:
    assert cache.get("n", abs, (-3,)) == cache.get("n", int, (-3,)) == 3
    assert said[0].startswith("n is from the cache")


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
