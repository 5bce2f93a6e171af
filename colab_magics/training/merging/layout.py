"""Which tensors the merged model has, and in which of its files each of them comes to lie: known before one is made."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from colab_magics.checkpoints.tensors import SIZES, Tensor, read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.training.merging.changes import Adapter, LowRank

SHARD = 10**9  # bytes of a file, unless one tensor alone is larger
_FLOATS = ("F32", "F16", "BF16", "F64")
_TABLES = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")
_HEADS = ("lm_head", "embed_out", "output")
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Merged:
    """One tensor of the merged model.

    Attributes
    ----------
    dtype : str
        As it is written.
    source : Tensor
        Where its numbers come from: the base, or what the adapter has in its place.
    added : LowRank, optional
    transposed : bool
        Whether the rows of the weight are the module's inputs.
    """

    name: str
    dtype: str
    source: Tensor
    added: LowRank | None = None
    transposed: bool = False

    @property
    def size(self) -> int:
        return SIZES[self.dtype] * prod(self.source.shape)


@dataclass(frozen=True)
class Shard:
    """One file of the merged model."""

    name: str
    tensors: tuple[Merged, ...]

    @property
    def header(self) -> bytes:
        """What stands before the tensors' bytes."""
        told: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for one in self.tensors:
            begin, end = end, end + one.size
            told[one.name] = {"dtype": one.dtype, "shape": list(one.source.shape), "data_offsets": [begin, end]}
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @property
    def size(self) -> int:
        return len(self.header) + sum(one.size for one in self.tensors)


@dataclass(frozen=True)
class Layout:
    """All of the merged model's files of weights.

    Attributes
    ----------
    dtype : str
        Of most tensors.
    untied : bool
        The base shares one table between input and output, and the merged model cannot: the adapter has changed one.
    """

    shards: tuple[Shard, ...]
    dtype: str
    untied: bool

    @property
    def size(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def index(self) -> bytes | None:
        """The text of the index; None where one file holds all."""
        if len(self.shards) == 1:
            return None
        tensors = {one.name: shard.name for shard in self.shards for one in shard.tensors}
        total = sum(one.size for shard in self.shards for one in shard.tensors)
        return json.dumps({"metadata": {"total_size": total}, "weight_map": tensors}, indent=2).encode() + b"\n"


def lay_out(adapter: Adapter, weights: Sequence[Path], dtype: str | None, *, model: str) -> Layout:
    """Plan the merged model; nothing but headers is read.

    Parameters
    ----------
    weights : the base's files
    dtype : "F16", "BF16" or "F32"; None takes the base's, and F16 for a base in F32
    model : the base's name, for messages

    Raises
    ------
    ColabMagicsError
        The adapter is for another base: names the first part that does not fit, with both shapes.
    """
    base = _read(weights, model)
    usual = _usual(base.values())
    chosen = dtype or (usual if usual in ("F16", "BF16") else "F16")
    added, replaced, untied = _placed(adapter, base, model)
    there = {**base, **replaced}
    transposed = adapter.fan_in_fan_out or any(
        there[name].shape == (one.a.shape[1], one.b.shape[0]) != (one.b.shape[0], one.a.shape[1])
        for name, one in added.items()
        if not one.embedding
    )
    merged = []
    for name, tensor in there.items():
        change = added.get(name)
        turned = change is not None and (change.embedding or transposed)
        if change is not None:
            _check_shape(name, tensor, change, turned=turned, model=model)
        # a tensor in fp32 among 16-bit ones is so on purpose: a router's correction, a norm
        keeps = tensor.dtype not in _FLOATS or (tensor.dtype == "F32" != usual and name not in replaced)
        merged.append(Merged(name, tensor.dtype if keeps else chosen, tensor, change, turned))
    return Layout(_sharded(merged), chosen, untied)


def _read(weights: Sequence[Path], model: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in weights:
        try:
            found |= read_tensors(path.resolve())  # the Hub's cache holds links
        except (OSError, ValueError) as error:
            raise ColabMagicsError(
                f"The weights of {model} cannot be read.", f"{path.name}: {error}", "Download or copy the model again."
            ) from None
    return found


def _usual(tensors: Iterable[Tensor]) -> str:
    """The dtype of most bytes."""
    amounts: dict[str, int] = {}
    for tensor in tensors:
        amounts[tensor.dtype] = amounts.get(tensor.dtype, 0) + tensor.data.nbytes
    return max(amounts, key=lambda dtype: amounts[dtype])


def _placed(
    adapter: Adapter, base: Mapping[str, Tensor], model: str
) -> tuple[dict[str, LowRank], dict[str, Tensor], bool]:
    """Of which tensor each change is; tensors that have to be there besides; and whether tables are untied by it."""
    table = next((name for name in base if name.split(".")[-2:-1] and name.split(".")[-2] in _TABLES), None)
    # the head's own weights are not in the files where it shares the table of the input
    tied = table is not None and not any(name.split(".")[-2:-1] and name.split(".")[-2] in _HEADS for name in base)

    def named(tensor: str) -> str:
        if tied and tensor.split(".")[-2] in _HEADS:
            return _HEAD
        # files of a model without its head have no prefix of its body, as GPT-2's; or they have it, and the model not
        without = tensor.partition(".")[2]
        found = next((one for one in (tensor, without) if one in base), None)
        found = found or next((one for one in base if one.partition(".")[2] == tensor), None)
        if found is None:
            raise ColabMagicsError(
                f"The adapter is not for {model}.",
                f"It changes {tensor}, which {model} does not have.",
                "Name the base that it was trained on: --base org/name, or a folder.",
            )
        return found

    added = {named(f"{module}.weight"): change for module, change in adapter.added.items()}
    replaced = {named(tensor): given for tensor, given in adapter.replaced.items()}
    untied = tied and bool({table, _HEAD} & {*added, *replaced})
    if untied:
        if adapter.tied_by_peft:
            raise ColabMagicsError(
                "This adapter cannot be merged here.",
                f"It changes {table} with ensure_weight_tying, which keeps input and output the same.",
                "Export it as it is, without --merge: peft loads it on its base.",
            )
        assert table is not None
        # as peft computes it: the adapter is on one of the two, and the other stays what the base has
        replaced.setdefault(_HEAD, base[table])
    for name, given in replaced.items():
        if name in base and given.shape != base[name].shape:
            raise _other_base(name, given.shape, base[name].shape, model)
    return added, replaced, untied


def _check_shape(name: str, tensor: Tensor, change: LowRank, *, turned: bool, model: str) -> None:
    outputs, inputs = change.b.shape[0], change.a.shape[1]
    expected = (inputs, outputs) if turned else (outputs, inputs)
    if tensor.shape != expected:
        raise _other_base(name, expected, tensor.shape, model)


def _other_base(name: str, expected: tuple[int, ...], there: tuple[int, ...], model: str) -> ColabMagicsError:
    written = [" × ".join(f"{number:,}" for number in shape) for shape in (expected, there)]
    return ColabMagicsError(
        f"The adapter is not for {model}.",
        f"It was trained for {name} of {written[0]}; that of {model} is {written[1]}.",
        "Name the base that it was trained on: --base org/name, or a folder.",
    )


def _sharded(tensors: Sequence[Merged]) -> tuple[Shard, ...]:
    groups: list[list[Merged]] = [[]]
    filled = 0
    for one in tensors:
        if groups[-1] and filled + one.size > SHARD:
            groups.append([])
            filled = 0
        groups[-1].append(one)
        filled += one.size
    ordered = [tuple(sorted(group, key=lambda one: -SIZES[one.dtype])) for group in groups]
    if len(ordered) == 1:
        return (Shard("model.safetensors", ordered[0]),)
    return tuple(
        Shard(f"model-{number:05d}-of-{len(ordered):05d}.safetensors", group)
        for number, group in enumerate(ordered, start=1)
    )
