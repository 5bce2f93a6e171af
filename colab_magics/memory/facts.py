"""All that is known of one time that memory ran out, from whatever told it: a run's log, or a notebook's own cell.

Text and numbers only: nothing here keeps a tensor, a frame or an exception alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from colab_magics.memory.messages import Told
from colab_magics.plan import ModelShape, Setup

_ITEM = {"float64": 8, "int64": 8, "complex64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model by which an allocation is recognised; 0 is what is not known.

    `query` and `key_value` are the widths of the attention's projections, `heads` the number of query heads.
    """

    vocabulary: int = 0
    hidden: int = 0
    intermediate: int = 0
    query: int = 0
    key_value: int = 0
    heads: int = 0
    layers: int = 0
    quantised: bool = False
    tied: bool = False

    @staticmethod
    def of_shape(shape: ModelShape, method: str = "") -> Sizes:
        """Of a run's model. Its config told no number of heads: 128 wide ones are likeliest where 128 divides."""
        heads = getattr(shape, "heads", 0) or _heads(shape.query, shape.hidden)
        return Sizes(
            shape.vocabulary,
            shape.hidden,
            shape.intermediate,
            shape.query,
            shape.key_value,
            heads,
            shape.layers,
            quantised=method == "qlora" or shape.quantised,
        )

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> Sizes:
        """Of a transformers config's own values, under the names that model families give them."""

        def first(*names: str) -> int:
            found = (config.get(name) for name in names)
            return next((one for one in found if isinstance(one, int) and not isinstance(one, bool) and one > 0), 0)

        hidden = first("hidden_size", "n_embd", "d_model")
        heads = first("num_attention_heads", "n_head", "num_heads")
        width = first("head_dim") or (hidden // heads if heads else 0)
        groups = first("num_key_value_heads") or heads
        return Sizes(
            first("vocab_size"),
            hidden,
            first("intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden,
            heads * width,
            groups * width,
            heads,
            first("num_hidden_layers", "n_layer", "num_layers"),
            quantised=config.get("quantization_config") is not None,
            tied=config.get("tie_word_embeddings") is True,
        )

    def shape(self) -> ModelShape | None:
        """About the model that has these sizes, gated MLP and adapters of rank 16 on all linear layers supposed."""
        h, i, q, kv = self.hidden, self.intermediate, self.query, self.key_value
        if not all((self.vocabulary, h, i, q, kv, self.layers)):
            return None
        linear = self.layers * (h * q + 2 * h * kv + q * h + 3 * h * i)
        adapters = self.layers * 16 * ((h + q) * 2 + (h + kv) * 2 + (h + i) * 3)
        return ModelShape(
            architecture="",
            parameters=linear + self.vocabulary * h * (1 if self.tied else 2),
            linear_parameters=linear,
            largest_linear=h * max(i, q),
            lora_parameters=adapters,
            layers=self.layers,
            hidden=h,
            intermediate=i,
            query=q,
            key_value=kv,
            vocabulary=self.vocabulary,
            positions=None,
        )


def _heads(query: int, hidden: int) -> int:
    for width in (64, 128) if hidden <= 2048 else (128, 64):
        if query and query % width == 0:
            return query // width
    return 0


@dataclass(frozen=True)
class Tensor:
    """A tensor that a failed cell could reach, by its name there; `near` if the code that failed did."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    near: bool = True

    @property
    def elements(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def bytes(self) -> int:
        return self.elements * _ITEM.get(self.dtype, 1)


@dataclass(frozen=True)
class Facts:
    """What is known; None, 0 and empty are what is not.

    Attributes
    ----------
    message, told : what the error said, and what it says in figures
    run : the run's name; empty where it was a cell of this notebook
    phase : "loading", "forward", "backward", "clipping", "optimizer", "evaluation", "writing the result", or empty
    step, first : the step, and whether none was done before it
    frames : the innermost places in the code, `module.function:line`, innermost last
    tokens : of each document in flight
    in_memory : tokens at once, padding included
    usual : the 101 quantiles of the run's document lengths
    documents_in_all : how many documents the run has
    sizes, shape, setup : of the model, and what was in memory, as far as an estimate can be asked
    near : whether the code that failed reached that model, which else merely lies in the notebook
    tensors : the largest that the cell's frames could reach
    arguments : values of the trainer's own arguments, in a cell
    effective, rank, optim : of the run's recipe
    card, total : the device's name and its memory
    kernel : bytes that this kernel itself holds on the card
    process_limit : the name and the bytes of a limit that the system holds the process to
    """

    message: str
    told: Told
    run: str = ""
    phase: str = ""
    step: int | None = None
    first: bool = False
    frames: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    in_memory: int = 0
    packed: bool = False
    gradient_checkpointing: bool | None = None
    loss_chunk: int = 0
    usual: tuple[int, ...] = ()
    documents_in_all: int = 0
    sizes: Sizes = Sizes()
    shape: ModelShape | None = None
    setup: Setup | None = None
    tensors: tuple[Tensor, ...] = ()
    arguments: Mapping[str, Any] | None = None
    effective: int = 0
    rank: int = 0
    max_length: int = 0
    max_memory: str = ""
    card: str = ""
    total: int | None = None
    kernel: int | None = None
    host: tuple[int, int] | None = None
    rss: int | None = None
    near: bool = True
    process_limit: tuple[str, int] | None = None

    @property
    def rows(self) -> int:
        """Rows of a batch: documents, or one where they are packed."""
        if self.packed:
            return 1
        return len(self.tokens) or (self.setup.documents if self.setup is not None else 0) or 1

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return -(-self.in_memory // self.rows) if self.in_memory else 0

    @property
    def unusual(self) -> int | None:
        """The longest document in flight, where 99 of 100 are at most half as long."""
        longest = max(self.tokens, default=0)
        if len(self.usual) != 101 or longest < 2 * max(1, self.usual[99]):
            return None
        return longest

    @property
    def missing(self) -> int | None:
        """Bytes that were wanted beyond what was free."""
        if self.told.requested is None:
            return None
        if self.told.on_host and (self.told.limit is not None or self.process_limit is not None):
            return None  # what a limit has left nobody tells
        free = self.told.free or (self.host[1] if self.told.on_host and self.host is not None else 0)
        if self.told.kind == "mps" and self.told.limit is not None:
            free = max(0, self.told.limit - (self.told.allocated or 0) - self.told.by_others)
        elif self.told.limit is not None and self.told.reserved is not None:
            free = min(free, max(0, self.told.limit - self.told.reserved))
        return max(0, self.told.requested - free)
