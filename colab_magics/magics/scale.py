"""`colab_magics.scale`: a function at growing sizes, each foretold before it is run, and run only where it may fit."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from colab_magics.errors import ColabMagicsError, clean
from colab_magics.magics.grid import Grid, Page
from colab_magics.magics.vram_watch import Counter, counters, set_peaks_back
from colab_magics.panel.words import duration
from colab_magics.recipe.rules import memory_bytes
from colab_magics.session.budget import STOP_BEFORE
from colab_magics.sizes import size as bytes_of
from colab_magics.tracking.scaling import Band, expected

_TIME_NOISE, _MEMORY_NOISE = 0.05, 0.02
HEAD = ("size", "time", "foretold", "peak memory", "foretold ", "units a second", "")


@dataclass(frozen=True)
class Measured:
    """One size.

    Attributes
    ----------
    seconds, memory : float, optional
        Measured; bytes at the peak, of the GPU or of this process. None where it was not run, or cannot be told.
    time_expected, memory_expected : Band, optional
        What was foretold before it was run; None of the first.
    result : object
        What the function gave.
    why_not : str
        Why it was not run, or did not come to its end; empty where it did.
    """

    size: float
    seconds: float | None
    memory: float | None
    time_expected: Band | None
    memory_expected: Band | None
    result: Any = None
    why_not: str = ""


@dataclass(frozen=True)
class Scaling:
    """What `scale` found: a table where it is shown, figures where it is asked.

    Attributes
    ----------
    device : str
        Whose memory was measured: `GPU`, or `host` for this process.
    most_memory : float, optional
        Bytes that there are; None where nobody knows.
    """

    rows: tuple[Measured, ...]
    unit: str
    device: str
    most_memory: float | None

    def forecast(self, size: float) -> tuple[Band | None, Band | None]:
        """What time (seconds) and memory (bytes) are expected at a further size."""
        return _forecast(self.rows, size)

    def _page(self) -> Page:
        of = f" of {bytes_of(self.most_memory)}" if self.most_memory else ""
        whose = "on the GPU" if self.device.startswith("GPU") else "of this process"
        rows = tuple(_row(one) for one in self.rows)
        off = {number for number, one in enumerate(self.rows) if one.why_not}
        stopped = next((one for one in self.rows if one.why_not), None)
        foot = [f"Not run at {stopped.size:,.0f} and above: {stopped.why_not}."] if stopped is not None else []
        if self.device == "host":
            foot.append("Memory is what this process held at its peak: also what it held before.")
        grid = Grid(HEAD, rows, off=off, whole=HEAD)
        return Page(f"By size, in {self.unit}", [f"Memory {whose}{of}; the band holds eight of ten."], [grid], foot)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self._page().bundle()

    def __str__(self) -> str:
        return self._page().text()


def scale(
    function: Callable[[int], Any],
    sizes: Sequence[int] = (6_400, 10_000, 25_000, 50_000, 100_000),
    *,
    unit: str = "tokens",
    most_memory: float | str | None = None,
) -> Scaling:
    """Run `function(size)` at each size, and look at time and memory before the next.

    Each size is foretold from those before it: printed, and compared with what came. It is not run where what is
    foretold does not fit into memory, or into what is left of the session.

    Parameters
    ----------
    function : callable
        Takes a size. What it needs must be made and let go in it, so that each size is measured alone.
    sizes : sequence of int
        Growing.
    unit : str
        What the sizes count.
    most_memory : bytes or text, optional
        "14GB", "12.5 GiB". Else all of the GPU that is in use, or of the machine.

    Returns
    -------
    Scaling
        Shown as a table by the cell whose last line it is.

    Raises
    ------
    ColabMagicsError
        The sizes do not grow, or `most_memory` is no amount. What the function itself raises, but for memory that ran
        out, is raised.
    """
    if not sizes or any(later <= before for before, later in pairwise(sizes)) or sizes[0] <= 0:
        raise ColabMagicsError(
            "scale needs sizes that grow.", f"It was given {list(sizes)}.", "Write sizes=[6_400, 10_000, 25_000]."
        )
    given = None if most_memory is None else _bytes(most_memory)
    rows: list[Measured] = []
    device, most = "host", given
    for size in sizes:
        time_band, memory_band = _forecast(rows, size)
        device, total = _device()
        most = given if given is not None else total
        why = _does_not_fit(memory_band, time_band, most, _left())
        if why:
            print(f"{size:,} {unit}: not run, {why}.")
            rows.append(Measured(size, None, None, time_band, memory_band, why_not=why))
            break
        if time_band is not None:
            print(f"{size:,} {unit}: {_foretold(time_band, memory_band)}", end="", flush=True)
        row = _run(function, size, time_band, memory_band)
        came = row.why_not or f"{_seconds(row.seconds)}, {bytes_of(row.memory)}"
        print(f"; came: {came}" if time_band is not None else f"{size:,} {unit}: {came}")
        rows.append(row)
        if row.why_not:
            break
    device, total = _device()
    return Scaling(tuple(rows), unit, device, given if given is not None else total or most)


def _run(function: Callable[[int], Any], size: int, time_band: Band | None, memory_band: Band | None) -> Measured:
    """One size, measured from a clean start."""
    _let_go()
    set_peaks_back()
    before = counters()
    begin = time.perf_counter()
    try:
        result = function(size)
        _until_done()
    except Exception as error:
        if not _is_memory(error):
            raise
        told = clean(str(error)).partition("\n")[0][:120] or type(error).__name__
        return Measured(size, None, None, time_band, memory_band, why_not=f"memory ran out ({told})")
    seconds = time.perf_counter() - begin
    return Measured(size, seconds, _peak(before, counters()), time_band, memory_band, result)


def _forecast(rows: Sequence[Measured], size: float) -> tuple[Band | None, Band | None]:
    times = [(one.size, one.seconds) for one in rows if one.seconds is not None]
    peaks = [(one.size, one.memory) for one in rows if one.memory is not None]
    return (
        expected([at for at, _ in times], [value for _, value in times], size, noise=_TIME_NOISE),
        expected([at for at, _ in peaks], [value for _, value in peaks], size, noise=_MEMORY_NOISE),
    )


def _does_not_fit(memory: Band | None, seconds: Band | None, most: float | None, left: float | None) -> str:
    """Why a size should not be run; empty where it may be."""
    if memory is not None and most is not None and memory.mid > most:
        return f"it would need about {bytes_of(memory.mid)} of {bytes_of(most)}"
    if seconds is not None and left is not None and seconds.mid > left:
        return f"it would take about {_seconds(seconds.mid)}, and the session has {_seconds(left)}"
    return ""


def _foretold(seconds: Band, memory: Band | None) -> str:
    said = f"about {_seconds(seconds.mid)} ({_seconds(seconds.low)} to {_seconds(seconds.high)})"
    return said + (f", {_band(memory)}" if memory is not None else "")


def _band(memory: Band) -> str:
    return f"{bytes_of(memory.mid)} ({bytes_of(memory.low)} to {bytes_of(memory.high)})"


def _seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 60 else duration(value)


def _row(one: Measured) -> tuple[str, ...]:
    times = f"{_seconds(one.time_expected.low)} to {_seconds(one.time_expected.high)}" if one.time_expected else ""
    peak = f"{bytes_of(one.memory_expected.low)} to {bytes_of(one.memory_expected.high)}" if one.memory_expected else ""
    speed = f"{one.size / one.seconds:,.0f}" if one.seconds else ""
    if one.seconds is None:
        return (f"{one.size:,.0f}", "", times, "", peak, "", one.why_not)
    odd = [
        name
        for name, band, value in (("time", one.time_expected, one.seconds), ("memory", one.memory_expected, one.memory))
        if band is not None and value is not None and not band.holds(value)
    ]
    note = f"{' and '.join(odd)} not as foretold" if odd else ""
    return (f"{one.size:,.0f}", _seconds(one.seconds), times, bytes_of(one.memory), peak, speed, note)


def _peak(before: dict[str, Counter], after: dict[str, Counter]) -> float | None:
    """The highest that was in use while it ran, on the device that was used the most."""
    peaks = []
    for label, now in after.items():
        was = before.get(label)
        if now.peak is None:
            return None
        if label == "host" and was is not None and now.peak < max(was.now, now.now):
            return float(max(was.now, now.now))
        peaks.append(float(now.peak))
    return max(peaks, default=None)


def _device() -> tuple[str, float | None]:
    """Whose memory is measured, and how much there is."""
    found = counters()
    label, one = max(found.items(), key=lambda item: item[1].now)
    return label, one.total


def _left() -> float | None:
    """Seconds of the session, less what a clean stop takes; None where nobody knows."""
    from colab_magics.session.here import this_session

    with suppress(ColabMagicsError):
        left = this_session().left
        return None if left is None else max(0.0, left - STOP_BEFORE)
    return None


def _let_go() -> None:
    gc.collect()
    from colab_magics.memory.allocator import cuda

    module = cuda()
    if module is not None:
        module.empty_cache()


def _until_done() -> None:
    from colab_magics.memory.allocator import cuda

    module = cuda()
    if module is not None:
        module.synchronize()


def _is_memory(error: Exception) -> bool:
    kind: Any = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    if isinstance(error, MemoryError) or (kind is not None and isinstance(error, kind)):
        return True
    from colab_magics.memory.messages import tells_of_memory

    return isinstance(error, RuntimeError) and tells_of_memory(str(error))


def _bytes(said: float | str) -> float:
    if isinstance(said, int | float) and not isinstance(said, bool) and 0 < said < math.inf:
        return float(said)
    if isinstance(said, str) and (known := memory_bytes(said.strip())):
        return float(known)
    raise ColabMagicsError(
        f"most_memory={said!r} is no amount of memory.",
        "It is bytes, or text with a unit.",
        'Write most_memory="14GB".',
    )
