"""One training, on paper: how it is predicted by formula, and how it is traced; traces are kept in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from models import config_of, hf_config

from colab_magics.magics.vram_devices import card
from colab_magics.memory.architecture import shape_of, usual_verdict
from colab_magics.memory.estimate import Estimate, estimate
from colab_magics.memory.prediction import Prediction, fixed_lengths, peers, predict
from colab_magics.plan import Device, ModelShape, Setup
from colab_magics.recipe import Recipe, parse
from colab_magics.run import cache_folder
from colab_magics.session.table import load_table

HOME = Path(__file__).resolve().parents[2]
KEPT = cache_folder() / "benchmarks" / "memory"
CPU = Device("cpu", "CPU", 2**35, 2**35, 2**35)
# what an old trace depends on: with any of it changed it is made anew
_SOURCES = [
    *(
        HOME / "colab_magics" / "training" / f"{name}.py"
        for name in ("attention", "batches", "layers", "loss", "model")
    ),
    *(
        HOME / "colab_magics" / "training" / "tracing" / f"{name}.py"
        for name in ("cuda", "experts", "extrapolate", "four_bit", "ledger", "peers", "scene")
    ),
]


@dataclass(frozen=True)
class Case:
    """A training of which the peak is asked.

    Attributes
    ----------
    device : str
        A card of our table, or `cpu`.
    kernel : str
        `math` or `eager`, in place of the attention that the plan takes.
    peer : str
        One of `prediction.peers`, in place of our own way.
    """

    model: str
    method: str
    documents: int
    length: int
    checkpointing: bool
    device: str = "T4"
    packed: bool = False
    kernel: str = ""
    optim: str = "adamw_torch_fused"
    rank: int = 16
    peer: str = ""

    @property
    def recipe(self) -> Recipe:
        given = {
            "model": self.model,
            "data": "none",
            "method": self.method,
            "per_device_train_batch_size": str(self.documents),
            "effective_batch_size": str(max(16, self.documents)),
            "max_length": str(self.length),
            "gradient_checkpointing": str(self.checkpointing).lower(),
            "optim": self.optim,
            "r": str(self.rank),
        }
        if not self.packed:
            given["packing"] = "false"
        return parse("", given).recipe

    @property
    def on(self) -> Device:
        return CPU if self.device == "cpu" else card(self.device, load_table())

    @property
    def shape(self) -> ModelShape:
        return _shape(self.model, self.rank, self.method == "full")

    @property
    def planned(self) -> Prediction:
        """Tier 0, for the plan that a run of this recipe would get; or with the attention that is asked for."""
        shape = self.shape
        made = predict(shape, usual_verdict(shape), self.recipe, self.on, fixed_lengths(self.length))
        setup = made.setup
        if self.peer:
            setup = replace(peers(setup, shape, self.on)[self.peer], gradient_checkpointing=self.checkpointing)
        if self.kernel:
            setup = replace(setup, attention=self.kernel)  # type: ignore[arg-type]
        return replace(made, setup=setup, parts=estimate(shape, setup))

    @property
    def implementation(self) -> str:
        """What transformers is told to attend with."""
        if self.kernel or self.peer:
            return {"eager": "eager"}.get(self.kernel, "sdpa")
        return str(self.planned.plan["attention"])


@cache
def _shape(model: str, rank: int, full: bool) -> ModelShape:
    return shape_of(config_of(model), r=rank, full=full)


@dataclass(frozen=True)
class Traced:
    """The peak of a trace: when it is, and of what."""

    moment: str
    parts: Estimate

    @property
    def peak(self) -> int:
        return self.parts.peak


def traced(case: Case) -> Traced:
    """Tier 1: from the folder of traces, or made now."""
    planned = case.planned
    kept = KEPT / f"{_key(case, planned.setup)}.json"
    if kept.exists():
        told = json.loads(kept.read_text(encoding="utf-8"))
        return Traced(told["moment"], Estimate(**told["parts"]))
    made = _trace(case, planned.setup)
    kept.parent.mkdir(parents=True, exist_ok=True)
    staged = kept.with_suffix(".tmp")
    staged.write_text(json.dumps({"moment": made.moment, "parts": asdict(made.parts)}), encoding="utf-8")
    staged.replace(kept)
    return made


def traces(cases: Sequence[Case], processes: int = 1) -> Iterator[tuple[Case, Traced]]:
    """All of them, as they come; with several processes not in order."""
    if processes == 1:
        for case in cases:
            yield case, traced(case)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(traced, case): case for case in cases}
        for done in as_completed(asked):
            yield asked[done], done.result()


def _trace(case: Case, setup: Setup) -> Traced:
    import warnings

    from transformers.utils import logging

    from colab_magics.training.tracing.extrapolate import peak_of, whole
    from colab_magics.training.tracing.scene import Case as Scene
    from colab_magics.training.tracing.scene import trace

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    config, device = hf_config(case.model), case.on
    scene = Scene(config, case.recipe, setup, case.implementation, device.kind, device.capability)
    moment, parts = peak_of(whole(config, lambda layers: trace(scene, layers)))
    names = Estimate.__dataclass_fields__
    assert parts.keys() <= names.keys(), parts
    return Traced(moment, Estimate(**{name: parts.get(name, 0) for name in names}))


def _key(case: Case, setup: Setup) -> str:
    libraries = [version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")]
    capability = case.on.capability
    text = json.dumps([libraries, config_of(case.model), asdict(setup), case.implementation, capability, case.rank])
    return hashlib.sha256(text.encode() + _sources()).hexdigest()[:32]


@cache
def _sources() -> bytes:
    return hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).digest()


def show_progress(done: int, of: int, what: str) -> None:
    """One line on stderr, which the next one replaces."""
    import sys

    if sys.stderr.isatty() or done % 10 == 0 or done == of:
        print(
            f"  {done} of {of}: {what:70.70s}", end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True
        )


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def gib(number: float) -> str:
    return f"{number / 2**30:.2f}"
