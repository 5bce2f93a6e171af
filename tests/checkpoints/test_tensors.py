"""The safetensors layout: what we write the library reads, what it writes we read, and hostile files are refused."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from colab_magics.checkpoints.tensors import SIZES, Tensor, laid_out, read_tensors

pytestmark = pytest.mark.face

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
NAMES = {kind: dtype for dtype, kind in KINDS.items()} | {"|b1": "BOOL"}
arrays = st.sampled_from([*KINDS.values(), "|b1"]).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
named = st.dictionaries(st.text(max_size=20).filter(lambda name: name != "__metadata__"), arrays, max_size=6)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def as_tensor(array: Any) -> Tensor:
    return Tensor(NAMES[array.dtype.str], array.shape, memoryview(array.tobytes()))


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.write_bytes(b"".join(laid_out(tensors, metadata)))


def raw(path: Path, header: object, body: bytes = b"", *, length: int | None = None) -> Path:
    """A file with that header, as it stands."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def one(dtype: object = "F32", shape: object = (1,), place: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@many
@given(tensors=named)
def test_the_library_reads_what_we_write(tmp_path: Path, tensors: dict[str, Any]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "ours.safetensors"
    write(path, {name: as_tensor(array) for name, array in tensors.items()}, {"format": "pt"})
    read = safetensors.load_file(path)
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


@many
@given(tensors=named)
def test_we_read_what_the_library_writes(tmp_path: Path, tensors: dict[str, Any]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "theirs.safetensors"
    safetensors.save_file(tensors, path, {"format": "pt"})
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (read[name].dtype, read[name].shape) == (NAMES[array.dtype.str], array.shape)
        assert bytes(read[name].data) == array.tobytes()


def test_a_tensor_lies_on_a_multiple_of_its_own_size(tmp_path: Path) -> None:
    tensors = {
        f"{dtype}.{count}": Tensor(dtype, (count,), memoryview(bytes(size * count)))
        for dtype, size in SIZES.items()
        for count in (1, 3)
    }
    write(tmp_path / "file", tensors)
    whole = (tmp_path / "file").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for name, told in json.loads(whole[8 : 8 + length]).items():
        assert (8 + length + told["data_offsets"][0]) % SIZES[name.split(".")[0]] == 0


def test_the_same_tensors_make_the_same_bytes_in_whatever_order_they_come() -> None:
    tensors = {name: Tensor("F32", (1,), memoryview(name.encode() * 4)) for name in "abc"}
    assert b"".join(laid_out(tensors)) == b"".join(laid_out(dict(reversed(tensors.items()))))


def test_a_tensor_needs_the_bytes_that_its_shape_says() -> None:
    with pytest.raises(ValueError, match="are no F32 of shape"):
        Tensor("F32", (2, 2), memoryview(bytes(12)))


BODY = bytes(8)
HOSTILE: dict[str, tuple[object, bytes]] = {
    "no JSON": (b"{", b""),
    "no UTF-8": (b'{"\xff": 1}', b""),
    "a list": ([], b""),
    "a number": (7, b""),
    "nested 100,000 deep": (b"[" * 100_000, b""),
    "nested 100,000 deep in a tensor": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "a tensor that is a number": ({"a": 1}, BODY),
    "no place": ({"a": {"dtype": "F32", "shape": [2]}}, BODY),
    "three ends": ({"a": one("F32", [2], [0, 4, 8])}, BODY),
    "overlapping": ({"a": one("F32", [2], [0, 8]), "b": one("F32", [1], [4, 8])}, BODY),
    "one in another": ({"a": one("F32", [2], [0, 8]), "b": one("U8", [0], [3, 3])}, BODY),
    "a hole": ({"a": one("U8", [2], [0, 2]), "b": one("U8", [2], [6, 8])}, BODY),
    "a hole at the front": ({"a": one("U8", [2], [6, 8])}, BODY),
    "bytes left over": ({"a": one("F32", [1], [0, 4])}, BODY),
    "beyond the end": ({"a": one("F32", [4], [0, 16])}, BODY),
    "far beyond the end": ({"a": one("U8", [2**62], [0, 2**62])}, BODY),
    "backwards": ({"a": one("F32", [2], [8, 0])}, BODY),
    "before the body": ({"a": one("F32", [2], [-8, 0])}, BODY),
    "an unknown kind": ({"a": one("F31", [2], [0, 8])}, BODY),
    "a kind that is a list": ({"a": one(["F32"], [2], [0, 8])}, BODY),
    "a shape of another size": ({"a": one("F32", [3], [0, 8])}, BODY),
    "a negative shape": ({"a": one("F32", [-1, -2], [0, 8])}, BODY),
    "a fractional shape": ({"a": one("F32", [2.0], [0, 8])}, BODY),
    "a true shape": ({"a": one("F64", [True], [0, 8])}, BODY),
    "a shape that is text": ({"a": one("F32", "2", [0, 8])}, BODY),
    "places that are text": ({"a": one("F32", [2], "08")}, BODY),
    "infinite": (b'{"a": {"dtype": "U8", "shape": [Infinity], "data_offsets": [0, 8]}}', BODY),
    "10,000 digits": (b'{"a": {"dtype": "U8", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 8]}}', BODY),
    "10,000 dimensions": ({"a": one("U8", [2**62] * 10_000, [0, 8])}, BODY),
}


@pytest.mark.parametrize(("header", "body"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_refused(tmp_path: Path, header: object, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_tensors(raw(tmp_path / "file", header, body))


@pytest.mark.parametrize("left", [9, 40, -5, -1])
def test_a_file_that_is_cut_short_is_called_so(tmp_path: Path, left: int) -> None:
    path = tmp_path / "file"
    write(path, {"a": Tensor("F32", (4,), memoryview(bytes(16)))}, {"format": "pt"})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="cut short"):
        read_tensors(path)


@pytest.mark.parametrize("length", [3, 100, 10 * 2**30, 2**63, 2**64 - 1])
def test_a_header_that_is_said_to_be_longer_than_the_file_is_not_read(tmp_path: Path, length: int) -> None:
    path = raw(tmp_path / "file", b"{}", length=length)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="the header says"):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_real_10_GB_header_is_refused_unread(tmp_path: Path) -> None:
    path = raw(tmp_path / "file", b"", length=10 * 2**30)
    os.truncate(path, 11 * 2**30)  # sparse: it takes no room
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="the header says"):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", range(8))
def test_a_file_without_room_for_a_header_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(ValueError, match="too short"):
        read_tensors(tmp_path / "file")


def test_a_link_is_not_followed_and_a_pipe_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path / "file", {})
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic"):
        read_tensors(tmp_path / "link")
    with pytest.raises(ValueError, match="too short"):
        read_tensors(tmp_path / "pipe")


@many
@given(data=st.binary(max_size=200), at=st.integers(0, 200))
def test_no_altered_file_makes_it_fail_in_another_way(tmp_path: Path, data: bytes, at: int) -> None:
    path = tmp_path / "file"
    write(path, {"a": Tensor("F32", (4,), memoryview(bytes(16)))}, {"format": "pt"})
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    try:
        for read in read_tensors(path).values():
            assert read.data.nbytes <= path.stat().st_size
    except ValueError:
        pass
