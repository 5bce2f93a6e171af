"""`colab_magics.scale`: a function at growing sizes, each foretold before it is run, and run only where it may fit.

What is held before a size is run is known, and no size changes it: only what the function adds to it is foretold.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
_TIME_FLOOR, _MEMORY_FLOOR = 1e-3, 2.0**22  # seconds, bytes: so much comes and goes by itself, in an allocator say
HEAD = ("size", "time", "foretold", "memory added", "foretold ", "peak", "units a second", "")


@dataclass(frozen=True)
class Measured:
    """One size.

    Attributes
    ----------
    seconds, memory : float, optional
        Measured; bytes at the peak, of the GPU or of this process. None where it was not run, or cannot be told.
    time_expected, memory_expected : Band, optional
        What was foretold before it was run, of the memory at the peak; None of the first.
    held : float
        Bytes that were in use before it was run: they are in `memory` too.
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
    held: float = 0.0
    result: Any = None
    why_not: str = ""

    @property
    def added(self) -> float | None:
        """Bytes that the function added to what was held, at its peak."""
        return None if self.memory is None else max(0.0, self.memory - self.held)

    @property
    def added_expected(self) -> Band | None:
        """What was foretold of that."""
        return None if self.memory_expected is None else self.memory_expected.beside(-self.held)


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
        """What time (seconds) and memory (bytes at the peak) are expected at a further size, in this process."""
        return _forecast(self.rows, size, self.rows[-1].held)

    def _page(self) -> Page:
        of = f" of {bytes_of(self.most_memory)}" if self.most_memory else ""
        whose = "on the GPU" if self.device.startswith("GPU") else "of this process"
        rows = tuple(_row(one) for one in self.rows)
        off = {number for number, one in enumerate(self.rows) if one.why_not}
        stopped = next((one for one in self.rows if one.why_not), None)
        foot = [f"Not run at {stopped.size:,.0f} and above: {stopped.why_not}."] if stopped is not None else []
        if self.rows[0].seconds is not None:
            foot.append(f"Memory is what each size added to what was held before it: {_held(self.rows)}.")
        if any(one.seconds is not None and one.memory is None for one in self.rows):
            foot.append("n/a: no more than an earlier peak of this process, which cannot be set back here.")
        grid = Grid(HEAD, rows, off=off, whole=HEAD)
        meant = "the band is meant to hold eight of ten"
        return Page(f"By size, in {self.unit}", [f"Memory {whose}{of}; {meant}."], [grid], foot)

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
    foretold does not fit into memory, or into what is left of the session. Where it is hardly known yet, a line says
    so, and it is run unless even the lower end of the band does not fit.

    Parameters
    ----------
    function : callable
        Takes a size. What it needs must be made and let go in it, so that each size is measured alone. Call it once
        before, if a first call takes what no other does.
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
    sizes = _growing(sizes)
    given = None if most_memory is None else _bytes(most_memory)
    rows: list[Measured] = []
    most = given
    for size in sizes:
        before = _clean_start()
        held = before.held
        time_band, memory_band = _forecast(rows, size, held)
        most = given if given is not None else before.total
        why = _does_not_fit(memory_band, time_band, most, _left())
        if why:
            print(f"{size:,} {unit}: not run, {why}.")
            rows.append(Measured(size, None, None, time_band, memory_band, held, why_not=why))
            break
        row = Measured(size, None, None, time_band, memory_band, held)
        if time_band is not None:
            print(f"{size:,} {unit}: {_foretold(row, most)}", end="", flush=True)
        row = _run(function, size, row, before)
        came = row.why_not or f"{_seconds(row.seconds)}, {bytes_of(row.added)}"
        print(f"; came: {came}" if time_band is not None else f"{size:,} {unit}: {came}")
        rows.append(row)
        if row.why_not:
            break
    end = _start()
    return Scaling(tuple(rows), unit, end.device, given if given is not None else end.total or most)


def _growing(sizes: Sequence[int]) -> list[int]:
    """The sizes, if they are numbers that grow."""
    try:
        given = list(sizes)
        if given and given[0] > 0 and all(before < later for before, later in pairwise((*given, math.inf))):
            return given
    except TypeError:
        pass  # they are no numbers, or it is no sequence
    told = clean(repr(sizes))[:80]
    raise ColabMagicsError(
        "scale needs sizes that grow: numbers above 0.", f"It was given {told}.", "Write sizes=[6_400, 10_000, 25_000]."
    )


def _run(function: Callable[[int], Any], size: int, row: Measured, before: _Start) -> Measured:
    """One size, measured."""
    begin = time.perf_counter()
    try:
        result = function(size)
        _until_done()
    except Exception as error:
        if not _is_memory(error):
            raise
        told = clean(str(error)).partition("\n")[0][:120] or type(error).__name__
        return replace(row, why_not=f"memory ran out ({told})")
    seconds = time.perf_counter() - begin
    held, memory = _peak(before.counters, counters())
    return replace(row, seconds=seconds, memory=memory, held=held, result=result)


def _forecast(rows: Sequence[Measured], size: float, held: float) -> tuple[Band | None, Band | None]:
    """Of time and of memory, where `held` bytes are in use before."""
    times = [(one.size, one.seconds) for one in rows if one.seconds is not None]
    added = [(one.size, one.added) for one in rows if one.added is not None]
    seconds = expected(*_apart(times), size, noise=_TIME_NOISE, floor=_TIME_FLOOR)
    memory = expected(*_apart(added), size, noise=_MEMORY_NOISE, floor=_MEMORY_FLOOR)
    return seconds, memory.beside(held) if memory is not None else None


def _apart(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in pairs], [value for _, value in pairs]


def _does_not_fit(memory: Band | None, seconds: Band | None, most: float | None, left: float | None) -> str:
    """Why a size should not be run; empty where it may be."""
    if memory is not None and most is not None and _likely(memory) > most:
        return f"it would need about {bytes_of(memory.mid)} of {bytes_of(most)}"
    if seconds is not None and left is not None and _likely(seconds) > left:
        return f"it would take about {_seconds(seconds.mid)}, and the session has {_seconds(left)}"
    return ""


def _likely(band: Band) -> float:
    """By what a size is refused: the middle, or the lower end where the middle says little."""
    return band.mid if band.is_known else band.low


def _foretold(row: Measured, most: float | None) -> str:
    seconds, memory, added = row.time_expected, row.memory_expected, row.added_expected
    said = _band(seconds, _seconds) if seconds is not None else "nobody knows how long"
    if memory is None or added is None:
        return f"about {said}"
    may = "; it may not fit" if most is not None and memory.high > most else ""
    return f"about {said}, {_band(added, bytes_of)}{may}"


def _band(band: Band, written: Callable[[float], str]) -> str:
    hardly = "" if band.is_known else ", hardly known yet"
    return f"{written(band.mid)} ({written(band.low)} to {written(band.high)}{hardly})"


def _held(rows: Sequence[Measured]) -> str:
    least, most = (bytes_of(end(one.held for one in rows)) for end in (min, max))
    return least if least == most else f"{least} to {most}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 60 else duration(value)


def _row(one: Measured) -> tuple[str, ...]:
    times = f"{_seconds(one.time_expected.low)} to {_seconds(one.time_expected.high)}" if one.time_expected else ""
    band = one.added_expected
    memory = f"{bytes_of(band.low)} to {bytes_of(band.high)}" if band is not None else ""
    speed = f"{one.size / one.seconds:,.0f}" if one.seconds else ""
    if one.seconds is None:
        return (f"{one.size:,.0f}", "", times, "", memory, "", "", one.why_not)
    odd = [
        name
        for name, band, value in (("time", one.time_expected, one.seconds), ("memory", one.memory_expected, one.memory))
        if band is not None and value is not None and not band.holds(value)
    ]
    note = f"{' and '.join(odd)} not as foretold" if odd else ""
    figures = (bytes_of(one.added), memory, bytes_of(one.memory))
    return (f"{one.size:,.0f}", _seconds(one.seconds), times, *figures, speed, note)


def _peak(before: dict[str, Counter], after: dict[str, Counter]) -> tuple[float, float | None]:
    """Of the device that was used the most: what was in use before it ran, and the highest while it did.

    The kernel counts a process's peak, and not everywhere may it be set back: what stays below an earlier one, nobody
    knows.
    """
    label, now = max(after.items(), key=lambda item: item[1].peak or 0)
    was = before.get(label, Counter(label, 0, 0, now.total))
    if now.peak is None or (label == "host" and _is_old(was) and now.peak == was.peak):
        return float(was.now), None
    return float(was.now), float(max(now.peak, was.now, now.now))


def _is_old(counter: Counter) -> bool:
    """Whether the peak is one of earlier, though it was set back."""
    return counter.peak is not None and counter.peak > counter.now + _MEMORY_FLOOR


@dataclass(frozen=True)
class _Start:
    """What was in use before a size is run, whose memory that is, and how much there is."""

    device: str
    total: float | None
    held: float
    counters: dict[str, Counter]


def _start() -> _Start:
    found = counters()
    label, one = max(found.items(), key=lambda item: item[1].now)
    return _Start(label, one.total, float(one.now), found)


def _clean_start() -> _Start:
    """With what nobody uses given back, and the peaks counted from now on."""
    _let_go()
    set_peaks_back()
    return _start()


def _left() -> float | None:
    """Seconds of the session, less what a clean stop takes; None where nobody knows."""
    from colab_magics.session.here import this_session

    with suppress(ColabMagicsError):
        left = this_session().left
        return None if left is None else max(0.0, left - STOP_BEFORE)
    return None


def _let_go() -> None:
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed, and a size that takes it again would be free
        ctypes.CDLL(None).malloc_trim(0)
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
