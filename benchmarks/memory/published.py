"""Predictions against what others have measured, on GPUs, with their own code, and published.

They print torch's *reserved* memory: what the allocator has taken from the driver, with its holes, and with whatever
loading took at its highest point. Predicted is what is *allocated*. Nobody has published the length of a run's longest
document; where they are Alpaca's it is put at 768 tokens, elsewhere at what the run was cut or packed to.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cases import Case, show_progress, table, traces
from models import config_of

from colab_magics.memory.estimate import Estimate

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
    release: str

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


@dataclass(frozen=True)
class Row:
    """A run beside its predictions. GiB."""

    run: Published
    theirs: Estimate
    ours: Estimate

    @property
    def still(self) -> float:
        """What is there before the first step."""
        return (self.theirs.weights + self.theirs.adapters) / _GIB

    @property
    def base(self) -> float:
        """What a dynamic checkpoint keeps in 16 bit: only its start tells."""
        return self.run.start - self.still if self.run.dynamic and self.run.start is not None else 0.0

    @property
    def peak(self) -> float:
        return self.theirs.peak / _GIB + self.base

    @property
    def missing(self) -> float:
        """By how much what training adds to the start is higher than predicted."""
        assert self.run.start is not None
        return self.run.peak - self.run.start - (self.theirs.peak / _GIB - self.still)

    @property
    def cells(self) -> tuple[str, ...]:
        run, mark = self.run, "†" if self.base else ""
        start = ("-", "-") if run.start is None else (f"{run.start:.2f}", f"{self.still / run.start - 1:+.0%}")
        rank = "all weights" if run.method == "full" else f"r {run.rank}"
        return (
            f"{run.by} {run.release}".strip(),
            run.what,
            f"{rank}, {run.documents} × {run.length:,}",
            start[0],
            f"{self.still:.2f}",
            start[1],
            f"{run.peak:.2f}",
            f"{self.peak:.2f}{mark}",
            f"{self.peak / run.peak - 1:+.0%}",
            f"{self.ours.peak / _GIB + self.base:.2f}{mark}",
        )


def main(*, processes: int = 1) -> int:
    runs = published()
    wanted = list(dict.fromkeys([case for run in runs for case in (run.ours, run.theirs)]))
    found = {}
    for number, (case, one) in enumerate(traces(wanted, processes), 1):
        found[case] = one.parts
        show_progress(number, len(wanted), str(case))
    rows = [Row(run, found[run.theirs], found[run.ours]) for run in runs]
    heads = ("by", "run", "at once", "start", "weights + adapters", "error", "peak", "predicted", "error", "our way")
    print(table(heads, [row.cells for row in rows]))
    print("\n† counted from the published start: the checkpoint keeps layers in 16 bit\n")
    starts = [row for row in rows if row.run.start is not None and not row.run.dynamic]
    below = [row.run.start - row.still for row in starts]
    print(f"weights + adapters are below the start by {min(below):.2f} to {max(below):.2f} GiB, in the median of "
          f"{len(below)} runs by {statistics.median(below):.2f}; † not counted")  # fmt: skip
    old = [row for row in rows if row.run.release.startswith("2024")]
    for name, part in (
        ("Unsloth's releases of 2024", old),
        ("its later ones", [row for row in rows if row.run.release and row not in old]),
        ("TRL's and axolotl's stored runs", [row for row in rows if not row.run.release and row.run.start is not None]),
        ("TRL's list", [row for row in rows if row.run.start is None]),
    ):
        errors = [row.peak / row.run.peak - 1 for row in part]
        shown = f"{min(errors):+.0%} to {max(errors):+.0%}"
        print(f"peaks of {name}: {len(part)}, off by {shown}, median size {statistics.median(map(abs, errors)):.0%}")
    print("\nof Unsloth's releases of 2024, what of the peak is missing beside the start\n")
    print(table(("run", "vocabulary", "missing, GiB", "bytes a token and word"), list(_missing(old))))
    print("\nnotes")
    for run in runs:
        if run.note:
            print(f"- {run.by}, {run.what}: {run.note}")
    print("\nsources")
    for source in dict.fromkeys(run.source for run in runs):
        print(f"- {source}")
    return 0


def _missing(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Logits that are all there take a few bytes for each token and word."""
    for row in rows:
        if row.run.checkpointing and "gemma" not in row.run.model:
            words = config_of(row.run.model)["vocab_size"]
            each = row.missing * _GIB / (row.run.documents * row.run.length * words)
            yield row.run.what, f"{words:,}", f"{row.missing:.2f}", f"{each:.1f}"
