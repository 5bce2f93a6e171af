"""Memory as bars: what torch has allocated, what it caches, what others hold, against the real total."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from colab_magics.panel.parts import Gpu, Memory
from colab_magics.panel.state import PanelState
from colab_magics.sizes import size

_NEARLY_FULL = 0.05  # of the total
_OTHERS = "others + CUDA"
_GIB = 2**30


@dataclass(frozen=True)
class Bar:
    """One device's memory. Bytes; `bands` are names and sizes, from the left.

    Attributes
    ----------
    peak, estimate : float, optional
        On the scale of the first bands: the most that torch had allocated, and what was predicted of that.
    unknown : tuple of str
        What else is in the device, and how much of it could not be told.
    """

    label: str
    total: float | None
    bands: tuple[tuple[str, float], ...]
    peak: float | None = None
    estimate: float | None = None
    unknown: tuple[str, ...] = ()

    @property
    def used(self) -> float:
        """All bands together, of which the amount is known."""
        return sum(amount for _, amount in self.bands)

    @property
    def cached(self) -> float:
        """What torch holds and nobody uses."""
        return sum(amount for name, amount in self.bands if name == "cached")


def memory_bars(state: PanelState) -> tuple[Bar, ...]:
    """One bar a GPU; the host's memory where there is none; nothing where nothing was told."""
    memory = state.memory
    if memory is None:
        return ()
    if memory.gpus:
        several = len(memory.gpus) > 1
        return tuple(_of_gpu(state, memory, gpu, place == 0, several) for place, gpu in enumerate(memory.gpus))
    if memory.allocated is not None or memory.reserved is not None:  # a GPU whose driver tells nothing
        return (Bar("GPU memory", _planned(state), _of_torch(memory), memory.peak, state.estimate, (_OTHERS,)),)
    if memory.host_total is not None or memory.host_used is not None:
        return (Bar("CPU memory", memory.host_total, _of_host(memory)),)
    return ()


def fullest(bars: tuple[Bar, ...]) -> int:
    """Which of them is used the most, as a share of its total."""
    shares = [bar.used / bar.total if bar.total else 0.0 for bar in bars]
    return shares.index(max(shares))


def headline(bars: tuple[Bar, ...], *, stays: bool = False) -> str:
    """How much of how much is in use, of several GPUs on the fullest; in a frame that stays, the peak."""
    bar = bars[fullest(bars)]
    used, before = (bar.peak, "peak ") if stays and bar.peak is not None else (bar.used, "")
    where = f" on {bar.label}, the fullest" if len(bars) > 1 and not before and bar.used else ""
    if not bar.bands and not before:
        return f"n/a of {size(bar.total)}" if bar.total else "n/a"
    if not bar.total:
        return f"{before}{size(used)}" if before else f"{size(used)} in use"
    total = size(bar.total)
    whose = " by torch" if bar.unknown and not before else ""
    return f"{before}{near(used, bar.total).removesuffix(total[-4:])} of {total}{whose}{where}"


def verdict(state: PanelState, bars: tuple[Bar, ...]) -> tuple[str, bool]:
    """Whether it fits, in words, and whether to mind."""
    known = [(spare, bar) for bar in bars if (spare := _spare(state, bar)) is not None]
    if not known or state.phase == "failed":
        return "", False
    spare, bar = min(known, key=lambda one: one[0])
    assert bar.total is not None
    full = spare < _NEARLY_FULL * bar.total
    if bar.label.startswith("CPU"):
        return ("the machine's memory is nearly full", True) if full and not state.ended else ("", False)
    where = (f"on {bar.label}" if len(bars) > 1 else "at the peak") if state.step else "by the estimate"
    if spare < 0 and not state.step:
        return f"does not fit {where}: {size(-spare)} too much", True
    if full:
        return f"nearly full {where}", True
    # a full bar beside a calm word: torch keeps what it has once held, and gives it back where it is needed
    held = bar.cached if bar.peak is None else bar.cached - max(0.0, bar.peak - _allocated(bar))
    told = f", {size(held)} of it cached" if state.step and 2 * held > spare else ""
    return f"{'' if state.ended else 'fits, '}{size(spare)} to spare {where}{told}", False


def _allocated(bar: Bar) -> float:
    return sum(amount for name, amount in bar.bands if name == "allocated")


def _spare(state: PanelState, bar: Bar) -> float | None:
    """What is left of a device where its use is highest; None where nobody knows."""
    if not bar.total or not bar.bands:
        return None
    highest = bar.peak if state.step else bar.estimate
    if highest is None:
        return bar.total - bar.used if bar.label != "GPU memory" and not bar.unknown else None
    spare = bar.total - highest - sum(amount for name, amount in bar.bands if name.startswith("others"))
    return None if bar.unknown and spare >= _NEARLY_FULL * bar.total else spare


def legend(bar: Bar) -> tuple[list[str], list[str]]:
    """The bands and the ticks of a bar, each with its amount; in GiB where the total is."""
    ticks = [(name, at) for name, at in (("peak", bar.peak), ("estimate", bar.estimate)) if at is not None]

    def told(pairs: Sequence[tuple[str, float]]) -> list[str]:
        return [f"{name} {near(at, bar.total).removesuffix(' GiB') if bar.total else size(at)}" for name, at in pairs]

    return [*told(bar.bands), *(f"{name} n/a" for name in bar.unknown)], told(ticks)


def near(amount: float, total: float | None) -> str:
    """An amount in GiB where the total is; what rounds to nothing is not called nothing."""
    if not total or total < _GIB:
        return size(amount)
    return "<0.1 GiB" if 0 < amount < 0.05 * _GIB else f"{amount / _GIB:.1f} GiB"


def beside(memory: Memory, bars: tuple[Bar, ...]) -> list[str]:
    """What else the fullest device and the host tell; what a device cannot tell is n/a."""
    lines = []
    if memory.gpus:
        gpu = memory.gpus[fullest(bars)]
        parts = [
            f"{gpu.utilisation:.0f}% busy" if gpu.utilisation is not None else "utilisation n/a",
            f"{gpu.temperature:.0f} °C" if gpu.temperature is not None else "temperature n/a",
            f"{gpu.power:.0f} W" if gpu.power is not None else "power n/a",
        ]
        lines.append(f"GPU {gpu.index}: {', '.join(parts)}" if len(bars) > 1 else f"GPU {', '.join(parts)}")
    busy = memory.cores is not None and memory.cores >= 0.05  # the first look sees none
    cores = f"{memory.cores:.1f} cores busy" if busy else ""
    if memory.gpus and memory.host_used is not None and memory.host_total:
        host = near(memory.host_used, memory.host_total).removesuffix(" GiB")
        lines.append(f"host memory {host} of {size(memory.host_total)}{f', {cores}' if cores else ''}")
    elif cores:
        lines.append(cores)
    return lines


def _of_gpu(state: PanelState, memory: Memory, gpu: Gpu, first: bool, several: bool) -> Bar:
    label = f"GPU {gpu.index}" if several else "GPU memory"
    total = gpu.total if gpu.total is not None else _planned(state)
    if not first or (memory.reserved is None and memory.allocated is None):
        whole = (("in use", gpu.used),) if gpu.used is not None else ()
        peak, estimate = (memory.peak, state.estimate) if first else (None, None)
        return Bar(label, total, whole, peak, estimate, () if whole else ("in use",))
    bands = _of_torch(memory)
    if gpu.used is None:
        return Bar(label, total, bands, memory.peak, state.estimate, (_OTHERS,))
    others = max(0.0, gpu.used - sum(amount for _, amount in bands))
    return Bar(label, total, (*bands, (_OTHERS, others)), memory.peak, state.estimate)


def _planned(state: PanelState) -> float | None:
    """The device's memory as the plan wrote it: "Tesla T4, 14.6 GiB"."""
    found = re.search(r"([\d.]+) GiB$", state.device)
    return float(found[1]) * _GIB if found and not state.device.startswith("CPU") else None


def _of_torch(memory: Memory) -> tuple[tuple[str, float], ...]:
    reserved = memory.reserved if memory.reserved is not None else memory.allocated or 0.0
    allocated = memory.allocated if memory.allocated is not None else reserved
    return (("allocated", allocated), ("cached", max(0.0, reserved - allocated)))


def _of_host(memory: Memory) -> tuple[tuple[str, float], ...]:
    used = memory.host_used or 0.0
    if memory.resident is None:
        return (("in use", used),)
    return (("this training", min(memory.resident, used) if used else memory.resident),
            ("others", max(0.0, used - memory.resident)))  # fmt: skip
