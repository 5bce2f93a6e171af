"""Values as JSON and tensors: what goes in comes out, of the same kind; what cannot is named by its place."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from colab_magics.checkpoints.tensors import laid_out, read_tensors
from colab_magics.tracking import arrays
from colab_magics.tracking.values import Encoder, Unsaveable, decode

pytestmark = pytest.mark.colab


@pytest.fixture
def through_a_file(tmp_path: Path) -> Callable[[Any], Any]:
    def through(value: Any) -> Any:
        encoder = Encoder()
        told = json.dumps(encoder.encode(value, "value", "value"), allow_nan=False)
        copied = arrays.HostCopies().of(encoder.tensors)
        path = tmp_path / "tensors.safetensors"
        path.write_bytes(b"".join(laid_out({name: arrays.buffer(one) for name, one in copied.items()})))
        return decode(json.loads(told), read_tensors(path))

    return through


PLAIN = [
    None,
    True,
    -(2**70),
    0.1,
    math.inf,
    "text",
    b"\x00\xff",
    1 + 2j,
    (1, (2.5, "a")),
    [1, [2]],
    {"a": {"b": 1}},
    {1: "one", (2, 3): [4]},
    {"@": "tuple"},
    OrderedDict([("b", 1), ("a", 2)]),
    Counter({5: 2}),
    {1, 2},
    frozenset((1, 2)),
    range(2, 9, 3),
    torch.Size([2, 3]),
    torch.float16,
    torch.device("cpu"),
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_a_value_comes_back_as_it_was_and_of_the_same_kind(value: object, through_a_file: Callable[[Any], Any]) -> None:
    found = through_a_file(value)
    assert found == value
    assert type(found) is type(value)


def test_nan_and_a_bounded_queue_come_back(through_a_file: Callable[[Any], Any]) -> None:
    found = through_a_file([math.nan, deque([1, 2], maxlen=3)])
    assert math.isnan(found[0])
    assert found[1].maxlen == 3


ARRAYS = [
    torch.randn(3, 4),
    torch.randn(3, 4).t(),
    torch.randn(2).bfloat16(),
    torch.tensor(3),
    torch.zeros(0, 5),
    torch.tensor([True, False]),
    torch.tensor([1 + 2j]),
    torch.arange(6, dtype=torch.uint8).reshape(2, 3),
    np.arange(6).reshape(2, 3)[:, ::2],
    np.array([1, 2], dtype=np.uint32),
    np.array([1 + 2j]),
    np.array(["2026-11-20"], dtype="datetime64[D]"),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda one: f"{type(one).__name__} {one.dtype}")
def test_an_array_comes_back_bit_by_bit(value: Any, through_a_file: Callable[[Any], Any]) -> None:
    found = through_a_file({"x": value})["x"]
    assert (type(found), found.dtype, tuple(found.shape)) == (type(value), value.dtype, tuple(value.shape))
    assert arrays.buffer(found).data == arrays.buffer(value).data


def test_a_number_of_numpys_stays_one(through_a_file: Callable[[Any], Any]) -> None:
    found = through_a_file(np.float32(0.1))
    assert type(found) is np.float32
    assert found == np.float32(0.1)


def test_a_tensor_that_stands_at_two_places_is_written_once() -> None:
    tied, encoder = torch.randn(3), Encoder()
    encoder.encode({"a": tied, "b": tied, "c": tied[:2]}, "value", "value")
    assert sorted(encoder.tensors) == ["value/a", "value/c"]


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        ({"a": [1, lambda: 0]}, 'state["x"]["a"][1]', "function"),
        ((object(),), 'state["x"][0]', "object"),
        (np.array([object()]), 'state["x"]', "Python's objects"),
        (np.zeros(2, dtype=">f4"), 'state["x"]', "order of bytes"),
        (torch.zeros(2, device="meta"), 'state["x"]', "meta"),
        (torch.zeros(2, 2).to_sparse(), 'state["x"]', "layout"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_what_only_pickle_could_write_is_refused_by_its_place(value: object, where: str, why: str) -> None:
    with pytest.raises(Unsaveable) as refused:
        Encoder().encode(value, 'state["x"]', "x")
    assert refused.value.what == f"{where} cannot be saved."
    assert why in refused.value.why


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Unsaveable, match="holds itself"):
        Encoder().encode(loop, "value", "value")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner).map(tuple),
        max_leaves=12,
    )
)
def test_any_nest_of_plain_values_comes_back(value: Any) -> None:
    encoder = Encoder()
    assert decode(json.loads(json.dumps(encoder.encode(value, "v", "v"), allow_nan=False)), {}) == value
