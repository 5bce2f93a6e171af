"""`%vram estimate net --batch x`: what training any torch module of this notebook takes, against each card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics.grid import Grid, Page
from colab_magics.magics.vram_devices import card, devices, unsupported
from colab_magics.magics.vram_estimate_failed import refusal, untraced
from colab_magics.magics.vram_estimate_line import Asked
from colab_magics.magics.vram_estimate_show import NO_KERNELS, VERDICTS, with_article
from colab_magics.memory.kept import OWN_NAMES
from colab_magics.panel.bands import Bar
from colab_magics.plan import Device, Fit, fit
from colab_magics.session.table import Table
from colab_magics.sizes import size

_LABELS = {
    "weights": "weights and buffers",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "step": "temporaries of the optimizer's step",
    "batch": "batch",
    "kept": "kept beside it",
    "copies": "16-bit copies of the weights",
    "activations": "activations",
}
_SPREAD = ("DataParallel", "DistributedDataParallel")
_AUTOCAST = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class OnCard:
    """One card: the parts of the peak in bytes, when it is, and whether it fits."""

    device: Device
    parts: Mapping[str, int]
    moment: str

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def fit(self) -> Fit:
        return fit(self.peak, self.device)


@dataclass(frozen=True)
class ModuleEstimate:
    """What the line gives; bytes. `untraced` says why activations are missing, where they are; `workspaces` names what
    has kernels that take memory for themselves."""

    name: str
    kind: str
    parameters: int
    how: str
    cards: tuple[OnCard, ...]
    untraced: str = ""
    workspaces: tuple[str, ...] = ()
    unsupported: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in bytes."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "cards": [
                {
                    "device": asdict(one.device),
                    "parts": dict(one.parts),
                    "peak": one.peak,
                    "need": one.fit.need,
                    "verdict": one.fit.colour if not self.untraced or one.fit.colour == "red" else None,
                    "moment": one.moment,
                }
                for one in self.cards
            ],
        }

    def page(self) -> Page:
        first = self.cards[0]
        rows = [(_LABELS[name], size(amount)) for name, amount in first.parts.items() if amount]
        rows.append(("peak of torch's allocator", size(first.peak)))
        least = "at least " if self.untraced else ""
        by_card = tuple(
            (one.device.name, size(one.device.total), f"{least}{size(one.fit.need)}", self._verdict(one))
            for one in self.cards
        )
        itself = "CUDA itself" if any(one.device.kind == "cuda" for one in self.cards) else "the libraries"
        grids = [
            Grid(("", "size"), tuple(rows), f"By component, on {with_article(first.device.name)}", whole=("size",)),
            Grid(("card", "it has", "needs", "verdict"), by_card, f"On each card, with holes and {itself}"),
        ]
        title = f"{self.name}: {self.kind}, {self.parameters:,} parameters, {self.how}"
        return Page(title, [], grids, [*self._foot()], [_bar(first)])

    def _verdict(self, one: OnCard) -> str:
        if self.untraced and one.fit.colour != "red":
            return "not known: activations are missing"
        return VERDICTS[one.fit.colour] if one.device.name not in self.unsupported else NO_KERNELS

    def _foot(self) -> Iterator[str]:
        if self.untraced:
            yield f"{self.untraced}: activations are missing from all of this."
        else:
            yield (
                "Traced: the module's own code on tensors without numbers, two steps of it; the peak is in the "
                f"{self.cards[0].moment}. What the loop around it holds is not in it: name it with --keep."
            )
        if self.workspaces:
            yield (
                f"It has {' and '.join(self.workspaces)}: what their kernels take for themselves is not in it. On a "
                "CPU, convolutions took up to 60% more than is said here, and an LSTM several times as much."
            )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.page().bundle()

    def __repr__(self) -> str:
        return self.page().text()


def estimate_module(asked: Asked, module: Any, namespace: Mapping[str, Any], table: Table) -> ModuleEstimate:
    """Trace a training step of the module.

    Raises
    ------
    ColabMagicsError
        A variable that is not there or cannot be used; an option that has no meaning for a module.
    """
    from colab_magics.training.tracing.module import Failed, Step, Traced, bytes_of, trace_module

    _check(asked)
    if asked.batch is None:
        raise ColabMagicsError(
            f"{asked.name} is a module, and --batch is missing.",
            "What training takes depends on what goes in.",
            f"Write %vram estimate {asked.name} --batch x, where x is a tensor, a tuple of arguments or a dict.",
        )
    batch = _variable(asked.batch, namespace, "--batch")
    _check_module(asked, module)
    optimizer = _optimizer(asked, namespace)
    _check_weights(asked, optimizer, module)
    loss = _variable(str(asked.recipe["loss"]), namespace, "--loss") if "loss" in asked.recipe else None
    dtype, precision = _autocast(asked)
    step = Step(module, batch, optimizer, loss, dtype)
    kept = bytes_of(*(_variable(name, namespace, "--keep") for name in asked.keep))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    targets = devices(asked.gpus, table) or _all_cards(table)
    traced: dict[tuple[bool, bool], Traced] = {}
    why, workspaces = "", dict[str, None]()
    cards = []
    for device in targets:
        kind = device.kind == "cuda", (device.capability or (0, 0)) >= (8, 0)
        if kind not in traced and not why:
            try:
                traced[kind] = trace_module(step, device.capability if device.kind == "cuda" else None)
            except Failed as failed:
                refused = refusal(asked, failed)
                if refused is not None:
                    raise refused from None
                why = untraced(failed)
        if (found := traced.get(kind)) is not None:
            moment = max(found.moments, key=lambda name: sum(found.moments[name].values()))
            parts = {name: found.moments[moment].get(name, 0) for name in _LABELS}
            workspaces |= dict.fromkeys(found.workspaces)
        else:
            moment, parts = "optimizer", _without_activations(module, trainable, batch, bytes_of)
        cards.append(OnCard(device, {**parts, "kept": kept}, moment))
    how = f"{precision}, {optimizer if isinstance(optimizer, str) else type(optimizer).__name__}"
    number = sum(parameter.numel() for parameter in module.parameters())
    name, kind_of = str(asked.name), type(module).__name__
    return ModuleEstimate(name, kind_of, number, how, tuple(cards), why, tuple(workspaces), unsupported(targets, table))


def _without_activations(module: Any, trainable: list[Any], batch: Any, bytes_of: Any) -> dict[str, int]:
    """What can be counted without running anything; Adam's two states are assumed."""
    gradients = bytes_of(*trainable)
    weights = bytes_of(*module.parameters(), *module.buffers())
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": 2 * gradients,
        "step": 0,
        "batch": bytes_of(batch),
        "kept": 0,
        "copies": 0,
        "activations": 0,
    }


def _all_cards(table: Table) -> list[Device]:
    """Every card of the table that today's torch runs on, the smallest first."""
    usable = [key for key, one in table.accelerators.items() if one.supported and one.capability is not None]
    return sorted((card(key, table) for key in usable), key=lambda device: device.total)


def _check(asked: Asked) -> None:
    known = {"precision", "loss"}
    wrong = [name for name in asked.recipe if name not in known]
    wrong += [name for name in ("compare", "inference", "quick") if getattr(asked, name)]
    if asked.context is not None:
        wrong.append("context")
    if wrong:
        raise ColabMagicsError(
            f"--{wrong[0].replace('_', '-')} has no meaning for a module of your own.",
            f"{asked.name} is a torch module of this notebook, and no recipe.",
            "It takes --batch, --optimizer, --loss, --precision, --keep and --gpu.",
        )


def _check_module(asked: Asked, module: Any) -> None:
    if type(module).__name__ in _SPREAD and hasattr(module, "module"):
        raise ColabMagicsError(
            f"{asked.name} is a {type(module).__name__}.",
            "It spreads a batch over cards; what one of them takes is its module's, with its part of the batch.",
            f"Write inner = {asked.name}.module, then %vram estimate inner --batch {asked.batch}.",
        )


def _check_weights(asked: Asked, optimizer: Any, module: Any) -> None:
    if isinstance(optimizer, str):
        return
    own = {id(parameter) for parameter in module.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ColabMagicsError(
            f"--optimizer {asked.optimizer} has none of the weights of {asked.name}.",
            "It was made of another module's parameters, or of these before they were exchanged.",
            f"Make it of {asked.name}.parameters(), or write --optimizer adamw.",
        )


def _variable(name: str, namespace: Mapping[str, Any], option: str) -> Any:
    if name in namespace:
        return namespace[name]
    close = nearest(name, [one for one in namespace if not one.startswith("_") and not OWN_NAMES.fullmatch(one)])
    raise ColabMagicsError(
        f"{option} {name}: there is no such variable.",
        "It names a variable of this notebook.",
        f"Did you mean {close}?" if close else "Run the cell that makes it first.",
    )


def _optimizer(asked: Asked, namespace: Mapping[str, Any]) -> Any:
    from torch.optim import Optimizer

    from colab_magics.training.tracing.module import OPTIMIZERS

    if asked.optimizer is None:
        return "adamw"
    found = namespace.get(asked.optimizer)
    if isinstance(found, Optimizer):
        return found
    if asked.optimizer.lower() in OPTIMIZERS:
        return asked.optimizer.lower()
    word = asked.optimizer.rpartition(".")[2]
    mine = [key for key, one in namespace.items() if isinstance(one, Optimizer)]
    close = nearest(asked.optimizer, [*mine, *OPTIMIZERS]) or nearest(word, OPTIMIZERS)
    raise ColabMagicsError(
        f"--optimizer {asked.optimizer} is no optimizer.",
        f"It is a variable that holds one, or {', '.join(OPTIMIZERS)}.",
        f"Did you mean {close}?" if close else "Write --optimizer adamw, or the name of a variable that holds one.",
    )


def _autocast(asked: Asked) -> tuple[Any, str]:
    """(dtype of autocast or None, how it is said)."""
    import torch

    given = str(asked.recipe.get("precision", "fp32"))
    if given not in _AUTOCAST:
        raise ColabMagicsError(
            f"--precision {given} is not known.", f"It is one of {', '.join(_AUTOCAST)}.", "Leave it out for fp32."
        )
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}[given]
    return dtype, f"{given} autocast" if dtype is not None else "as it is, without autocast"


def _bar(made: OnCard) -> Bar:
    parts, found = made.parts, made.fit
    bands = (
        ("weights", float(parts["weights"])),
        ("trained", float(parts["gradients"] + parts["optimizer"] + parts["step"])),
        ("activations", float(sum(parts[name] for name in ("copies", "activations", "batch", "kept")))),
        ("margin + CUDA" if made.device.kind == "cuda" else "margin + libraries", float(found.holes + found.context)),
    )
    return Bar(f"{made.device.name}", float(found.total), bands)
