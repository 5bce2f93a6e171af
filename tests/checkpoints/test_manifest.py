"""The manifest says what it said, or that it was altered; and it cannot be made to name what is not ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.checkpoints import manifest as module
from colab_magics.checkpoints.manifest import (
    MANIFEST,
    Broken,
    Manifest,
    Sealed,
    folder_name,
    parse_folder_name,
    read_manifest,
)

pytestmark = pytest.mark.face

RUN = "0123456789abcdef"
SEALED = Sealed(3, "ab" * 32)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def resealed(**changes: Any) -> bytes:
    """A manifest with those fields and a hash that holds: whoever can write to a shared folder can make one."""
    told: dict[str, Any] = json.loads(Manifest("checkpoint", RUN, {"state.json": SEALED}, 3, 1).to_json())
    del told["hash"]
    body = json.dumps({**told, **changes}, indent=1).removesuffix("\n}").encode()
    return body + module._TAIL.format(module._hash_of(body)).encode()


@given(facts=st.dictionaries(st.text(max_size=8).filter(lambda key: key not in module._KNOWN), values, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_was_told_is_read_again(facts: dict[str, Any]) -> None:
    told = Manifest(
        "checkpoint", RUN, {"state.json": SEALED, "optimizer.safetensors": Sealed(0, "0" * 64)}, 7, 2, facts
    )
    read = Manifest.from_json(told.to_json())
    assert read == told
    assert read.size == 3


def test_facts_that_json_writes_otherwise_are_no_alteration() -> None:
    told = Manifest("data", RUN, {}, facts={"counts": {1: "a", 10: "b", 2: "c"}, "pair": (1, 2), "loss": float("nan")})
    assert Manifest.from_json(told.to_json()).facts["counts"] == {"1": "a", "10": "b", "2": "c"}


def test_every_flipped_bit_is_found() -> None:
    text = Manifest("checkpoint", RUN, {"state.json": SEALED}, 3, 1, {"name": "kwanzaa"}).to_json()
    for place in range(8 * len(text)):
        altered = bytearray(text)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(Broken):
            Manifest.from_json(bytes(altered))


def test_every_truncation_is_found_also_of_the_last_line_break() -> None:
    text = Manifest("checkpoint", RUN, {"state.json": SEALED}, 3, 1).to_json()
    for length in range(len(text)):
        with pytest.raises(Broken):
            Manifest.from_json(text[:length])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n", b"\r\n"),
        (b' "step": 3,', b' "step":  3,'),
        (b' "step": 3,', b' "step": 9,\n "step": 3,'),
        (b"{", b" {"),
        (b"state", b"\\u0073tate"),
    ],
)
def test_an_edit_that_means_the_same_is_an_alteration_too(old: bytes, new: bytes) -> None:
    text = Manifest("checkpoint", RUN, {"state.json": SEALED}, 3, 1).to_json()
    assert old in text
    with pytest.raises(Broken, match="altered"):
        Manifest.from_json(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", MANIFEST, "a\n", "a\0b", "C:\\x", "é", "a" * 101]
)
def test_a_file_elsewhere_cannot_be_named_not_even_with_a_hash_that_holds(name: str) -> None:
    with pytest.raises(Broken, match="cannot be ours"):
        Manifest.from_json(resealed(files={name: {"size": 1, "blake2b": "0" * 64}}))
    with pytest.raises(ValueError, match="no file of ours"):
        Manifest("checkpoint", RUN, {name: SEALED}).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"format": None},
        {"kind": "model"},
        {"kind": ["checkpoint"]},
        {"version": 2},
        {"version": "1"},
        {"version": None},
        {"files": None},
        {"files": []},
        {"files": {"a": 1}},
        {"files": {"a": {"size": "x", "blake2b": ""}}},
        {"files": {"a": {"size": float("inf"), "blake2b": ""}}},
        {"step": None},
        {"step": float("inf")},
        {"step": float("nan")},
        {"attempt": "one"},
    ],
)
def test_fields_that_make_no_sense_are_refused_with_a_hash_that_holds(changes: dict[str, Any]) -> None:
    with pytest.raises(Broken):
        Manifest.from_json(resealed(**changes))


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"hash": 1}', bytes(300)])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(Broken):
        Manifest.from_json(text)
    with pytest.raises(Broken):  # the same behind a hash that holds
        Manifest.from_json(text + module._TAIL.format(module._hash_of(text)).encode())


def test_facts_cannot_take_a_fields_place() -> None:
    with pytest.raises(ValueError, match="run"):
        Manifest("checkpoint", RUN, {}, facts={"run": "another"}).to_json()


def test_what_would_be_too_long_to_read_is_not_written() -> None:
    with pytest.raises(ValueError, match="would not be read again"):
        Manifest("checkpoint", RUN, {}, facts={"text": "x" * 2**20}).to_json()


@pytest.mark.parametrize("size", [2**20 + 1, 2**40])
def test_a_manifest_that_is_too_long_is_not_read(tmp_path: Path, size: int) -> None:
    (tmp_path / MANIFEST).touch()
    os.truncate(tmp_path / MANIFEST, size)  # sparse
    with pytest.raises(Broken, match="no small file"):
        read_manifest(tmp_path)


@given(step=st.integers(0, 99_999_999), attempt=st.integers(0, 999_999))
def test_a_folders_name_says_step_and_attempt(step: int, attempt: int) -> None:
    assert parse_folder_name(folder_name(step, attempt)) == (step, attempt)


@pytest.mark.parametrize(
    "name",
    [
        *("", "00000001", "1-a1", "00000001-a", "00000001-a01", "00000001-a1 ", "00000001-a1\n"),
        *("0000000１-a1", "00000001-a-1", "x00000001-a1", "00000001-b1", "000000001-a1", "00000001-a1000000"),
        ".staging-00000001-a1-00",
    ],
)
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert parse_folder_name(name) is None
