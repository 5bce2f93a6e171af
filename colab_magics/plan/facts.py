"""What a plan is made of: the device, the model's sizes, the data's, what a probe found, and the choices themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

GIB = 2**30
_Kind = TypeVar("_Kind")


def from_log(kind: type[_Kind], told: Mapping[str, Any]) -> _Kind:
    """One of these values as a run has logged it; what a later version may have added is skipped."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in told.items() if name in known})


@dataclass(frozen=True)
class Device:
    """Where the worker trains, as the driver sees it. Bytes; `free` is what this process may still take."""

    kind: str  # "cpu" or "cuda"
    name: str
    total: int
    free: int
    host_free: int
    capability: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.capability is not None:
            object.__setattr__(self, "capability", tuple(self.capability))  # JSON has lists

    @property
    def shown(self) -> str:
        """Name and size, as a person reads them: `Tesla T4, 14.6 GiB`."""
        return f"{self.name}, {self.total / GIB:.1f} GiB"


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, read from its config before any weight is loaded.

    `linear_parameters` are the weights that 4-bit loading converts; `query` and `key_value` the widths of the
    attention projections, of `heads` and `kv_heads`; `weight_bytes` the size of a pre-quantised checkpoint's own
    weights.

    Attributes
    ----------
    head_parameters : int
        Of a head that shares its weights with nothing.
    gated : bool
        Whether the MLP multiplies two projections, as Llama's does.
    activation : str
        The MLP's function, by transformers' name for it.
    readers, adapted : tuple of float
        How many linears of a layer read the attention's input, its output, the MLP's input, its product (the mean over
        layers); and how many of them get an adapter.
    rank : int
        Of the adapters.
    dropouts : int
        How many of a layer's outputs are dropped from.
    attention_dropout : bool
        Whether attention scores are dropped from in training.
    window : int, optional
        How many tokens a token sees in the layers that see the fewest.
    sliding_layers : int
        How many layers these are.
    saved_parameters : int
        Of the modules that `modules_to_save` trains beside the adapters.
    saves_head : bool
        Whether the head is one of them.
    dora : bool
        Whether the adapters are DoRA's.
    """

    architecture: str
    parameters: int
    linear_parameters: int
    largest_linear: int
    lora_parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    vocabulary: int
    positions: int | None
    qk_norm: bool = False
    quantised: bool = False
    weight_bytes: int | None = None
    heads: int = 0
    kv_heads: int = 0
    head_parameters: int = 0
    gated: bool = True
    activation: str = "silu"
    readers: tuple[float, float, float, float] = (3.0, 1.0, 2.0, 1.0)
    adapted: tuple[float, float, float, float] = (3.0, 1.0, 2.0, 1.0)
    rank: int = 16
    dropouts: int = 0
    attention_dropout: bool = False
    window: int | None = None
    sliding_layers: int = 0
    saved_parameters: int = 0
    saves_head: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        for name in ("readers", "adapted"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists


@dataclass(frozen=True)
class Setup:
    """What an estimate is asked about: `documents` of `length` tokens in memory at once.

    Attributes
    ----------
    attention : str
        `fused`: a kernel whose memory is linear in the length, with key and value repeated for every head;
        `grouped`: the same with key and value as they are; `math`: torch's own composition, with fp32 scores of heads
        × length × length; `eager`: transformers' own code, with scores in 16 bit as well.
    lora_dropout : bool
        Whether an adapter's input is dropped from.
    adapter_bytes : int
        Of a trained weight: ours are fp32, TRL casts those of a quantised model to bf16.
    loss : str
        `hidden`: our head, in chunks of labelled rows; `head`: the model's own, on the labelled rows at once; `trl`:
        TRL's fused head; `logits`: all logits, as in transformers' Trainer.
    reference : bool
        Whether the untrained model lies beside the one that is trained.
    """

    method: str
    precision: str
    optim: str
    documents: int
    length: int
    gradient_checkpointing: bool
    loss_chunk: int
    packed: bool = False
    attention: Literal["fused", "grouped", "math", "eager"] = "fused"
    loss: Literal["hidden", "head", "trl", "logits"] = "hidden"
    lora_dropout: bool = False
    adapter_bytes: int = 4
    reference: bool = False


Estimate = Callable[[ModelShape, Setup], int]
"""Peak bytes on the device."""


@dataclass(frozen=True)
class DataFacts:
    """What the plan needs of the documents: their lengths after truncation, and how many are held out."""

    lengths: npt.NDArray[np.int32]
    eval_documents: int
    max_length: Choice


@dataclass(frozen=True)
class Verdict:
    """What a probe found out about an architecture. `attention`: "colab_magics", "sdpa" or "eager"."""

    attention: str
    attention_reason: str
    packing: bool
    packing_reason: str
    plain_head: bool
    plain_head_reason: str


@dataclass(frozen=True)
class Choice:
    """A value and why it was chosen."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """All choices of a run; `plan["micro_batch"]` is the value."""

    choices: Mapping[str, Choice]

    def __getitem__(self, key: str) -> Any:
        return self.choices[key].value

    def choosing(self, **choices: Choice) -> Plan:
        """This plan with some choices replaced."""
        return replace(self, choices={**self.choices, **choices})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """How a plan travels in its event: {key: {value, reason}}."""
        return {key: {"value": choice.value, "reason": choice.reason} for key, choice in self.choices.items()}

    @staticmethod
    def from_dict(choices: Mapping[str, Mapping[str, Any]]) -> Plan:
        """The plan that `to_dict` wrote."""
        return Plan({key: Choice(fields["value"], str(fields["reason"])) for key, fields in choices.items()})
