"""How an estimate is shown: a verdict, a stacked bar, the parts as a table, and how it is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.magics.grid import Grid, Page
from colab_magics.memory.estimate import STATES, Estimate, peak
from colab_magics.memory.inference import Generating, cache_per_token
from colab_magics.memory.measured import Measured
from colab_magics.memory.prediction import Prediction, fixed_lengths
from colab_magics.panel.bands import Bar
from colab_magics.plan import DataFacts, ModelShape, Verdict, cap_for, fit, nearest_change
from colab_magics.recipe import Recipe
from colab_magics.sizes import size

VERDICTS = {"green": "fits", "amber": "should fit, with little to spare", "red": "does not fit"}
NO_KERNELS = "today's torch does not run on it"
_KERNELS = {
    "fused": "a memory-efficient kernel, with key and value repeated for every head; no scores are kept",
    "grouped": "flash attention, with key and value heads as they are; no scores are kept",
    "math": "torch's own composition: fp32 scores of heads × length × length in every layer",
    "eager": "the model's own code: scores of heads × length × length in every layer",
}
_LOSSES = {
    "hidden": "our head, at labelled positions, in chunks: the logits are never all there",
    "head": "the model's own head, at labelled positions at once",
}
PARTS = {
    "weights": "weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "copies": "16-bit copies of the weights",
    "activations": "activations",
    "attention": "attention scores",
    "dequantised": "a layer's weight, dequantised",
    "head": "head and loss",
}
_CACHE = (
    "Each token of context keeps {}: keys and values of {} layers. Training keeps none of this. The prompt: one of "
    "that length goes through at once. All: with margin and context.{}"
)
_NONE: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Estimated:
    """What `%vram estimate` gives: figures in bytes; it shows itself as the line did.

    Attributes
    ----------
    predictions : tuple of Prediction
        The best that is known, for each device.
    formula : tuple of Prediction
        The same by the closed formula.
    peers : tuple of mapping
        What others' way takes, by name, for each device.
    seen : Measured, optional
        What the run's worker has measured.
    untraced : str
        Why there is no trace, where one was wanted.
    lengths : array of int, optional
        Of the documents, where there are any.
    unsupported : frozenset of str
        Names of cards that today's torch has no kernels for.
    """

    recipe: Recipe
    shape: ModelShape
    verdict: Verdict
    predictions: tuple[Prediction, ...]
    formula: tuple[Prediction, ...]
    peers: tuple[Mapping[str, Estimate], ...] = _NONE
    seen: Measured | None = None
    untraced: str = ""
    title: str = ""
    others: tuple[Prediction, ...] = _NONE
    note: str = ""
    lengths: npt.NDArray[np.int32] | None = None
    unsupported: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Plain values: for each device the parts, the peak, what is needed and what there is, in bytes."""
        return {"model": self.recipe.model, "devices": [made.to_dict() for made in self.predictions]}

    def page(self) -> Page:
        """All of it."""
        name, first = self.title or self.recipe.model, self.predictions[0]
        return Page(
            name if len(self.predictions) > 1 else f"{name}: {_trained(first)}",
            [_sentence(made, self.unsupported) for made in self.predictions],
            [*self._parts(), *self._beside(), *self._elsewhere()],
            [*self._foot()],
            [_bar(made) for made in self.predictions],
        )

    def _parts(self) -> Iterator[Grid]:
        several = len(self.predictions) > 1
        for made in self.predictions:
            title = f"{made.device.shown}: {_trained(made)}" if several else ""
            yield Grid(("", "size", ""), tuple(_part_rows(made)), title, whole=("size",))

    def _beside(self) -> Iterator[Grid]:
        for made, theirs in zip(self.predictions, self.peers, strict=False):
            rows = [("colab_magics", size(made.parts.peak), *_largest(made.parts))]
            rows += [(name, size(parts.peak), *_largest(parts)) for name, parts in theirs.items()]
            yield Grid(
                ("the same documents at once", "peak", "most of it", "then"),
                tuple(rows),
                f"Beside others, on {with_article(made.device.name)}",
                whole=("peak",),
            )

    def _elsewhere(self) -> Iterator[Grid]:
        if self.others:
            rows = tuple(_card_row(made) for made in self.others)
            yield Grid(("card", "verdict", "needs", "trained as"), rows, "On other cards, by formula", whole=("needs",))

    def _foot(self) -> Iterator[str]:
        made, formula = self.predictions[0], self.formula[0]
        ways = dict.fromkeys(map(_way, self.predictions))
        for way in ways:
            on = [one.device.name for one in self.predictions if _way(one) == way]
            yield f"On {', '.join(map(with_article, on))}: {way[0].lower()}{way[1:]}" if len(ways) > 1 else way
        for paged in [one for one in self.predictions if _is_paged(one)][:1]:
            chosen = paged.plan.choices["optim"]
            yield (
                f"Optimizer: {chosen.value} ({chosen.reason}). Its states, about {size(self._states(paged))}, are in "
                "managed memory: the driver moves them to the host where the card is full."
            )
        if any(one.parts.copies > one.parts.peak / 50 for one in self.predictions):
            yield "Autocast copies each fp32 weight to 16 bit, whatever the length: shorter texts do not change that."
        yield self._known(made, formula)
        if self.note:
            yield self.note
        for other in self.predictions:
            if other.fit.colour == "red":
                yield self._way_out(other)

    def _states(self, made: Prediction) -> int:
        """Of a paged optimizer, wherever they are: two of each weight that is trained, in 8 bits or in fp32."""
        full = made.plan["method"] == "full"
        trained = self.shape.parameters if full else self.shape.lora_parameters + self.shape.saved_parameters
        return round(trained * (STATES["adamw_8bit"] if "8bit" in str(made.plan["optim"]) else 8))

    def _way_out(self, made: Prediction) -> str:
        lengths = fixed_lengths(made.setup.length) if self.lengths is None else self.lengths
        held = np.minimum(lengths, made.plan["max_length"]).astype(np.int32)
        data = DataFacts(held, 0, made.plan.choices["max_length"])
        change = nearest_change(self.recipe, self.shape, made.device, data, self.verdict, peak)
        if change is not None and self.lengths is None:
            change = replace(change, cut=0)  # there are no documents yet that it could cut
        where = f"On {with_article(made.device.name)}"
        found = made.fit
        empty = fit(made.parts.peak, replace(made.device, free=made.device.total), cap=made.cap)
        if found.held and empty.colour != "red":
            given_back = f"once the {size(found.held)} held there is given back (%vram says by whom)"
            return f"{where} it fits {given_back}, or with {change}." if change else f"{where} it fits {given_back}."
        if change is not None:
            return f"{where} it fits with {change}."
        if made.cap is not None and fit(made.parts.peak, made.device).colour != "red":
            return f"{where} it fits with max_memory: {cap_for(found.peak)}."
        return f"{where} nothing that a recipe can say makes it fit."

    def _known(self, made: Prediction, formula: Prediction) -> str:
        if made.tier == 2 and self.seen is not None:
            seen = self.seen
            return (
                f"Measured by its worker: {size(seen.peak)} at step {seen.step}, with {seen.in_memory:,} tokens in "
                f"memory; this is what the plan's {_tokens(made):,} will take. By formula {size(formula.parts.peak)}."
            )
        if made.tier == 1:
            return (
                f"Traced: the model's own code on tensors without numbers; the peak is at: {made.moment}. By formula "
                f"{size(formula.parts.peak)}. {_margin(made)}"
            )
        why = f" It could not be traced: {self.untraced}." if self.untraced else ""
        return f"By formula, within {made.error:.0%}.{why} {_margin(made)}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.page().bundle()

    def __repr__(self) -> str:
        return self.page().text()


@dataclass(frozen=True)
class Inference:
    """What `%vram estimate --inference` gives; bytes."""

    model: str
    method: str
    shape: ModelShape
    rows: tuple[Generating, ...] = field(default=_NONE)
    unsupported: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in bytes."""
        names = ("context", "batch", "weights", "cache", "working", "peak")
        return {
            "model": self.model,
            "rows": [
                {**{name: getattr(row, name) for name in names}, "device": row.device.name, "verdict": row.fit.colour}
                for row in self.rows
            ],
        }

    def page(self) -> Page:
        """One row a context."""
        several = len({row.device.name for row in self.rows}) > 1
        rows = tuple(
            (
                f"{row.context:,}",
                row.device.name if several else "",
                size(row.weights),
                size(row.cache),
                size(row.working),
                size(row.fit.need),
                VERDICTS[row.fit.colour] if row.device.name not in self.unsupported else NO_KERNELS,
            )
            for row in self.rows
        )
        first = self.rows[0]
        kept = "4 bits" if self.method == "qlora" else "fp32" if first.device.kind == "cpu" else "16 bit"
        at_once = f"{first.batch} sequences at once" if first.batch > 1 else "one sequence"
        wide = 4 if first.device.kind == "cpu" else 2
        seen = self.shape.window
        slides = seen is not None and self.shape.sliding_layers > 0
        window = (
            f" {self.shape.sliding_layers} layers keep {seen:,} tokens at most; what their windows cut off a prompt is "
            "there until the next token, and counted with the prompt."
            if slides
            else ""
        )
        return Page(
            f"{self.model}: generating, weights in {kept}, {at_once}",
            [f"On {with_article(first.device.shown)}"] if not several else [],
            [Grid(("context, in tokens", "on", "weights", "KV cache", "the prompt", "all", "verdict"), rows)],
            [_CACHE.format(size(cache_per_token(self.shape, wide)), self.shape.layers, window)],
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.page().bundle()

    def __repr__(self) -> str:
        return self.page().text()


def _trained(made: Prediction) -> str:
    plan, setup = made.plan, made.setup
    at_once = f"{setup.documents} document{'s' if setup.documents > 1 else ''} of {setup.length:,} tokens at once"
    checkpointing = ", gradient checkpointing" if setup.gradient_checkpointing else ""
    return f"{plan['method']}, {plan['precision']}, {at_once}{checkpointing}"


def _way(made: Prediction) -> str:
    # flash attention takes no mask: packed documents go through the other kernel
    masked = _is_masked(made)
    kernel = _KERNELS["fused" if masked else made.setup.attention]
    mask = ", but a mask that keeps the documents of a row apart" if masked else ""
    return f"Attention: {kernel}{mask}. Loss: {_LOSSES.get(made.setup.loss, made.setup.loss)}."


def _margin(made: Prediction) -> str:
    itself = "what CUDA itself takes" if made.device.kind == "cuda" else "what the libraries take"
    return f"Margin: holes between tensors, and {itself}."


def _is_masked(made: Prediction) -> bool:
    """Whether what attention keeps is a mask: only these kernels have no scores."""
    return made.setup.attention in ("fused", "grouped") and made.parts.attention > 0


def _is_paged(made: Prediction) -> bool:
    return str(made.plan["optim"]).startswith("paged_") and made.device.kind == "cuda"


def _tokens(made: Prediction) -> int:
    return made.setup.documents * made.setup.length


def _sentence(made: Prediction, unsupported: Collection[str] = ()) -> str:
    found = made.fit
    begin = "It"
    if made.device.name in unsupported:
        begin = f"Today's torch has no kernels for {with_article(made.device.name)}. By memory alone it"
    held = f", {size(found.held)} of it held by others already" if found.held > 2**28 else ""
    if found.capped:
        itself = "CUDA itself takes" if made.device.kind == "cuda" else "the process itself needs"
        left = f"that max_memory leaves ({size(found.cap)} + {size(found.context)} that {itself})"
        return (
            f"{begin} {VERDICTS[found.colour]} ({found.colour}): {size(found.need)} of the {size(found.room)} {left} "
            f"on {with_article(made.device.name)}."
        )
    return (
        f"{begin} {VERDICTS[found.colour]} ({found.colour}): {size(found.need)} of the {size(found.total)} of "
        f"{with_article(made.device.name)}{held}."
    )


def with_article(name: str) -> str:
    """`a Tesla T4`, but `an A100` and `an RTX 4090`: an abbreviation is read letter by letter."""
    word = name.partition(" ")[0]
    return f"{'an' if word == word.upper() and word.startswith(tuple('AEFHILMNORSX')) else 'a'} {name}"


def _bar(made: Prediction) -> Bar:
    parts, found = made.parts, made.fit
    bands = (
        ("model", float(parts.weights + parts.adapters + parts.copies)),
        ("trained", float(parts.gradients + parts.optimizer)),
        ("activations", float(parts.activations + parts.attention + parts.dequantised + parts.head)),
        ("margin + CUDA" if made.device.kind == "cuda" else "margin + libraries", float(found.holes + found.context)),
        ("others", float(found.held)),
    )
    label = f"{made.device.name}: {size(found.need + found.held)} of {size(found.total)}"
    return Bar(label, float(found.total), tuple(band for band in bands if band[1]))


def _part_rows(made: Prediction) -> Iterator[tuple[str, str, str]]:
    found = made.fit
    for name, label in PARTS.items():
        amount = getattr(made.parts, name)
        if amount or (name == "optimizer" and _is_paged(made)):
            masks = name == "attention" and _is_masked(made)
            note = str(made.plan["optim"]) if name == "optimizer" else ""
            if name == "optimizer" and _is_paged(made):
                note += ", the rest in managed memory"
            yield "attention masks" if masks else label, size(amount), note
    yield "peak of torch's allocator", size(made.parts.peak), ""
    yield "margin", size(found.holes), "holes between tensors"
    yield "context", size(found.context), "CUDA itself" if made.device.kind == "cuda" else "the libraries"
    if found.cap is not None:
        yield "may take", size(found.room), f"max_memory {size(found.cap)}, for tensors, and the context"
    if found.held > 2**20:
        yield "others", size(found.held), "held there already: %vram shows by whom"
    yield "all", size(found.need + found.held), f"of {size(found.total)}"


def _largest(parts: Estimate) -> tuple[str, str]:
    amounts = sorted(((getattr(parts, name), label) for name, label in PARTS.items()), reverse=True)
    first, second = amounts[:2]
    return f"{first[1]} {size(first[0])}", f"{second[1]} {size(second[0])}"


def _card_row(made: Prediction) -> tuple[str, ...]:
    found, plan = made.fit, made.plan
    ways: Sequence[str] = [plan["method"], plan["precision"], f"{made.setup.documents} at once"]
    checkpointing = ["checkpointing"] if plan["gradient_checkpointing"] else []
    whole = f"{size(found.room)} by max_memory" if found.capped else size(found.total)
    need = f"{size(found.need)} of {whole}"
    return made.device.name, VERDICTS[found.colour], need, ", ".join([*ways, *checkpointing])
