"""The safetensors layout, written from buffers and read as a memory map: no torch, no copy.

A file is 8 bytes with the header's length, the header (JSON: name -> dtype, shape, place), and the tensors' bytes end
to end. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

# dtype, as the layout names it -> bytes of one number
SIZES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_MOST_HEADER = 16 * 2**20  # 100,000 tensors; parsed, JSON takes up to 20 times its length in memory
_MOST_DIMENSIONS = 64
_ALIGNED = 8


@dataclass(frozen=True)
class Tensor:
    """Bytes that are a tensor: C order, little endian.

    Attributes
    ----------
    dtype : str
        A key of `SIZES`.
    shape : tuple of int
    data : memoryview
        Contiguous, format "B", of exactly as many bytes as dtype and shape make.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def __post_init__(self) -> None:
        if self.data.nbytes != SIZES[self.dtype] * prod(self.shape):
            raise ValueError(f"{self.data.nbytes} bytes are no {self.dtype} of shape {self.shape}")


def laid_out(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[memoryview]:
    """The bytes of the file that holds `tensors`, in pieces: the header, then each tensor.

    Tensors of wide numbers come first, so that every one lies on a multiple of its own size.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-SIZES[item[1].dtype], item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.data.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    yield memoryview(struct.pack("<Q", len(text)) + text)
    yield from (tensor.data for _, tensor in ordered if tensor.data.nbytes)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped; the map lives as long as one of them.

    Raises
    ------
    ValueError
        The file is not in the layout: a header that is too long or no JSON, an unknown dtype, a place outside of the
        file, bytes that belong to no tensor or to two.
    OSError
        It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found_there = os.fstat(descriptor)
        size = found_there.st_size
        if not stat.S_ISREG(found_there.st_mode) or size < 8:
            raise ValueError("the file is too short for a header")
        # private and writable, for torch warns of buffers that it may not write to; nothing reaches the file
        whole = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY))
    finally:
        os.close(descriptor)
    (length,) = struct.unpack("<Q", whole[:8])
    if length > min(_MOST_HEADER, size - 8):
        short = ": it is cut short" if length <= _MOST_HEADER else ""
        raise ValueError(f"the header says {length} bytes, of a file of {size}{short}")
    try:
        header = json.loads(bytes(whole[8 : 8 + length]))
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    body = whole[8 + length :]
    found: dict[str, Tensor] = {}
    places: list[tuple[int, int]] = []
    for name, told in header.items():
        if name != "__metadata__":
            found[name], place = _read_one(name, told, body)
            places.append(place)
    end = 0
    for begin, after in sorted(places):
        if begin != end:
            raise ValueError("the tensors do not lie end to end")
        end = after
    if end != body.nbytes:
        raise ValueError("there are bytes that belong to no tensor")
    return found


def _read_one(name: str, told: object, body: memoryview) -> tuple[Tensor, tuple[int, int]]:
    try:
        dtype, shape, (begin, end) = told["dtype"], told["shape"], told["data_offsets"]  # type: ignore[index]
        whole = all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end))
        if not whole or len(shape) > _MOST_DIMENSIONS or dtype not in SIZES or begin > end:
            raise ValueError(f"{name} is of no known kind, or ends before it begins")
        if end > body.nbytes:
            raise ValueError(f"the file is cut short: {name} ends {end - body.nbytes:,} bytes behind its end")
        return Tensor(dtype, tuple(shape), body[begin:end]), (begin, end)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{name} is described wrongly: {error}") from None
