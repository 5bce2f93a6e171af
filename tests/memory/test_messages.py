"""Public messages of memory that ran out, as people met them, are read into the right figures and diagnosed."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from colab_magics.memory.culprit import Cause
from colab_magics.memory.diagnosis import diagnose, lost_context
from colab_magics.memory.facts import Facts, Sizes
from colab_magics.memory.messages import Told, in_words, is_sticky, read, tells_of_memory
from colab_magics.plan import GIB, Device
from colab_magics.plan.fit import context_of

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("recorded_messages.json").read_text())
OF_MEMORY = [one for one in RECORDED if one["kind"] not in ("lost context", "other")]


def named(one: dict[str, Any]) -> str:
    return "/".join(one["from"].split("/")[3:])


def in_bytes(written: str) -> float:
    number, unit = written.split()
    return float(number) * {"b": 1, "K": 2**10, "M": 2**20, "G": 2**30}[unit[0]]


def facts(one: dict[str, Any]) -> Facts:
    known = dict(one.get("facts", {}))
    sizes = Sizes(**known.pop("sizes", {}))
    told = read(one["message"])
    assert told is not None
    return Facts(one["message"], told, sizes=sizes, frames=tuple(known.pop("frames", ())), **known)


@pytest.mark.parametrize("one", OF_MEMORY, ids=named)
def test_a_recorded_message_is_read_into_its_figures(one: dict[str, Any]) -> None:
    told = read(one["message"])
    assert told is not None
    assert (told.kind, told.generation) == (one["kind"], one.get("generation", ""))
    assert told.backend == one.get("backend", "CUDA")
    expected = dict(one["told"])
    assert told.device == expected.pop(
        "device", 0 if "GPU " in one["message"] or "on device" in one["message"] else None
    )
    array = expected.pop("array", None)
    assert told.array == (None if array is None else (tuple(array[0]), array[1]))
    others = {int(pid): in_bytes(size) for pid, size in expected.pop("others", {}).items()}
    assert {pid: pytest.approx(size, abs=1) for pid, size in told.others} == others
    for key in ("requested", "total", "free", "used", "limit", "allocated", "private_pools", "unallocated", "reserved"):
        if key in ("unallocated", "reserved") and key not in expected:
            continue  # the one that is the other's difference
        size = in_bytes(expected.pop(key)) if key in expected else None
        known = getattr(told, key)
        if key == "requested" and "1EB" in one["message"]:
            assert known > 2**50
        else:
            assert known == (None if size is None else pytest.approx(size, abs=1)), key
    assert not expected


@pytest.mark.parametrize("one", OF_MEMORY, ids=named)
def test_a_recorded_message_gets_the_right_diagnosis(one: dict[str, Any]) -> None:
    found = diagnose(facts(one))
    assert found.cause == Cause(one["cause"])
    assert found.sentence[0].isupper()
    assert found.sentence.endswith(".")
    assert len(found.sentence) < 330
    assert found.remedies, "something can always be tried"
    for line in (found.sentence, *found.details):
        assert not re.search(r"\bNone\b|\(\)|: \.|  |: ,| ,", line), line


def test_what_was_allocated_is_named_although_something_else_was_the_cause() -> None:
    for one in OF_MEMORY:
        if "allocation" in one:
            from colab_magics.memory.culprit import name

            allocation = name(facts(one)).allocation
            assert allocation is not None
            assert allocation.cause == Cause(one["allocation"]), named(one)


def test_a_lost_context_is_no_lack_of_memory_and_says_the_one_thing_that_helps() -> None:
    lost = [one for one in RECORDED if one["kind"] == "lost context"]
    assert len(lost) >= 3
    for one in lost:
        assert is_sticky(one["message"])
        assert not tells_of_memory(one["message"])
        assert read(one["message"]) is None
        found = lost_context(one["message"])
        assert found.cause is None
        assert [remedy.line for remedy in found.remedies] == ["restart the kernel"]


def test_other_errors_of_cuda_are_neither() -> None:
    for one in RECORDED:
        if one["kind"] == "other":
            assert read(one["message"]) is None
            assert not is_sticky(one["message"])


def test_the_collection_is_large_and_of_all_kinds() -> None:
    generations = Counter(one.get("generation", "") for one in OF_MEMORY if one["kind"] == "cuda")
    kinds = Counter(one["kind"] for one in OF_MEMORY)
    print(f"{len(RECORDED)} recorded messages, {sum(one.get('t4', False) for one in RECORDED)} of a T4")
    print("PyTorch's own by generation:", dict(generations))
    print("by kind:", dict(kinds))
    print("by cause:", dict(Counter(one["cause"] for one in OF_MEMORY)))
    assert len(OF_MEMORY) >= 40
    assert all(generations[one] >= 5 for one in ("2.0", "2.1", "2.2"))
    assert set(kinds) == set(Told.__annotations__["kind"] and _KINDS)
    assert all(one["from"].startswith("https://") for one in RECORDED)
    # facts, and nobody's name or folder
    assert not re.search(r"/home/|/Users/|C:\\|/root/", json.dumps(RECORDED))


def test_the_context_that_is_counted_for_a_t4_is_the_one_that_messages_tell_of() -> None:
    told = [read(one["message"]) for one in OF_MEMORY if one.get("t4")]
    beside = [one.used - one.reserved for one in told if one and one.used and one.reserved]
    alone = sorted(size / GIB for size in beside if size < GIB / 2)  # above it another process is on the card
    print(f"CUDA beside the allocator on a T4: {alone[0]:.2f} to {alone[-1]:.2f} GiB, "
          f"median {median(alone):.2f} of {len(alone)} messages")  # fmt: skip
    t4 = Device("cuda", "Tesla T4", 15 * GIB, 15 * GIB, 12 * GIB, (7, 5))
    assert len(alone) >= 5
    assert context_of(t4) / GIB == pytest.approx(median(alone), abs=0.01)


_KINDS = ("cuda", "cuda error", "driver", "cublas", "cudnn", "nccl", "library", "mps", "cpu", "host", "retried")


@pytest.mark.parametrize(
    "text", ["", "list index out of range", "CUDA error: invalid device ordinal", "No space left on device", "OOM"]
)
def test_what_is_no_message_of_memory_is_none(text: str) -> None:
    assert read(text) is None
    assert not tells_of_memory(text)


def test_the_line_of_pytorch_s_source_is_told_in_words_and_any_other_as_it_is() -> None:
    line = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate: you tried to allocate"
    assert (
        in_words(f"{line} 153600 bytes. Error") == "PyTorch found no room for 150.0 KiB more in this process's memory"
    )
    assert (
        in_words("CUDA out of memory. Tried to allocate 2.00 GiB.") == "CUDA out of memory. Tried to allocate 2.00 GiB."
    )


def test_a_bare_memory_error_is_one_of_the_host() -> None:
    told = read("MemoryError")
    assert told is not None
    assert (told.kind, told.on_host, told.requested) == ("host", True, None)


def test_the_worker_repeats_a_step_for_no_other_words_than_before() -> None:
    retried = ["CUDA out of memory. Tried", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
               "CUDNN_STATUS_NOT_SUPPORTED", "can't allocate memory", "not enough memory",
               "Cannot allocate memory", "std::bad_alloc"]  # fmt: skip
    assert all(map(tells_of_memory, retried))
    # worth a diagnosis, but a worker that tried again would only fail again, or hide another mistake
    for other in ("Unable to allocate 3 GiB for an array", "CUDNN_STATUS_ALLOC_FAILED"):
        assert not tells_of_memory(other)
        assert read(other) is not None


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN"),
        ("cuFFT error: CUFFT_ALLOC_FAILED", "cuFFT"),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`", "cuSOLVER"),
        ("CUDA error: insufficient resources when calling ... CUSPARSE_STATUS_INSUFFICIENT_RESOURCES", "cuSPARSE"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuBLAS"),
    ],
)
def test_a_library_that_found_no_memory_is_named(text: str, library: str) -> None:
    told = read(text)
    assert told is not None
    assert diagnose(Facts(text, told)).sentence == f"The GPU was full when {library} asked for its own working memory."


def test_what_another_mistake_may_say_too_is_told_as_a_guess() -> None:
    text = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
    told = read(text)
    assert told is not None
    found = diagnose(Facts(text, told))
    assert found.sentence.startswith("Perhaps the GPU was full: cuDNN found no way to do it")
    assert ".contiguous()" in [remedy.line for remedy in found.remedies]


def test_one_piece_that_metal_never_makes_is_no_full_mac() -> None:
    told = read("Invalid buffer size: 24.00 GiB")
    assert told is not None
    found = diagnose(Facts("", told))
    assert found.sentence == "One piece of 24.0 GiB was asked for; Metal makes no single buffer so large."
    assert not any("end " in remedy.line for remedy in found.remedies)


def test_in_a_container_this_process_is_the_one_that_holds_what_pytorch_holds_and_a_context() -> None:
    told = read(
        "CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 14.56 GiB of which 0.40 GiB is "
        "free. Process 11 has 5.40 GiB memory in use. Process 12 has 4.13 GiB memory in use. Of the allocated memory "
        "3.90 GiB is allocated by PyTorch, and 0.10 GiB is reserved by PyTorch but unallocated."
    )
    assert told is not None
    assert [pid for pid, _ in told.others] == [11]
    assert told.used == pytest.approx(4.13 * 2**30, abs=1)
