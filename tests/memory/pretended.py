"""NVML modules named for what they pretend, for whoever needs a driver that is not there.

Each is an object with the functions of the module `pynvml` that we ask. A test hands it over where a function takes
`nvml`, or puts it into `sys.modules["pynvml"]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 2**30
NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, LOST = 3, 4, 6, 12, 13, 15


class NVMLError(Exception):
    """As the binding's: the driver's code is in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class Gpu:
    """A card, or one of the instances it is divided into. `missing` names what it does not answer, and with what."""

    uuid: str
    name: Any = "Tesla T4"
    total: int = 15 * GIB
    used: int = 2 * GIB
    reserved: int = GIB // 2
    capability: tuple[int, int] = (7, 5)
    cores: int = 2560
    clock: int = 1590
    busy: int = 97
    instances: list[Gpu] = field(default_factory=list)
    divided: bool = False
    missing: dict[str, int] = field(default_factory=dict)


class Nvml:
    """The functions of `pynvml`, answered for `gpus`.

    Parameters
    ----------
    gpus : the cards, as they lie on the bus
    absent : the code with which `nvmlInit` fails
    cost : seconds for which a question keeps the processor, by its name
    """

    NVMLError = NVMLError
    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self, *gpus: Gpu, absent: int | None = None, cost: Mapping[str, float] | None = None) -> None:
        self.gpus = gpus
        self.asked: list[str] = []
        self._absent = absent
        self._cost = cost or {}

    def __getattr__(self, question: str) -> Callable[..., Any]:
        answer = _ANSWERS.get(question)
        if answer is None:
            raise AttributeError(question)

        def asked(*arguments: Any, **options: Any) -> Any:
            self.asked.append(question)
            until = time.perf_counter() + self._cost.get(question, 0.0)
            while time.perf_counter() < until:
                pass
            for one in arguments:
                if isinstance(one, Gpu) and question in one.missing:
                    raise NVMLError(one.missing[question])
            return answer(self, *arguments, **options)

        return asked

    def init(self) -> None:
        if self._absent is not None:
            raise NVMLError(self._absent)

    def everything(self) -> list[Gpu]:
        return [*self.gpus, *(instance for gpu in self.gpus for instance in gpu.instances)]


def _by_index(nvml: Nvml, index: int) -> Gpu:
    if not 0 <= index < len(nvml.gpus):
        raise NVMLError(2)
    return nvml.gpus[index]


def _by_uuid(nvml: Nvml, uuid: str) -> Gpu:
    found = [one for one in nvml.everything() if one.uuid == uuid]
    if not found:
        raise NVMLError(NOT_FOUND)
    return found[0]


def _instance(_nvml: Nvml, gpu: Gpu, number: int) -> Gpu:
    if number >= len(gpu.instances):
        raise NVMLError(NOT_FOUND)
    return gpu.instances[number]


def _parent(nvml: Nvml, instance: Gpu) -> Gpu:
    return next(gpu for gpu in nvml.gpus if instance in gpu.instances)


def _memory(_nvml: Nvml, gpu: Gpu, version: int | None = None) -> SimpleNamespace:
    if version is not None and "version 2" in gpu.missing:
        raise NVMLError(gpu.missing["version 2"])
    # version 1 counts what the driver keeps for itself as used
    used = gpu.used if version == 2 else gpu.used + gpu.reserved
    return SimpleNamespace(total=gpu.total, used=used, free=gpu.total - gpu.used - gpu.reserved)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "nvmlInit": Nvml.init,
    "nvmlShutdown": lambda _nvml: None,
    "nvmlDeviceGetCount": lambda nvml: len(nvml.gpus),
    "nvmlDeviceGetHandleByIndex": _by_index,
    "nvmlDeviceGetHandleByUUID": _by_uuid,
    "nvmlDeviceGetUUID": lambda _nvml, gpu: gpu.uuid,
    "nvmlDeviceGetName": lambda _nvml, gpu: gpu.name,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetUtilizationRates": lambda _nvml, gpu: SimpleNamespace(gpu=gpu.busy, memory=40),
    "nvmlDeviceGetTemperature": lambda _nvml, _gpu, _sensor: 61,
    "nvmlDeviceGetPowerUsage": lambda _nvml, _gpu: 68_500,
    "nvmlDeviceGetCudaComputeCapability": lambda _nvml, gpu: gpu.capability,
    "nvmlDeviceGetNumGpuCores": lambda _nvml, gpu: gpu.cores,
    "nvmlDeviceGetMaxClockInfo": lambda _nvml, gpu, _clock: gpu.clock,
    "nvmlDeviceGetMigMode": lambda _nvml, gpu: (int(gpu.divided), int(gpu.divided)),
    "nvmlDeviceGetMaxMigDeviceCount": lambda _nvml, gpu: 7 if gpu.divided else 0,
    "nvmlDeviceGetMigDeviceHandleByIndex": _instance,
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": _parent,
}

_ALL_OF_A_GPU = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
)


def one_t4(cost: Mapping[str, float] | None = None) -> Nvml:
    """One T4, of which another process holds 2 GiB."""
    return Nvml(Gpu("GPU-aaaa1111-0000-0000-0000-000000000001", b"Tesla T4"), cost=cost)


def absent() -> Nvml:
    """No driver on this machine."""
    return Nvml(absent=LIBRARY_NOT_FOUND)


def partial() -> Nvml:
    """An old driver in a container: the first version of the memory alone, no utilisation, no power."""
    missing = {
        "version 2": FUNCTION_NOT_FOUND,
        "nvmlDeviceGetUtilizationRates": NOT_SUPPORTED,
        "nvmlDeviceGetPowerUsage": NO_PERMISSION,
        "nvmlDeviceGetMigMode": FUNCTION_NOT_FOUND,
        "nvmlDeviceGetNumGpuCores": FUNCTION_NOT_FOUND,
    }
    return Nvml(Gpu("GPU-aaaa1111-0000-0000-0000-000000000001", missing=missing))


def two_gpus() -> Nvml:
    """A T4 first on the bus, and an A100 behind it."""
    return Nvml(
        Gpu("GPU-aaaa1111-0000-0000-0000-000000000001"),
        Gpu(
            "GPU-bbbb2222-0000-0000-0000-000000000002",
            "NVIDIA A100-SXM4-40GB",
            40 * GIB,
            10 * GIB,
            capability=(8, 0),
            cores=6912,
            clock=1410,
            busy=55,
        ),
    )


def mig() -> Nvml:
    """An A100 divided into two instances; it says nothing of its whole memory, and they nothing of their work."""
    no_figures = dict.fromkeys((*_ALL_OF_A_GPU[1:], "nvmlDeviceGetCudaComputeCapability"), NOT_SUPPORTED)
    instances = [
        Gpu(f"MIG-{uuid}", f"NVIDIA A100-SXM4-40GB MIG {size}", total, GIB, 0, missing=no_figures)
        for uuid, size, total in (("cccc3333-1", "3g.20gb", 20 * GIB), ("dddd4444-2", "1g.5gb", 5 * GIB))
    ]
    gpu = Gpu("GPU-bbbb2222-0000-0000-0000-000000000002", "NVIDIA A100-SXM4-40GB", 40 * GIB, capability=(8, 0))
    gpu.divided, gpu.instances = True, instances
    gpu.missing = {"nvmlDeviceGetMemoryInfo": NO_PERMISSION}
    return Nvml(gpu)


def lose(gpu: Gpu) -> None:
    """The card falls off the bus: from now on it answers nothing."""
    gpu.missing = dict.fromkeys(_ALL_OF_A_GPU, LOST)


class LostInMidRun(Nvml):
    """A T4 that falls off the bus after `readings` readings of its memory."""

    def __init__(self, readings: int = 2) -> None:
        super().__init__(*one_t4().gpus)
        self._left = readings

    def __getattr__(self, question: str) -> Callable[..., Any]:
        if question == "nvmlDeviceGetMemoryInfo":
            self._left -= 1
            if self._left < 0:
                lose(self.gpus[0])
        return super().__getattr__(question)


def lost_in_mid_run(readings: int = 2) -> Nvml:
    return LostInMidRun(readings)


def unified_memory() -> Nvml:
    """A GPU that shares the host's memory and has none of its own to tell of."""
    missing = {"nvmlDeviceGetMemoryInfo": NOT_SUPPORTED, "version 2": NOT_SUPPORTED}
    return Nvml(Gpu("GPU-eeee5555-0000-0000-0000-000000000005", "NVIDIA GB10", capability=(12, 1), missing=missing))
