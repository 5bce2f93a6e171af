"""A `torch.cuda` that is not there: as much of it as we ask, behaving as torch 2.13's source says.

`torch/cuda/memory.py`: `memory_stats_as_nested_dict` gives `{}` before CUDA is initialised and makes no context;
`mem_get_info` asks the driver under a guard for that device, which makes one. `torch/cuda/__init__.py`:
`is_initialized` is whether this process has used CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class AcceleratorError(RuntimeError):
    """As `torch.AcceleratorError`: what every call gives after a kernel has failed."""


@dataclass
class PretendedDevice:
    """What the allocator has of one card."""

    allocated: int = 0
    reserved: int = 0
    fragmented: int = 0
    peak: int = 0
    free: int = 8 * GIB
    total: int = 15 * GIB


@dataclass
class PretendedCuda:
    """`torch.cuda` of a process; `contexts` are the cards on which one was made, `called` what was asked for.

    `workspaces` are the bytes that cuBLAS holds of the first card.
    """

    devices: list[PretendedDevice]
    initialised: bool = True
    failure: str = ""
    workspaces: int = 0
    contexts: set[int] = field(default_factory=set)
    called: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = SimpleNamespace(memory_stats_as_nested_dict=self._stats)
        if self.initialised:
            self.contexts |= {index for index, device in enumerate(self.devices) if device.reserved}

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return len(self.devices)

    def mem_get_info(self, index: int) -> tuple[int, int]:
        self._call("mem_get_info")
        self.contexts.add(index)
        return self.devices[index].free, self.devices[index].total

    def get_device_name(self, _index: int) -> str:
        return "AMD Instinct MI300X"

    def reset_peak_memory_stats(self, index: int) -> None:
        self._call("reset_peak_memory_stats")
        self.devices[index].peak = self.devices[index].allocated

    def synchronize(self) -> None:
        self._call("synchronize")

    def ipc_collect(self) -> None:
        self._call("ipc_collect")

    def empty_cache(self) -> None:
        """Gives back whole segments that nothing uses; the pieces between tensors stay."""
        self._call("empty_cache")
        for device in self.devices:
            device.reserved = device.allocated + device.fragmented

    def clear_cublas_workspaces(self) -> None:
        """`torch._C._cuda_clearCublasWorkspaces`: they are tensors of the allocator, which no Python object has."""
        self._call("clear_cublas_workspaces")
        self.devices[0].allocated -= self.workspaces
        self.workspaces = 0

    def _call(self, name: str) -> None:
        self.called.append(name)
        if self.failure:
            raise AcceleratorError(self.failure)

    def _stats(self, index: int) -> dict[str, Any]:
        if not self.initialised:
            return {}
        device = self.devices[index]
        return {
            "allocated_bytes": {"all": {"current": device.allocated, "peak": max(device.peak, device.allocated)}},
            "reserved_bytes": {"all": {"current": device.reserved, "peak": device.reserved}},
            "inactive_split_bytes": {"all": {"current": device.fragmented, "peak": device.fragmented}},
        }


def pretended_torch(*devices: PretendedDevice, **how: Any) -> Any:
    """A module `torch` that has no tensors, and this `cuda`."""
    cuda = PretendedCuda(list(devices), **how)
    inner = SimpleNamespace(_cuda_clearCublasWorkspaces=cuda.clear_cublas_workspaces)
    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(hip=None), _C=inner)
