"""`%vram --watch`: a line after each cell that changed memory, and no trace of it when it is off."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from colab_magics.magics import vram_watch
from colab_magics.magics.vram_watch import Counter, lines

from .conftest import Kernel

pytestmark = [pytest.mark.face, pytest.mark.colab, pytest.mark.xdist_group("vram-watch")]

MIB, GIB = 2**20, 2**30
TAKE = "kept = bytearray(64 * 2**20)"


def gpu(now: float, peak: float | None, label: str = "GPU") -> dict[str, Counter]:
    return {label: Counter(label, int(now), None if peak is None else int(peak), 15 * GIB)}


@pytest.fixture
def watched(kernel: Kernel) -> Any:
    kernel.run("%vram --watch off")
    assert kernel.run("%vram --watch").text.startswith("Memory is watched")
    yield kernel
    kernel.run("%vram --watch off\nkept = None")


def test_a_cell_that_takes_memory_says_how_much_and_one_that_does_not_says_nothing(watched: Kernel) -> None:
    said = watched.run(TAKE).text
    assert re.fullmatch(r"memory of this notebook: \+6\d\.\d MiB, peak .*, now .* of .* GiB\n", said)
    assert watched.run("1 + 1").text == ""
    assert watched.run("del kept").text.startswith("memory of this notebook: -6")


def test_a_peak_that_is_over_is_told_too(watched: Kernel) -> None:
    said = watched.run("taken = bytearray(64 * 2**20); del taken").text
    assert re.search(r"peak \d+\.\d MiB", said)


def test_a_cell_that_fails_has_its_line_too(watched: Kernel) -> None:
    reply = watched.run(f"{TAKE}\n1 / 0")
    assert reply.error == "ZeroDivisionError"
    assert re.search(r"memory of this notebook: \+[67]\d\.\d MiB", reply.text)  # printing the error imports some


def test_it_goes_on_after_a_reload_and_is_gone_after_an_unload(watched: Kernel) -> None:
    assert watched.run("%reload_ext colab_magics").text == ""
    assert watched.run(TAKE).text.count("memory of this notebook") == 1
    assert watched.run("%vram --watch").text.startswith("Memory is already watched")
    watched.run("kept = None")
    watched.run("%unload_ext colab_magics")
    assert watched.run(TAKE).text == ""
    watched.run("%load_ext colab_magics")
    assert watched.run("kept = None").text == ""
    assert (
        watched.value(
            "[one for hooks in get_ipython().events.callbacks.values() for one in hooks if 'Watch' in str(one)]"
        )
        == "[]"
    )
    assert watched.run("%vram --watch off").text == "Memory was not watched.\n"


def test_off_and_a_reload_in_one_cell_leave_it_off(watched: Kernel) -> None:
    watched.run("%vram --watch off\n%reload_ext colab_magics")
    assert watched.run(TAKE).text == ""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (gpu(GIB, GIB), gpu(3 * GIB, 5 * GIB), ["GPU: +2.0 GiB, peak 5.0 GiB, now 3.0 GiB of 15.0 GiB"]),
        (gpu(3 * GIB, 3 * GIB), gpu(GIB, 3 * GIB), ["GPU: -2.0 GiB, peak 3.0 GiB, now 1.0 GiB of 15.0 GiB"]),
        (gpu(GIB, GIB), gpu(GIB, 2 * GIB), ["GPU: +0 bytes, peak 2.0 GiB, now 1.0 GiB of 15.0 GiB"]),
        (gpu(GIB, GIB), gpu(GIB + MIB // 2, GIB + MIB // 2), []),
        ({}, gpu(GIB, 2 * GIB), ["GPU: +1.0 GiB, peak 2.0 GiB, now 1.0 GiB of 15.0 GiB"]),
        # where no one may set the host's peak back, an old one says nothing of this cell
        (gpu(GIB, 8 * GIB, "host"), gpu(2 * GIB, 8 * GIB, "host"),
         ["memory of this notebook: +1.0 GiB, now 2.0 GiB of 15.0 GiB"]),
    ],
)  # fmt: skip
def test_what_a_line_says(before: dict[str, Counter], after: dict[str, Counter], said: list[str]) -> None:
    assert lines(before, after) == said


def test_on_a_gpu_the_counters_of_torch_are_read_and_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        "allocated_bytes": {"all": {"current": GIB, "peak": 2 * GIB}},
        "reserved_bytes": {"all": {"current": 3 * GIB}},
    }
    reset: list[int] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 1,
        memory=SimpleNamespace(memory_stats_as_nested_dict=lambda _: figures),
        reset_peak_memory_stats=reset.append,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(vram_watch, "_totals", lambda: [15 * GIB])
    vram_watch.set_peaks_back()
    assert reset == [0]
    assert vram_watch.counters() == gpu(GIB, 2 * GIB)
