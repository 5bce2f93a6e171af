"""The GPUs that this process may use, as their driver sees them.

NVML is asked, not torch: it needs no CUDA context (0.1 to 0.5 GiB of the card), and it sees what other processes
hold. Its package is `nvidia-ml-py`; the module is called `pynvml`. A question that fails is answered by None, and
never spoils the others. The list of processes is never asked for: it takes milliseconds under a lock that stalls
every kernel launch (4.5 ms on an RTX 4090), and a container sees none or foreign numbers in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from colab_magics.memory.host import host_memory

_NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED
_NO_DRIVER = (9, 12)  # NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND: a machine without a GPU
_TEMPERATURE = 0  # NVML_TEMPERATURE_GPU
_SM_CLOCK = 1  # NVML_CLOCK_SM


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU's memory. What the driver keeps for itself is neither used nor free, where it can tell."""

    total: int
    used: int
    free: int


@dataclass(frozen=True)
class Reading:
    """One GPU at one moment; None is what could not be told.

    `index` counts as the process does, memory is in bytes, `utilisation` in percent of the time, `temperature` in °C,
    `power` in W.
    """

    index: int
    name: str | None = None
    total: int | None = None
    used: int | None = None
    utilisation: float | None = None
    temperature: float | None = None
    power: float | None = None


class Cards:
    """The GPUs that CUDA shows this process, in its order.

    Parameters
    ----------
    nvml : the NVML module; the installed one, connected once for the life of the process, when not given
    environ : where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are looked up

    Attributes
    ----------
    silent : str
        Why NVML is there and cannot be asked; empty where it can, and where there is none.
    """

    def __init__(self, nvml: Any = None, environ: Mapping[str, str] | None = None) -> None:
        self._nvml, self.silent = _installed() if nvml is None else _connected(nvml)
        self._handles = [] if self._nvml is None else _visible(self._nvml, os.environ if environ is None else environ)
        self._names = [_text(self._ask("nvmlDeviceGetName", handle)) for handle in self._handles]

    def __len__(self) -> int:
        return len(self._handles)

    def name(self, index: int) -> str | None:
        """What the maker calls it: "Tesla T4"."""
        return self._names[index]

    def memory(self, index: int) -> Memory | None:
        """The GPU's memory; the host's where the two are one (Jetson, GB10)."""
        handle = self._handles[index]
        # version 2 does not count what the driver keeps for itself as used by somebody
        found = self._ask("nvmlDeviceGetMemoryInfo", handle, version=getattr(self._nvml, "nvmlMemory_v2", None))
        if found is None:
            try:
                found = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except Exception as error:
                if getattr(error, "value", None) != _NOT_SUPPORTED:
                    return None
                host = host_memory()
                return Memory(host.total, host.used, host.free)
        return Memory(int(found.total), int(found.used), int(found.free))

    def capability(self, index: int) -> tuple[int, int] | None:
        """The compute capability: (7, 5) of a T4; of a MIG instance, its GPU's."""
        handle = self._handles[index]
        found = self._ask("nvmlDeviceGetCudaComputeCapability", handle)
        if found is None:
            parent = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
            found = None if parent is None else self._ask("nvmlDeviceGetCudaComputeCapability", parent)
        return None if found is None else (int(found[0]), int(found[1]))

    def read(self) -> list[Reading]:
        """Every GPU now, four questions each."""
        return [self._reading(index) for index in range(len(self))]

    def _reading(self, index: int) -> Reading:
        memory = self.memory(index)
        handle = self._handles[index]
        busy = self._ask("nvmlDeviceGetUtilizationRates", handle)  # a MIG instance has none
        heat = self._ask("nvmlDeviceGetTemperature", handle, _TEMPERATURE)
        power = self._ask("nvmlDeviceGetPowerUsage", handle)
        return Reading(
            index,
            self._names[index],
            memory.total if memory else None,
            memory.used if memory else None,
            None if busy is None else float(busy.gpu),
            None if heat is None else float(heat),
            None if power is None else power / 1000,  # it counts mW
        )

    def _ask(self, question: str, *arguments: Any, **options: Any) -> Any:
        return ask(self._nvml, question, *arguments, **options)


def ask(nvml: Any, question: str, *arguments: Any, **options: Any) -> Any:
    """One question to NVML; None is its answer whatever goes wrong.

    Bindings older than a question have no such function, drivers older than it do not know it, some return bytes that
    are no text: none of that may cost more than the one answer.
    """
    try:
        return getattr(nvml, question)(*arguments, **options)
    except Exception:
        return None


@cache
def _installed() -> tuple[Any, str]:
    """The installed NVML, as `_connected` gives it. That does not change while a process lives."""
    try:
        import pynvml
    except ImportError:
        return None, ""
    except Exception as error:  # some bindings load the driver's library when they are imported
        return None, f"pynvml fails when it is imported ({str(error) or type(error).__name__})"
    return _connected(pynvml)


def _connected(nvml: Any) -> tuple[Any, str]:
    """NVML, or None where it cannot be asked; and why not, where the driver's library is there."""
    try:
        nvml.nvmlInit()
    except Exception as error:  # no library, no driver, no permission, or another module of that name
        code = getattr(error, "value", None)
        broken = isinstance(error, OSError) or (isinstance(code, int) and code not in _NO_DRIVER)
        return None, "NVIDIA's driver library does not answer" if broken else ""
    return nvml, ""


def _visible(nvml: Any, environ: Mapping[str, str]) -> list[Any]:
    """The handles of what CUDA shows, in its order.

    CUDA_VISIBLE_DEVICES holds indices, UUIDs of GPUs (or how they begin) or of MIG instances. CUDA reads it up to the
    first entry that is none of these, and shows nothing of a list that names one twice.
    """
    count = ask(nvml, "nvmlDeviceGetCount") or 0
    by_bus = [handle for i in range(count) if (handle := ask(nvml, "nvmlDeviceGetHandleByIndex", i)) is not None]
    cards = _in_cuda_order(nvml, by_bus, environ)
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [one for card in cards if (one := _usable(nvml, card)) is not None]
    entries = [entry.strip() for entry in listed.split(",")]
    if len(set(entries)) < len(entries):
        return []
    shown = []
    for entry in entries:
        handle = _named(nvml, cards, entry)
        if handle is None:
            break
        shown.append(handle)
    return shown


def _in_cuda_order(nvml: Any, cards: list[Any], environ: Mapping[str, str]) -> list[Any]:
    """CUDA puts the fastest GPU first unless it is told otherwise; NVML counts along the bus.

    How CUDA rates different GPUs is not written anywhere: cores times clock is our guess. Equal ones stay as they are.
    """
    if environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({_name(nvml, card) for card in cards}) < 2:
        return cards
    cores = [ask(nvml, "nvmlDeviceGetNumGpuCores", card) for card in cards]
    clocks = [ask(nvml, "nvmlDeviceGetMaxClockInfo", card, _SM_CLOCK) for card in cards]
    if None in cores or None in clocks:
        return cards
    speed = [core * clock for core, clock in zip(cores, clocks, strict=True)]
    return [cards[i] for i in sorted(range(len(cards)), key=lambda i: -speed[i])]


def _named(nvml: Any, cards: list[Any], entry: str) -> Any:
    """The handle that an entry of CUDA_VISIBLE_DEVICES means, if it means one."""
    if entry.isdecimal():
        return _usable(nvml, cards[int(entry)]) if int(entry) < len(cards) else None
    if entry.startswith("MIG-"):
        instances = [instance for card in cards for instance in _instances(nvml, card)]
        return _by_uuid(nvml, instances, entry)
    if entry.startswith("GPU-"):
        card = _by_uuid(nvml, cards, entry)
        return None if card is None else _usable(nvml, card)
    return None


def _by_uuid(nvml: Any, among: list[Any], entry: str) -> Any:
    exact = ask(nvml, "nvmlDeviceGetHandleByUUID", entry)
    if exact is not None:
        return exact
    begin = [one for one in among if (_text(ask(nvml, "nvmlDeviceGetUUID", one)) or "").startswith(entry)]
    return begin[0] if len(begin) == 1 else None


def _usable(nvml: Any, card: Any) -> Any:
    """The card, or its first instance where it is divided: CUDA uses no more of it."""
    mode = ask(nvml, "nvmlDeviceGetMigMode", card)
    if mode is None or not mode[0]:
        return card
    instances = _instances(nvml, card)
    return instances[0] if instances else None


def _instances(nvml: Any, card: Any) -> list[Any]:
    """The MIG instances of a card."""
    most = ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", card) or 0
    found = (ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", card, number) for number in range(most))
    return [instance for instance in found if instance is not None]


def _name(nvml: Any, card: Any) -> str | None:
    return _text(ask(nvml, "nvmlDeviceGetName", card))


def _text(said: Any) -> str | None:
    """Old bindings give bytes."""
    if isinstance(said, bytes):
        return said.decode(errors="replace")
    return None if said is None else str(said)
