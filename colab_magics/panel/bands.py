"""Memory as bars: what torch has allocated, what it caches, what others hold, against the real total."""

from __future__ import annotations

from dataclasses import dataclass

from colab_magics.panel.parts import Gpu, Memory
from colab_magics.panel.state import PanelState
from colab_magics.panel.words import size

_NEARLY_FULL = 0.05  # of the total
_GIB = 2**30


@dataclass(frozen=True)
class Bar:
    """One device's memory. Bytes; `bands` are names and sizes, from the left.

    Attributes
    ----------
    peak, estimate : float, optional
        On the scale of the first bands: the most that torch had allocated, and what was predicted of that.
    """

    label: str
    total: float | None
    bands: tuple[tuple[str, float], ...]
    peak: float | None = None
    estimate: float | None = None

    @property
    def used(self) -> float:
        """All bands together."""
        return sum(amount for _, amount in self.bands)


def memory_bars(state: PanelState) -> tuple[Bar, ...]:
    """One bar a GPU; the host's memory where there is none; nothing where nothing was told."""
    memory = state.memory
    if memory is None:
        return ()
    if memory.gpus:
        several = len(memory.gpus) > 1
        return tuple(_of_gpu(state, memory, gpu, place == 0, several) for place, gpu in enumerate(memory.gpus))
    if memory.allocated is not None or memory.reserved is not None:  # a GPU whose driver tells nothing
        return (Bar("GPU memory", None, _of_torch(memory), memory.peak, state.estimate),)
    if memory.host_total is not None or memory.host_used is not None:
        return (Bar("CPU memory", memory.host_total, _of_host(memory)),)
    return ()


def headline(bars: tuple[Bar, ...]) -> str:
    """How much of how much is in use."""
    used, totals = sum(bar.used for bar in bars), [bar.total for bar in bars]
    if any(total is None for total in totals):
        return f"{size(used)} in use" if used else "not known"
    total = size(sum(total for total in totals if total is not None))
    same_unit = size(used)[-4:] == total[-4:]
    return f"{size(used)[:-4] if same_unit else size(used)} of {total}"


def verdict(state: PanelState, bars: tuple[Bar, ...]) -> tuple[str, str]:
    """Whether it fits, in words, and how bad that is: fine, mind or bad."""
    bar = bars[0]
    if bar.total is None or not bar.total:
        return "", "fine"
    if bar.label.startswith("CPU"):
        spare = bar.total - bar.used
        return ("the machine's memory is nearly full", "mind") if spare < _NEARLY_FULL * bar.total else ("", "fine")
    highest = bar.peak if state.step else bar.estimate
    if highest is None:
        return "", "fine"
    others = sum(amount for name, amount in bar.bands if name.startswith("others"))
    spare = bar.total - others - highest
    when = "at the peak" if state.step else "by the estimate"
    if spare < 0 and not state.step:
        return f"does not fit by the estimate: {size(-spare)} too much", "bad"
    if spare < _NEARLY_FULL * bar.total:
        return f"nearly full {when}", "mind"
    return f"fits, {size(spare)} to spare {when}", "fine"


def legend(bar: Bar) -> list[tuple[str, str]]:
    """Each band and tick of a bar: what it is, and how much."""
    shown = [(name, size(amount)) for name, amount in bar.bands]
    if bar.peak is not None:
        shown.append(("peak", size(bar.peak)))
    if bar.estimate is not None:
        shown.append(("estimate", size(bar.estimate)))
    return shown


def beside(memory: Memory) -> list[str]:
    """What else the device and the host tell."""
    lines = []
    for gpu in memory.gpus[:1]:
        parts = [
            f"{gpu.utilisation:.0f}% busy" if gpu.utilisation is not None else "",
            f"{gpu.temperature:.0f} °C" if gpu.temperature is not None else "",
            f"{gpu.power:.0f} W" if gpu.power is not None else "",
        ]
        if any(parts):
            lines.append("GPU " + ", ".join(part for part in parts if part))
    if memory.gpus and memory.host_used is not None and memory.host_total:
        lines.append(f"host memory {size(memory.host_used)} of {size(memory.host_total)}")
    return lines


def _of_gpu(state: PanelState, memory: Memory, gpu: Gpu, first: bool, several: bool) -> Bar:
    label = f"GPU {gpu.index}" if several else "GPU memory"
    bands: tuple[tuple[str, float], ...] = ()
    if first and (memory.reserved is not None or memory.allocated is not None):
        bands = _of_torch(memory)
        held = sum(amount for _, amount in bands)
        if gpu.used is not None:
            bands = (*bands, ("others, CUDA context included", max(0.0, gpu.used - held)))
    elif gpu.used is not None:
        bands = (("in use", gpu.used),)
    return Bar(label, gpu.total, bands, memory.peak if first else None, state.estimate if first else None)


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
