"""Which device there is, and what is free on it, as the driver and the kernel see it.

NVML is asked, not torch: it needs no CUDA context (0.1 to 0.5 GiB of the card), and it sees what other processes
hold. Its package is `nvidia-ml-py`; the module is called `pynvml`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colab_magics.plan import Device


def this_device(nvml: Any = None, *, cuda: bool = True) -> Device:
    """The first visible GPU, or the CPU.

    Parameters
    ----------
    nvml : the NVML module; imported when not given
    cuda : whether the torch that is installed can use a GPU at all
    """
    import psutil

    host = psutil.virtual_memory()
    host_free = min(int(host.available), _container_free())
    gpu = _first_gpu(nvml, host_free) if cuda else None
    if gpu is not None:
        return gpu
    return Device("cpu", f"CPU with {os.cpu_count() or 1} cores", int(host.total), host_free, host_free)


def _first_gpu(nvml: Any, host_free: int) -> Device | None:
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")]
    if visible[0] in ("", "-1", "none", "NoDevFiles"):
        return None
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return None
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None  # no driver, no library, or no permission: there is no GPU to train on
    try:
        handle = _handle(nvml, visible[0])
        memory = _memory(nvml, handle)
        name = nvml.nvmlDeviceGetName(handle)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
    name = name.decode() if isinstance(name, bytes) else str(name)
    return Device("cuda", name, int(memory.total), int(memory.free), host_free, (int(major), int(minor)))


def _handle(nvml: Any, visible: str) -> Any:
    """CUDA_VISIBLE_DEVICES holds an index, a GPU's UUID or a MIG instance's."""
    by_uuid: Callable[[str], Any] = nvml.nvmlDeviceGetHandleByUUID
    return nvml.nvmlDeviceGetHandleByIndex(int(visible)) if visible.isdigit() else by_uuid(visible)


def _memory(nvml: Any, handle: Any) -> Any:
    try:
        # version 2 does not count what the driver keeps for itself as used by somebody
        return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError, TypeError):
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _container_free(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves; psutil reports the whole machine. No limit is a very large number."""
    unlimited = 2**62
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        cache = dict(line.split() for line in (root / "memory.stat").read_text().splitlines()).get("inactive_file", "0")
    except (OSError, ValueError):
        return unlimited
    return unlimited if limit == "max" else max(0, int(limit) - used + int(cache))
