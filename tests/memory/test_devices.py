"""Which device a run trains on, as the driver sees it."""

from __future__ import annotations

import pytest
from memory.pretended import GIB, absent, mig, one_t4, partial, two_gpus, unified_memory

from colab_magics.memory.devices import this_device


@pytest.fixture(autouse=True)
def _all_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def test_a_gpu_is_what_its_driver_says() -> None:
    device = this_device(one_t4())
    assert (device.kind, device.name, device.capability) == ("cuda", "Tesla T4", (7, 5))
    assert device.total == 15 * GIB
    assert device.free == 12.5 * GIB
    assert device.host_free > 0


def test_an_old_driver_without_the_second_version_still_answers() -> None:
    assert this_device(partial()).free == 12.5 * GIB


@pytest.mark.parametrize("question", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCudaComputeCapability"])
def test_a_card_that_does_not_say_what_a_plan_needs_is_no_gpu(question: str) -> None:
    driver = one_t4()
    driver.gpus[0].missing[question] = 999
    assert this_device(driver).kind == "cpu"


def test_a_card_without_a_name_is_a_gpu() -> None:
    driver = one_t4()
    driver.gpus[0].missing["nvmlDeviceGetName"] = 999
    assert (this_device(driver).kind, this_device(driver).name) == ("cuda", "NVIDIA GPU")


def test_no_driver_is_no_gpu() -> None:
    assert this_device(absent()).kind == "cpu"


def test_the_first_visible_gpu_is_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert this_device(two_gpus()).capability == (8, 0)


def test_a_mig_instance_has_its_own_memory_and_its_card_s_capability() -> None:
    device = this_device(mig())
    assert (device.total, device.capability) == (20 * GIB, (8, 0))


def test_unified_memory_is_the_host_s() -> None:
    device = this_device(unified_memory())
    assert device.kind == "cuda"
    assert 0 < device.free <= device.total


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_hidden_gpu_is_not_used(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = this_device(one_t4())
    assert device.kind == "cpu"
    assert device.free == device.host_free <= device.total


def test_a_torch_without_cuda_trains_on_the_cpu_whatever_the_driver_says() -> None:
    assert this_device(one_t4(), cuda=False).kind == "cpu"
