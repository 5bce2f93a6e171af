"""`%vram`: the report as a page, and the object that the line gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from colab_magics.magics.grid import Grid, Page
from colab_magics.memory.held import held
from colab_magics.memory.owners import FAILED, Owner
from colab_magics.memory.report import Card, Report, take
from colab_magics.panel.bands import Bar
from colab_magics.sizes import size

_MOST = 12  # owners that are named; the others are summed up
_LEAST = 2**20  # bytes
HEAD = ("held by", "what", "size", "on", "also held by")


class VramReport(Report):
    """What `x = %vram` gives: figures as attributes, in bytes; it shows itself as `%vram` did."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return page_of(self).bundle()

    def __repr__(self) -> str:
        return page_of(self).text()


def report(root: Path, shell: Any = None) -> VramReport:
    """Measure now.

    Parameters
    ----------
    root : where runs are kept
    shell : IPython's; without one (in a terminal) there are no owners
    """
    taken = take(root, shell)
    return VramReport(**{field.name: getattr(taken, field.name) for field in fields(Report)})


def page_of(taken: Report) -> Page:
    """The report's page."""
    lines = [*_lines(taken), *taken.notes]
    grids = [owners_grid(taken.owners)] if taken.owners else []
    return Page(_title(taken), lines, grids, _foot(taken), _bars(taken))


def owners_grid(owners: Sequence[Owner], title: str = "", *, every: bool = False) -> Grid:
    """Who holds how much: the largest by name, the rest as a sum; or every one, with all its names."""
    shown = list(owners) if every else [owner for owner in owners if owner.bytes >= _LEAST][:_MOST] or list(owners[:1])
    rest = [owner for owner in owners if owner not in shown]
    several = len({owner.device for owner in owners}) > 1
    rows = [
        (
            one.name,
            one.what,
            size(one.bytes),
            one.device if several else "",
            ", ".join(one.also) if every else _few(one.also),
        )
        for one in shown
    ]
    if sum(owner.bytes for owner in rest) >= _LEAST:
        rows.append((f"{len(rest)} more", "", size(sum(owner.bytes for owner in rest)), "", ""))
    return Grid(HEAD, tuple(rows), title, whole=("size",))


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _title(taken: Report) -> str:
    if not taken.gpus:
        return "Memory of this machine"
    names = list(dict.fromkeys(gpu.name for gpu in taken.gpus))
    count = f"{len(taken.gpus)} GPUs" if len(taken.gpus) > 1 else "the GPU"
    return f"Memory of {count}: {', '.join(names)}"


def _lines(taken: Report) -> Iterator[str]:
    if not taken.gpus:
        yield "No GPU can be seen here: these figures are of the machine's own memory."
        total, free = taken.host.total, taken.host.free
        yield f"{size(total - free)} of {size(total)} in use, {size(free)} free"
    for gpu in taken.gpus:
        if gpu.total is None and not gpu.allocated + gpu.cached:
            continue  # a note says so
        which = f"GPU {gpu.index}: " if len(taken.gpus) > 1 else ""
        yield f"{which}{_card(gpu)}"
    for worker in taken.workers:
        held = worker.reserved if taken.gpus else worker.rss
        amount = f" with {size(held)}" if held is not None else ""
        ends = f"%finetune stop {worker.run} ends it"
        yield f"{worker.run} trains in a process of its own{amount} ({worker.phase}). {ends}."


def _card(gpu: Card) -> str:
    if gpu.total is None or gpu.used is None or gpu.free is None:
        held = size(gpu.allocated + gpu.cached)
        return f"{held} held by this process; what the whole card has in use cannot be told"
    told = f"{size(gpu.used)} of {size(gpu.total)} in use, {size(gpu.free)} free"
    if not gpu.allocated and not gpu.cached:
        return f"{told}; this process holds none"
    if gpu.fragmented >= _LEAST:
        told += f"; {size(gpu.fragmented)} of the cache lies in pieces between tensors (fragmented)"
    return told


def _bars(taken: Report) -> list[Bar]:
    if not taken.gpus:
        host = taken.host
        bands = [("this process", host.this_process), ("worker", host.workers), ("others", host.others)]
        return [Bar("CPU memory", host.total, _above_nothing(bands, "this process"))]
    several = len(taken.gpus) > 1
    return [
        Bar(
            f"GPU {gpu.index}" if several else "GPU memory",
            gpu.total,
            _above_nothing(
                [
                    ("allocated", gpu.allocated),
                    ("cached", gpu.cached),
                    ("worker", gpu.workers),
                    ("others + CUDA", gpu.others or 0),
                ],
                "allocated",
            ),
            unknown=() if gpu.others is not None else ("others + CUDA",),
        )
        for gpu in taken.gpus
        if gpu.total is not None or gpu.allocated + gpu.cached
    ]


def _above_nothing(bands: Sequence[tuple[str, int]], always: str) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(amount)) for name, amount in bands if amount or name == always)


def _foot(taken: Report) -> list[str]:
    large = [owner for owner in taken.owners if owner.bytes >= _LEAST]
    told = []
    if any(FAILED in (owner.name.partition(":")[0], *owner.also) for owner in large):
        told.append("%vram free lets go of what the failed cell left.")
    ours = {one.name for one in held()}
    told += [f"%vram free lets go of {owner.name}." for owner in large if owner.name in ours]
    if any(owner.variable for owner in large):
        told.append(f"{removing(large)} removes what holds the most of it.")
    if not told and any(gpu.cached >= _LEAST for gpu in taken.gpus):
        told.append("%vram free gives the cache back to the card.")
    return told


def removing(owners: Sequence[Owner]) -> str:
    """The line that removes all names of the largest that has one: one name less would leave its memory held."""
    largest = next(owner for owner in owners if owner.variable)
    return " ".join(
        ["%vram free", largest.variable, *(name for name in largest.also if name not in (FAILED, *largest.fixed))]
    )
