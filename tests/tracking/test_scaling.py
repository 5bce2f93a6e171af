"""Stepwise scaling: what is foretold of the next size, and where it is not run."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import scale as face
from colab_magics.magics.vram_watch import Counter
from colab_magics.tracking.scaling import expected

pytestmark = [pytest.mark.colab, pytest.mark.face]

SIZES = [6_400, 10_000, 25_000, 50_000, 100_000]


@pytest.mark.parametrize(
    "law",
    [lambda n: 1e-3 * n, lambda n: 2.0 + 1e-3 * n, lambda n: 1e-7 * n**2, lambda n: 5 + 1e-8 * n**2],
    ids=["linear", "linear and a fixed part", "square", "square and a fixed part"],
)
def test_from_three_sizes_on_the_next_is_foretold_within_a_quarter(law: Any) -> None:
    for known in (3, 4):
        sizes = SIZES[:known]
        band = expected(sizes, [law(size) for size in sizes], SIZES[known], noise=0.02)
        assert band is not None
        assert band.mid == pytest.approx(law(SIZES[known]), rel=0.25)
        assert band.low < law(SIZES[known]) < band.high


def test_the_band_holds_about_eight_of_ten() -> None:
    dice = random.Random(3)
    held = tried = 0
    for _ in range(60):
        fixed, power, noise = dice.choice([0.0, 1.0, 20.0]), dice.uniform(0.8, 1.8), 0.05
        values = [(fixed + (size / 10_000) ** power) * dice.gauss(1, noise) for size in SIZES]
        for known in (2, 3, 4):
            band = expected(SIZES[:known], values[:known], SIZES[known], noise=noise)
            assert band is not None
            held += band.holds(values[known])
            tried += 1
    print(f"{held} of {tried} in the band: {held / tried:.0%}")
    assert 0.65 < held / tried <= 0.97, held / tried


def test_nothing_is_foretold_of_nothing_and_little_of_one_size() -> None:
    assert expected([], [], 10, noise=0.1) is None
    band = expected([10], [1.0], 100, noise=0.05)
    assert band is not None
    assert band.low < 5
    assert band.high > 10


@pytest.fixture
def pretended_host(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A host whose memory is what the test says it is; `VmHWM` cannot be set back by everybody."""
    memory = {"now": 2**30, "peak": 2**30}
    monkeypatch.setattr(face, "counters", lambda: {"host": Counter("host", memory["now"], memory["peak"], 8 * 2**30)})
    monkeypatch.setattr(face, "set_peaks_back", lambda: memory.update(peak=memory["now"]))
    return memory


def test_it_stops_before_a_size_that_does_not_fit(
    pretended_host: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def work(size: int) -> int:
        ran.append(size)
        pretended_host["peak"] = 2**30 + size * 100_000
        return size

    found = face.scale(work, SIZES, most_memory="4GB")
    assert ran == [6_400, 10_000, 25_000]
    assert found.rows[-1].why_not.startswith("it would need about 5.")
    assert [row.result for row in found.rows[:3]] == ran
    printed = capsys.readouterr().out
    assert "10,000 tokens: about" in printed
    assert "; came: " in printed
    assert "50,000 tokens: not run, it would need about" in printed
    assert "25,000" in str(found)
    assert "<table>" in found._repr_mimebundle_()["text/html"]


def test_what_is_foretold_can_be_asked_of_any_size(pretended_host: dict[str, int]) -> None:
    def work(size: int) -> None:
        pretended_host["peak"] = 2**30 + size * 10_000

    found = face.scale(work, [1000, 2000, 4000], unit="rows")
    _, memory = found.forecast(8000)
    assert memory is not None
    assert memory.mid == pytest.approx(2**30 + 8000 * 10_000, rel=0.05)


def test_memory_that_runs_out_is_a_row_and_no_error(pretended_host: dict[str, int]) -> None:
    def work(size: int) -> None:
        if size > 10:
            raise MemoryError("no more")

    found = face.scale(work, [10, 20, 30])
    assert [row.why_not for row in found.rows] == ["", "memory ran out (no more)"]


def test_an_error_of_the_function_is_raised(pretended_host: dict[str, int]) -> None:
    with pytest.raises(ZeroDivisionError):
        face.scale(lambda size: 1 / (size - 20), [10, 20])


def test_it_stops_before_a_size_that_takes_longer_than_the_session(
    pretended_host: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 10.0, 10.0, 30.0])
    monkeypatch.setattr(face.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(face, "_left", lambda: 60.0)
    found = face.scale(lambda _: None, [10, 20, 100])
    assert found.rows[-1].why_not.startswith("it would take about")


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": [2, 1]}, {"sizes": []}, {"sizes": ["a"]}, {"sizes": 5}, {"sizes": "12"}, {"sizes": [1, None]},
     {"sizes": [1.0, float("nan")]}, {"most_memory": "much"}],
    ids=str,
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(ColabMagicsError):
        face.scale(lambda _: pytest.fail("it was run"), **wrong)


def test_what_was_held_before_is_known_and_only_what_is_added_is_foretold(
    pretended_host: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(size: int) -> None:
        pretended_host["peak"] = 2**30 + size * 50_000

    found = face.scale(work, [1_000, 10_000, 20_000], most_memory="4GB")
    assert [row.added for row in found.rows] == [size * 50_000 for size in (1_000, 10_000, 20_000)]
    assert [row.held for row in found.rows] == [2**30] * 3
    last = found.rows[-1].memory_expected
    assert last is not None
    assert last.low > 2**30
    assert found.rows[-1].added_expected == last.beside(-(2**30))
    assert re.search(r"^20,000 +\S+ ms .* 953\.7 MiB .* 1\.9 GiB", str(found), re.MULTILINE), "what it added, the peak"
    assert "Memory is what each size added to what was held before it: 1.0 GiB." in str(found)
    assert re.search(r"came: \S+ ms, 953\.7 MiB$", capsys.readouterr().out, re.MULTILINE)


def test_a_size_of_which_hardly_anything_is_known_is_run_and_that_is_said(
    pretended_host: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(size: int) -> None:
        pretended_host["peak"] = 2**30 + 2**26 + size * 1_000

    found = face.scale(work, [1_000, 200_000], most_memory="4GB")
    band = found.rows[1].memory_expected
    assert band is not None
    assert band.mid > 4e9 > band.low, "by its middle it would not fit"
    assert not band.is_known
    assert [row.why_not for row in found.rows] == ["", ""]
    told = capsys.readouterr().out
    assert "hardly known yet); it may not fit; came: " in told


def test_one_of_which_even_the_least_that_is_expected_does_not_fit_is_not_run(pretended_host: dict[str, int]) -> None:
    def work(size: int) -> None:
        pretended_host["peak"] = 3 * 2**30

    found = face.scale(work, [1_000, 200_000], most_memory="4GB")
    band = found.rows[1].memory_expected
    assert band is not None
    assert band.low > 4e9
    assert found.rows[1].why_not.startswith("it would need about ")


def test_where_the_peak_cannot_be_set_back_only_a_new_one_is_told(
    pretended_host: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face, "set_peaks_back", lambda: None)
    pretended_host["peak"] = 2 * 2**30

    def work(size: int) -> None:
        pretended_host["peak"] = max(pretended_host["peak"], 2**30 + size * 2**20)

    found = face.scale(work, [100, 500, 1500, 1600])
    assert [row.added for row in found.rows] == [None, None, 1500 * 2**20, 1600 * 2**20]
    assert "n/a: no more than an earlier peak of this process, which cannot be set back here." in str(found)


def test_each_size_has_its_own_peak_though_an_earlier_one_was_higher() -> None:
    wanted = {1: 96, 2: 16, 3: 48}
    found = face.scale(lambda size: len(bytearray(wanted[size] * 2**20)), [1, 2, 3])
    if any(row.added is None for row in found.rows):
        pytest.skip("the kernel does not let a process set its peak back here")
    assert [round((row.added or 0) / 2**20 / 16) for row in found.rows] == [6, 1, 3]


def test_a_first_call_that_takes_longer_spoils_no_later_band() -> None:
    law = [size * 1e-4 for size in SIZES]
    for known in (3, 4):
        band = expected(SIZES[:known], [10 * law[0], *law[1:known]], SIZES[known], noise=0.05)
        assert band is not None
        assert band.holds(law[known])
        assert band.mid == pytest.approx(law[known], rel=0.25)


def test_the_band_is_wider_where_measurements_stray_more() -> None:
    def width(off: float) -> float:
        values = [size * 1e-4 * (1 + sign * off) for size, sign in zip(SIZES, (1, -1, 1, -1), strict=False)]
        band = expected(SIZES[:4], values, SIZES[4], noise=0.05)
        assert band is not None
        return band.high / band.low

    assert width(0.02) < 1.5 < width(0.25)


def test_the_memory_of_this_process_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = face.scale(lambda size: bytearray(size * 2**20).__len__(), [32, 64], unit="MiB")
    assert all(row.memory for row in found.rows)
    assert found.rows[1].seconds is not None
