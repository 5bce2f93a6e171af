"""`%vram --watch`: a line of memory after each cell that changed any.

GPU figures come from torch's own counters, once it uses a GPU; before that, and where there is none, from the kernel's
of the process. The peak of a cell needs a counter that is set back at its start: `reset_peak_memory_stats` on a GPU
(while watching, `max_memory_allocated` counts from the cell's start), `/proc/self/clear_refs` on the host, where that
is allowed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.sizes import size

_LEAST = 2**20  # bytes; cells that change less say nothing
_PROCESS = Path("/proc/self")
_PEAK_BACK = "5"  # what sets VmHWM back to what is resident


@dataclass(frozen=True)
class Counter:
    """Memory at one moment, of one GPU or of the process; bytes, None where it cannot be told."""

    label: str
    now: int
    peak: int | None
    total: int | None


class Watch:
    """Whether cells are watched, and what stood when the one that runs now began."""

    def __init__(self) -> None:
        self.on = False
        self._begun: dict[str, Counter] | None = None
        self._to_go_on = False

    def cell_begins(self, *_: Any) -> None:
        """For IPython's `pre_run_cell`."""
        with suppress(Exception):  # a hook that raises prints a traceback into the user's cell
            set_peaks_back()
            self._begun = counters()

    def cell_ended(self, *_: Any) -> None:
        """For IPython's `post_run_cell`."""
        begun, self._begun = self._begun, None
        if begun is None:  # it was switched on in this cell
            return
        with suppress(Exception):
            for line in lines(begun, counters()):
                print(line)

    def hooks(self) -> dict[str, Any]:
        return {"pre_run_cell": self.cell_begins, "post_run_cell": self.cell_ended}

    def start(self, shell: Any) -> None:
        self._unhook(shell)
        self.on = True
        for event, hook in self.hooks().items():
            shell.events.register(event, hook)

    def stop(self, shell: Any) -> None:
        """May be called twice."""
        self._unhook(shell)
        self.on = self._to_go_on = False
        self._begun = None

    def leave(self, shell: Any) -> None:
        """The extension is unloaded. `%reload_ext` loads it again before the cell ends, and it goes on then."""
        if not self.on:  # to load begins with another unload
            return

        def cell_is_over(*_: Any) -> None:
            self._to_go_on = False
            shell.events.unregister("post_run_cell", cell_is_over)

        self.stop(shell)
        self._to_go_on = True
        shell.events.register("post_run_cell", cell_is_over)

    def go_on(self, shell: Any) -> None:
        """The extension is loaded."""
        if self._to_go_on:
            self.start(shell)

    def _unhook(self, shell: Any) -> None:
        for event, hook in self.hooks().items():
            with suppress(ValueError):
                shell.events.unregister(event, hook)


WATCH = Watch()
"""Of this process, which is one kernel."""


def switch(shell: Any, *, on: bool) -> str:
    """Switch it, and say so."""
    was = WATCH.on
    if on:
        WATCH.start(shell)
        already = "already " if was else ""
        return f"Memory is {already}watched: a line tells what each cell has changed. %vram --watch off ends it."
    WATCH.stop(shell)
    return "Memory is no longer watched." if was else "Memory was not watched."


def counters() -> dict[str, Counter]:
    """Of every GPU that this process has tensors on; of the process itself where it uses none."""
    from colab_magics.memory.allocator import allocators

    gpus = [one for one in allocators() if one.device.startswith("cuda")]
    totals = _totals() if gpus else []
    found = {}
    for index, one in enumerate(gpus):
        label = f"GPU {index}" if len(gpus) > 1 else "GPU"
        found[label] = Counter(label, one.allocated, one.peak, totals[index] if index < len(totals) else None)
    return found or {"host": _host()}


def set_peaks_back() -> None:
    """Have the peaks count from now."""
    from colab_magics.memory.allocator import allocators, cuda

    module = cuda()
    if module is not None:
        for one in allocators():
            if one.reserved:
                module.reset_peak_memory_stats(int(one.device.rpartition(":")[2]))
        return
    with suppress(OSError):  # not everywhere allowed
        (_PROCESS / "clear_refs").write_text(_PEAK_BACK)


def lines(before: dict[str, Counter], after: dict[str, Counter]) -> list[str]:
    """What a cell has changed, a line each; nothing where that is little."""
    told = []
    for label, now in after.items():
        was = before.get(label, Counter(label, 0, None, now.total)) if label != "host" else before.get(label, now)
        change = now.now - was.now
        peak = _peak(was, now)
        if abs(change) < _LEAST and (peak is None or peak - max(was.now, now.now) < _LEAST):
            continue
        name = "memory of this notebook" if label == "host" else label
        of = f" of {size(now.total)}" if now.total else ""
        sign = "+" if change >= 0 else "-"
        high = f", peak {size(peak)}" if peak is not None else ""
        told.append(f"{name}: {sign}{size(abs(change))}{high}, now {size(now.now)}{of}")
    return told


def _peak(was: Counter, now: Counter) -> int | None:
    """The cell's own peak. One that could not be set back says something only where it is new."""
    highest = max(was.now, now.now)
    if now.peak is None or now.peak < highest - _LEAST:  # the kernel counts pages a little late
        return None
    if was.peak is not None and now.peak == was.peak and was.peak - was.now > _LEAST:
        return None
    return max(now.peak, highest)


def _host() -> Counter:
    import psutil

    from colab_magics.memory.host import host_memory

    peak = None
    with suppress(OSError, ValueError):
        status = (_PROCESS / "status").read_text()
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return Counter("host", int(psutil.Process().memory_info().rss), peak, host_memory().total)


def _totals() -> list[int | None]:
    from colab_magics.memory.nvml import Cards

    cards = Cards()
    return [memory.total if (memory := cards.memory(index)) else None for index in range(len(cards))]
