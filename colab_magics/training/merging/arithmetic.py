"""A merged tensor's bytes, a few rows at a time: added up in fp32, rounded once."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from typing import Any

import torch

from colab_magics.checkpoints.tensors import Tensor
from colab_magics.errors import ColabMagicsError
from colab_magics.training.merging.layout import Merged

_BLOCK = 32 * 2**20  # bytes of fp32 that are worked on at a time; about four times as much is in memory
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def pieces(one: Merged) -> Iterator[memoryview]:
    """The tensor's bytes as they are written, block by block.

    Raises
    ------
    ColabMagicsError
        A number is too large for fp16.
    """
    if one.added is None and one.dtype == one.source.dtype:
        data = one.source.data
        for begin in range(0, data.nbytes, _BLOCK):
            yield data[begin : begin + _BLOCK]
            forget(one.source)
        return
    factor = _dora(one) if one.added is not None and one.added.magnitude is not None else None
    for first, last in _blocks(one):
        block = _added(one, first, last)
        if factor is not None:
            block *= factor if one.transposed else factor[first:last, None]
        yield _bytes(_rounded(block, one))
        forget(one.source)


def forget(source: Tensor) -> None:
    """Let go of what was read of a mapped file: a page that stays would count as this process's memory."""
    mapped = source.data.obj
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)


def _blocks(one: Merged) -> Iterator[tuple[int, int]]:
    """Ranges of rows; a tensor of one dimension is a column of rows."""
    rows = one.source.shape[0] if one.source.shape else 1
    each = max(1, prod(one.source.shape) // max(1, rows))
    step = max(1, _BLOCK // (4 * each))
    return ((first, min(rows, first + step)) for first in range(0, rows, step))


def _rows(tensor: Tensor, first: int, last: int) -> Any:
    """Some rows, in fp32; a copy, so that the map can be let go of."""
    rows = tensor.shape[0] if tensor.shape else 1
    each = tensor.data.nbytes // max(1, rows)
    flat = torch.frombuffer(tensor.data[first * each : last * each], dtype=DTYPES[tensor.dtype])
    return flat.to(torch.float32, copy=True).reshape(last - first, *tensor.shape[1:])


def _added(one: Merged, first: int, last: int) -> Any:
    """Rows of the base with the adapter's part added."""
    block = _rows(one.source, first, last)
    if one.added is None:
        return block
    a, b = _whole(one.added.a), one.added.b
    if one.transposed:
        return block.addmm_(a[:, first:last].T, _whole(b).T, alpha=one.added.scale)
    return block.addmm_(_rows(b, first, last), a, alpha=one.added.scale)


def _whole(tensor: Tensor) -> Any:
    return _rows(tensor, 0, tensor.shape[0])


def _dora(one: Merged) -> Any:
    """Of each output, the trained magnitude over the length of its weights."""
    assert one.added is not None
    assert one.added.magnitude is not None
    magnitude = _whole(one.added.magnitude).flatten()
    outputs = one.source.shape[1] if one.transposed else one.source.shape[0]
    squares = torch.zeros(outputs)
    for first, last in _blocks(one):
        block = _added(one, first, last)
        if one.transposed:
            squares += block.square().sum(0)
        else:
            squares[first:last] = block.square().sum(1)
        forget(one.source)
    return magnitude / squares.sqrt()


def _rounded(block: Any, one: Merged) -> Any:
    rounded = block.to(DTYPES[one.dtype])
    if one.dtype == "F16" and not torch.isfinite(rounded).all() and torch.isfinite(block).all():
        raise ColabMagicsError(
            f"{one.name} does not fit into fp16.",
            f"It has numbers up to {block.abs().max():,.0f}, and fp16 ends at 65,504.",
            "Add --dtype bf16.",
        )
    return rounded


def _bytes(block: Any) -> memoryview:
    return memoryview(block.contiguous().reshape(-1).view(torch.uint8).numpy())
