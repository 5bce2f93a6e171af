"""Which device there is, as the driver sees it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from colab_magics.memory import devices
from colab_magics.memory.devices import this_device


class DriverError(Exception):
    pass


def t4_driver(**changes):
    """Pretends to be NVML with one T4, of which another process holds 2 GiB."""

    def memory(_handle, version=None):
        used = 2 * 2**30 if version == 2 else 3 * 2**30
        return SimpleNamespace(total=15 * 2**30, free=15 * 2**30 - used, used=used)

    calls = {
        "NVMLError": DriverError,
        "nvmlMemory_v2": 2,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"gpu {uuid}",
        "nvmlDeviceGetName": lambda _handle: b"Tesla T4",
        "nvmlDeviceGetCudaComputeCapability": lambda _handle: (7, 5),
        "nvmlDeviceGetMemoryInfo": memory,
    }
    return SimpleNamespace(**(calls | changes))


def _fails(*_args, **_kwargs):
    raise DriverError


def test_a_gpu_is_what_its_driver_says(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = this_device(t4_driver())
    assert (device.kind, device.name, device.capability) == ("cuda", "Tesla T4", (7, 5))
    assert device.total == 15 * 2**30
    assert device.free == 13 * 2**30
    assert device.host_free > 0


def test_an_old_driver_without_the_second_version_still_answers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = t4_driver()
    memory = driver.nvmlDeviceGetMemoryInfo
    driver.nvmlDeviceGetMemoryInfo = lambda handle, **version: _fails() if version else memory(handle)
    assert this_device(driver).free == 12 * 2**30


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName"])
def test_a_driver_that_fails_is_no_gpu(monkeypatch, broken):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_device(t4_driver(**{broken: _fails})).kind == "cpu"


@pytest.mark.parametrize(("visible", "asked"), [("1,0", "gpu 1"), ("GPU-abc", "gpu GPU-abc"), ("MIG-7", "gpu MIG-7")])
def test_the_first_visible_gpu_is_the_one(monkeypatch, visible, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = []
    this_device(t4_driver(nvmlDeviceGetName=lambda handle: seen.append(handle) or "Tesla T4"))
    assert seen == [asked]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_hidden_gpu_is_not_used(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device = this_device(t4_driver())
    assert device.kind == "cpu"
    assert device.free == device.host_free <= device.total


def test_a_container_s_limit_counts_before_the_machine_s_memory(tmp_path):
    assert devices._container_free(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    assert devices._container_free(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("5000\n")
    assert devices._container_free(tmp_path) == 5000 - 1000 + 300


def test_a_torch_without_cuda_trains_on_the_cpu_whatever_the_driver_says() -> None:
    assert this_device(t4_driver(), cuda=False).kind == "cpu"
