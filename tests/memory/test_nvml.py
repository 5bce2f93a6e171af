"""What the driver tells of the GPUs that this process may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory.pretended import (
    GIB,
    Nvml,
    absent,
    lose,
    lost_in_mid_run,
    mig,
    one_t4,
    partial,
    two_gpus,
    unified_memory,
)

from colab_magics.memory import nvml as nvml_module
from colab_magics.memory.host import host_memory
from colab_magics.memory.nvml import Cards
from colab_magics.memory.report import take

pytestmark = pytest.mark.face

T4, A100 = "Tesla T4", "NVIDIA A100-SXM4-40GB"
BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def names(driver: Nvml, **environ: str) -> list[str | None]:
    return [reading.name for reading in Cards(driver, environ).read()]


def test_a_card_tells_its_memory_its_work_its_heat_and_its_power() -> None:
    (reading,) = Cards(one_t4(), {}).read()
    assert (reading.index, reading.name) == (0, T4)
    assert (reading.total, reading.used) == (15 * GIB, 2 * GIB), "what the driver keeps for itself is used by nobody"
    assert (reading.utilisation, reading.temperature, reading.power) == (97, 61, 68.5)


def test_the_processes_are_never_asked_for() -> None:
    driver = one_t4()
    cards = Cards(driver, {})
    driver.asked.clear()
    cards.read()
    assert len(driver.asked) == 4
    assert not [question for question in driver.asked if "Process" in question]


def test_where_there_is_no_driver_there_is_no_card() -> None:
    assert Cards(absent(), {}).read() == []
    assert Cards(object(), {}).read() == [], "another module of that name"


def test_that_there_is_no_driver_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = absent()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", driver)
    nvml_module._installed.cache_clear()
    try:
        assert [len(Cards(environ={})) for _ in range(3)] == [0, 0, 0]
    finally:
        nvml_module._installed.cache_clear()
    assert driver.asked.count("nvmlInit") == 1


@pytest.fixture
def no_memory_of_drivers() -> Iterator[None]:
    nvml_module._installed.cache_clear()
    yield
    nvml_module._installed.cache_clear()


@pytest.mark.parametrize(
    ("raised", "why"),
    [("OSError('libnvidia-ml.so.1: file too short')", "libnvidia-ml.so.1: file too short"), ("KeyError", "KeyError")],
)
def test_a_binding_that_fails_in_its_import_is_no_nvml_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_memory_of_drivers: None, raised: str, why: str
) -> None:
    (tmp_path / "pynvml.py").write_text(f"raise {raised}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert len(Cards(environ={})) == 0
    said = f"No GPU can be shown (no NVML): pynvml fails when it is imported ({why})."
    assert [note for note in take(tmp_path).notes if note.startswith(said)]


def test_that_there_is_no_binding_is_not_worth_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_memory_of_drivers: None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not Cards(environ={}).silent
    assert not [note for note in take(tmp_path).notes if "pynvml" in note]


@pytest.mark.parametrize(("code", "silent"), [(12, False), (9, False), (18, True), (999, True)])
def test_a_driver_that_is_there_and_fails_is_told_from_none(code: int, silent: bool) -> None:
    assert ("does not answer" in Cards(Nvml(absent=code), {}).silent) is silent


def test_what_an_old_driver_cannot_tell_costs_nothing_else() -> None:
    (reading,) = Cards(partial(), {}).read()
    assert (reading.name, reading.total, reading.temperature) == (T4, 15 * GIB, 61)
    assert reading.used == 2.5 * GIB, "the first version counts the driver's own memory as used"
    assert (reading.utilisation, reading.power) == (None, None)


def test_a_binding_without_the_second_version_still_answers() -> None:
    driver = one_t4()
    driver.nvmlMemory_v2 = None  # type: ignore[assignment]
    assert Cards(driver, {}).memory(0).used == 2.5 * GIB  # type: ignore[union-attr]


def test_the_fastest_card_comes_first_as_cuda_has_it() -> None:
    assert names(two_gpus()) == [A100, T4]
    assert names(two_gpus(), **BUS) == [T4, A100]
    assert names(two_gpus(), CUDA_DEVICE_ORDER="FASTEST_FIRST") == [A100, T4]


def test_cards_whose_speed_is_unknown_stay_as_they_lie_on_the_bus() -> None:
    driver = two_gpus()
    driver.gpus[0].missing["nvmlDeviceGetNumGpuCores"] = 3
    assert names(driver) == [T4, A100]


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        ("0,1", [T4, A100]),
        ("1,0", [A100, T4]),
        (" 1 ", [A100]),
        ("GPU-bbbb2222-0000-0000-0000-000000000002", [A100]),
        ("GPU-bbbb", [A100]),
        ("GPU-bbbb,GPU-aaaa", [A100, T4]),
        ("GPU-", []),  # both begin so
        ("1,7,0", [A100]),  # CUDA reads up to the first that is none
        ("0,-1,1", [T4]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("NoDevFiles", []),
        ("0,0", []),
        ("²", []),
    ],
)
def test_what_is_visible_is_what_cuda_shows_in_that_order(visible: str, shown: list[str]) -> None:
    assert names(two_gpus(), CUDA_VISIBLE_DEVICES=visible, **BUS) == shown


@pytest.mark.parametrize(
    ("visible", "total"),
    [
        (None, 20),
        ("0", 20),
        ("GPU-bbbb", 20),
        ("MIG-cccc3333-1", 20),
        ("MIG-dddd4444-2", 5),
        ("MIG-dddd", 5),
    ],
)
def test_of_a_divided_card_the_instance_is_read(visible: str | None, total: int) -> None:
    cards = Cards(mig(), {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    (reading,) = cards.read()
    assert reading.total == total * GIB
    assert reading.used == GIB
    assert (reading.utilisation, reading.temperature) == (None, None)
    assert cards.capability(0) == (8, 0), "its card's"


def test_a_divided_card_without_an_instance_is_not_usable() -> None:
    driver = mig()
    driver.gpus[0].instances = []
    assert names(driver) == []


def test_a_gpu_that_shares_the_host_s_memory_tells_the_host_s() -> None:
    (reading,) = Cards(unified_memory(), {}).read()
    assert reading.name == "NVIDIA GB10"
    assert reading.total == host_memory().total
    assert reading.used is not None


def test_a_card_that_falls_off_the_bus_becomes_nulls() -> None:
    cards = Cards(lost_in_mid_run(readings=2), {})
    assert [cards.read()[0].total for _ in range(2)] == [15 * GIB, 15 * GIB]
    (reading,) = cards.read()
    assert (reading.name, reading.total, reading.used, reading.temperature, reading.power) == (T4, *[None] * 4)


def test_one_lost_card_of_two_leaves_the_other_s_figures() -> None:
    driver = two_gpus()
    cards = Cards(driver, BUS)
    lose(driver.gpus[0])
    assert [reading.total for reading in cards.read()] == [None, 40 * GIB]
