"""Stepwise scaling: what is foretold of the next size, and where it is not run."""

from __future__ import annotations

import random
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


@pytest.mark.parametrize("wrong", [{"sizes": [2, 1]}, {"sizes": []}, {"most_memory": "much"}], ids=str)
def test_bad_input_is_refused_before_anything_is_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(ColabMagicsError):
        face.scale(lambda _: pytest.fail("it was run"), **wrong)


def test_the_memory_of_this_process_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = face.scale(lambda size: bytearray(size * 2**20).__len__(), [32, 64], unit="MiB")
    assert all(row.memory for row in found.rows)
    assert found.rows[1].seconds is not None
