"""Predictions against what others have measured, on GPUs, with their own code, and published.

They print torch's *reserved* memory: what the allocator has taken from the driver, with its holes, and with whatever
loading took at its highest point. Predicted is what is *allocated*. Nobody has published the length of a run's longest
document; where they are Alpaca's it is put at 768 tokens, elsewhere at what the run was cut or packed to.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import Case, show_progress, table, traces

_FILE = Path(__file__).with_name("published.json")
_GIB = 2**30


@dataclass(frozen=True)
class Published:
    """One run of others'. GiB.

    Attributes
    ----------
    start, peak : float
        Before and after training, `max_memory_reserved` unless `note` says otherwise.
    dynamic : bool
        Of a checkpoint in 4 bits that keeps some of its layers in 16, and does not say how many in its config alone.
    """

    what: str
    model: str
    by: str
    source: str
    device: str
    method: str
    rank: int
    documents: int
    length: int
    length_known: str
    checkpointing: bool
    optim: str
    start: float | None
    peak: float
    dynamic: bool
    note: str

    @property
    def ours(self) -> Case:
        """The same, on our way."""
        return Case(
            self.model, self.method, self.documents, self.length, self.checkpointing, self.device,
            optim=self.optim, rank=self.rank,
        )  # fmt: skip

    @property
    def theirs(self) -> Case:
        """On theirs: TRL's is known; the others have a linear attention and a chunked loss, as ours is."""
        ours = self.ours
        if self.by != "TRL":
            return ours
        return Case(
            ours.model, ours.method, ours.documents, ours.length, ours.checkpointing, ours.device,
            optim=ours.optim, rank=ours.rank, peer="TRL 1.16",
        )  # fmt: skip


def published() -> list[Published]:
    """All of them."""
    return [Published(**row) for row in json.loads(_FILE.read_text(encoding="utf-8"))]


def main(*, processes: int = 1) -> int:
    runs = published()
    wanted = list(dict.fromkeys([case for run in runs for case in (run.ours, run.theirs)]))
    found = {}
    for number, (case, one) in enumerate(traces(wanted, processes), 1):
        found[case] = one.parts
        show_progress(number, len(wanted), str(case))
    rows, starts, peaks = [], [], []
    for run in runs:
        theirs, ours = found[run.theirs], found[run.ours]
        still = (theirs.weights + theirs.adapters) / _GIB
        start = ("-", "-") if run.start is None else (f"{run.start:.2f}", f"{still / run.start - 1:+.0%}")
        # what a dynamic checkpoint keeps in 16 bit only its start tells
        base = run.start - still if run.dynamic and run.start is not None else 0.0
        predicted = theirs.peak / _GIB + base
        if run.start is not None and not run.dynamic:
            starts.append(abs(still / run.start - 1))
        if not run.note and not run.dynamic and not run.length_known.startswith("documents"):
            peaks.append(abs(predicted / run.peak - 1))
        rows.append(
            (run.by, run.what, f"r {run.rank}, {run.documents} × {run.length:,}", start[0], f"{still:.2f}", start[1],
             f"{run.peak:.2f}", f"{predicted:.2f}{'†' if base else ''}", f"{predicted / run.peak - 1:+.0%}",
             f"{ours.peak / _GIB + base:.2f}{'†' if base else ''}")
        )  # fmt: skip
    heads = (
        "by", "run", "at once", "start", "weights + adapters", "error", "peak", "predicted", "error", "our way"
    )  # fmt: skip
    print(table(heads, rows))
    print("† counted from the published start: the checkpoint keeps layers in 16 bit")
    print(f"\nweights + adapters against the start, without †: {_of(starts)}")
    print(f"peaks of runs whose length is known and whose code is not known to be another: {_of(peaks)}")
    print("\nnotes")
    for run in runs:
        if run.note:
            print(f"- {run.by}, {run.what}: {run.note}")
    print("\nsources")
    for source in dict.fromkeys(run.source for run in runs):
        print(f"- {source}")
    return 0


def _of(errors: list[Any]) -> str:
    return f"{len(errors)} runs, median {statistics.median(errors):.0%} off, {min(errors):.0%} to {max(errors):.0%}"
