"""What is written down of a cell that ran out of memory: its error, and what the frames below it could reach.

Text and numbers only: an exception, a frame or a tensor kept here would keep the GPU full, which is what `%vram free`
is there to end. Nothing of the user's is called: values are taken from `__dict__`, for a property may do anything.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import FrameType, GetSetDescriptorType, TracebackType
from typing import Any, Literal

from colab_magics.memory.facts import Facts, Sizes, Tensor
from colab_magics.memory.host import host_memory, process_limit
from colab_magics.memory.messages import Told, is_sticky, read
from colab_magics.plan import Setup

_MOST_TEXT = 4000  # characters
_MOST_FRAMES = 12
_MOST_TENSORS = 8
_MOST_LOCALS = 400  # of a frame
_LEAST_TENSOR = 2**20  # elements
_PASSED_ON = re.compile(r"Module\._(wrapped_)?call_impl:|^IPython\.")  # frames that say nothing

# A trainer's own arguments, by which its cell is corrected; nothing else of them is read.
_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "activation_checkpointing",  # what transformers 6 calls it
    "max_length",
    "max_seq_length",
    "packing",
    "optim",
    "fp16",
    "bf16",
)


@dataclass(frozen=True)
class FailedCell:
    """One cell that ran out of memory, or lost its connection to the GPU.

    Attributes
    ----------
    at : seconds since the epoch
    cell : its number, `In [cell]`; 0 where it has none
    message : what the error said
    frames, tensors : the innermost places, and the largest tensors that they could reach
    config : the sizes in the config of a model that they could reach
    arguments, step : of a trainer that they could reach
    fused_head : whether that is TRL's, of a version that never makes all logits
    attention : what the config calls its attention
    old_gpu : whether the card's compute capability is below 8.0
    adapters : whether the model is one of PEFT's
    batch : rows and tokens of the `input_ids`
    card, total : of the GPU, as far as torch was there to tell
    host : the machine's memory and what of it was free, when the cell had ended
    near : whether the config and the batch are what the code that failed reached
    process_limit : the name and the bytes of a limit that the system held the process to
    """

    at: float
    cell: int
    message: str
    frames: tuple[str, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    adapters: bool = False
    batch: tuple[int, int] | None = None
    card: str = ""
    total: int | None = None
    host: tuple[int, int] | None = None
    fused_head: bool = False
    attention: str = ""
    old_gpu: bool = False
    near: bool = True
    process_limit: tuple[str, int] | None = None

    @property
    def lost_context(self) -> bool:
        return is_sticky(self.message)

    def facts(self) -> Facts:
        """What is known of it, as a diagnosis is asked."""
        told = read(self.message) or Told("host", backend="CPU")
        sizes = Sizes.of_config(self.config)
        rows, length = self.batch or (0, 0)
        shape = sizes.shape()
        setup = None
        if shape is not None and rows:
            half = self.arguments.get("bf16") is not False or self.arguments.get("fp16") is True or sizes.quantised
            setup = Setup(
                ("qlora" if sizes.quantised else "lora") if self.adapters else "full",
                "fp16" if half else "fp32",
                str(self.arguments.get("optim", "adamw_torch")),
                rows,
                length,
                True in (self.arguments.get("gradient_checkpointing"), self.arguments.get("activation_checkpointing")),
                rows * length,
                attention=self._attention(sizes),
                loss="trl" if self.fused_head else "logits",
            )
        return Facts(
            self.message,
            told,
            phase="",
            step=self.step,
            first=self.step == 0,
            frames=self.frames,
            tokens=(length,) * rows,
            in_memory=rows * length,
            sizes=sizes,
            shape=shape if self.arguments else None,
            setup=setup if self.arguments else None,
            tensors=self.tensors,
            arguments=self.arguments,
            card=self.card,
            total=self.total,
            host=self.host,
            near=self.near,
            process_limit=self.process_limit if told.on_host else None,
        )

    def _attention(self, sizes: Sizes) -> Literal["fused", "math", "eager"]:
        """An old GPU has no kernel for grouped heads, and torch then composes attention with all scores."""
        if self.attention == "eager":
            return "eager"
        return "math" if self.old_gpu and sizes.key_value < sizes.query else "fused"


def written_down(error: BaseException, cell: int) -> FailedCell:
    """What the error and its frames tell, as text and numbers."""
    places = list(_frames(error.__traceback__))
    found, inside = _Found(), False
    for frame, _ in reversed(places):
        # what a cell's own lines name is theirs, unless they had called a function that failed
        used = set(frame.f_code.co_names) if frame.f_locals is frame.f_globals else None
        for name, value in list(frame.f_locals.items())[:_MOST_LOCALS]:
            near = used is None or (name in used and not inside)
            with suppress(Exception):  # one object of the user's that cannot be looked at costs no more than itself
                found.take(name, value, near=near)
        inside = inside or (used is None and frame.f_globals.get("__name__") == "__main__")
    card, total, old = _card()
    return FailedCell(
        time.time(),
        cell,
        (str(error) or type(error).__name__)[:_MOST_TEXT],
        tuple(place for one in places if not _PASSED_ON.search(place := _place(*one)))[-_MOST_FRAMES:],
        tuple(sorted(found.tensors.values(), key=lambda one: -one.bytes)[:_MOST_TENSORS]),
        found.config,
        found.arguments,
        found.step,
        found.adapters,
        found.batch,
        card,
        total,
        _host(),
        found.fused_head,
        found.attention,
        old,
        found.near,
        process_limit(),
    )


class _Found:
    """What the frames' variables have told so far, the innermost first."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.config: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}
        self.step: int | None = None
        self.adapters = False
        self.fused_head = False
        self.attention = ""
        self.batch: tuple[int, int] | None = None
        self.near = True

    def take(self, name: str, value: Any, *, near: bool) -> None:
        """Look at a variable of a frame; `near` if the code that failed is what uses it."""
        tensor = _tensor(name, value)
        if tensor is not None:
            self._batch_of(tensor, near=near)
            if tensor.elements >= _LEAST_TENSOR:
                self.tensors.setdefault((name, tensor.shape), replace(tensor, near=near))
            return
        if name in ("inputs", "batch", "kwargs"):
            inputs = _tensor("input_ids", _entry(value, "input_ids"))
            if inputs is not None:
                self._batch_of(inputs, near=near)
        own = _own(value)
        if own is None:
            return
        self.adapters = self.adapters or type(value).__name__.startswith("Peft")
        if not self.config and (config := _config(own)):
            self.config, self.near = config, self.near and near
            self.attention = _attention(own)
        if not self.arguments and (arguments := _arguments(own)):
            self.arguments = arguments
            self.fused_head = _has_fused_head(type(value))
        self.step = _step(own) if self.step is None else self.step

    def _batch_of(self, tensor: Tensor, *, near: bool) -> None:
        if self.batch is None and tensor.name == "input_ids" and len(tensor.shape) == 2:
            self.batch, self.near = (tensor.shape[0], tensor.shape[1]), self.near and near


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """Each frame, and the line where the error passed it: after a `raise` in a handler the frame itself is further."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _place(frame: FrameType, line: int) -> str:
    code = frame.f_code
    module = str(frame.f_globals.get("__name__", "?"))
    module = "this notebook" if module == "__main__" else module
    return f"{module}.{getattr(code, 'co_qualname', code.co_name)}:{line}"


def _tensor(name: str, value: Any) -> Tensor | None:
    """Its name, shape and dtype, if it is a tensor of torch's or an array of NumPy's."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and issubclass(type(value), torch.Tensor):
        return Tensor(name, tuple(int(size) for size in value.shape), str(value.dtype).rpartition(".")[2])
    if numpy is not None and type(value) is numpy.ndarray:
        return Tensor(name, tuple(value.shape), str(value.dtype))
    return None


def _own(value: Any) -> dict[str, Any] | None:
    """An object's own attributes, if it keeps them as Python does; no code of its class is run."""
    for kind in type(value).__mro__:
        descriptor = kind.__dict__.get("__dict__")
        if descriptor is not None:
            own = descriptor.__get__(value) if type(descriptor) is GetSetDescriptorType else None
            return own if type(own) is dict else None
    return None


def _entry(value: Any, key: str) -> Any:
    """An entry of a dictionary, or of what wraps one (transformers' BatchEncoding)."""
    if issubclass(type(value), dict):
        return dict.get(value, key)
    data = (_own(value) or {}).get("data")
    return data.get(key) if type(data) is dict else None


_SIZES = (
    "vocab_size hidden_size n_embd d_model intermediate_size n_inner ffn_dim d_ff num_attention_heads n_head num_heads "
    "num_key_value_heads head_dim num_hidden_layers n_layer num_layers tie_word_embeddings"
).split()


def _config(own: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a model's config, if one is among the object's attributes, or of its `text_config`."""
    config = _own(own.get("config"))
    if config is None:
        return {}
    text = _own(config.get("text_config")) or config
    found = {key: text[key] for key in _SIZES if isinstance(text.get(key), int)}
    if not found.get("vocab_size") or not (found.keys() & {"hidden_size", "n_embd", "d_model"}):
        return {}
    if config.get("quantization_config") is not None:
        found["quantization_config"] = True
    return found


def _attention(own: dict[str, Any]) -> str:
    config = _own(own.get("config")) or {}
    name = config.get("_attn_implementation_internal", config.get("_attn_implementation"))
    return name if type(name) is str else ""


def _has_fused_head(trainer: type) -> bool:
    """Whether it is TRL's SFTTrainer (or made from it), in a version whose loss never makes all logits."""
    version = str(getattr(sys.modules.get("trl"), "__version__", "0"))
    numbers = tuple(int(one) for one in version.split(".")[:2] if one.isdecimal())
    return numbers >= (1, 16) and any(kind.__name__ == "SFTTrainer" for kind in trainer.__mro__)


def _arguments(own: dict[str, Any]) -> dict[str, Any]:
    """A trainer's arguments, if the object has some."""
    args = _own(own.get("args"))
    if args is None or "per_device_train_batch_size" not in args:
        return {}
    found = {key: args[key] for key in _ARGUMENTS if isinstance(args.get(key), int | str)}
    return {key: str(value.value) if hasattr(value, "value") else value for key, value in found.items()}


def _step(own: dict[str, Any]) -> int | None:
    step = (_own(own.get("state")) or {}).get("global_step")
    return step if type(step) is int else None


def _card() -> tuple[str, int | None, bool]:
    """The GPU's name and memory, and whether it is older than capability 8.0, if torch is here and uses one already."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return "", None, False
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return str(properties.name), int(properties.total_memory), properties.major < 8
    except Exception:
        return "", None, False


def _host() -> tuple[int, int]:
    """The machine's memory, and what of it was free."""
    memory = host_memory()
    return memory.total, memory.free
