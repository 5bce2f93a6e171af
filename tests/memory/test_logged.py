"""The facts of a run's out-of-memory, from its log; a field that is missing costs only what it would have told."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended_allocator import GIB, T4, out_of_memory
from shapes import QWEN3_4B

from colab_magics.memory.culprit import Cause
from colab_magics.memory.diagnosis import diagnose
from colab_magics.memory.facts import Facts
from colab_magics.memory.logged import facts_of, newest

TENSOR = 4 * 900 * 9728 * 4
PLAN = {
    "kind": "plan",
    "shape": asdict(QWEN3_4B),
    "device": "Tesla T4, 14.6 GiB",
    "lengths": list(range(100, 1110, 10)),
    "documents": 2000,
    "choices": {
        key: {"value": value, "reason": "because"}
        for key, value in {
            "method": "qlora",
            "precision": "fp16",
            "optim": "adamw_torch_fused",
            "micro_batch": 4,
            "effective_batch": 16,
            "gradient_checkpointing": True,
            "loss_chunk": 441,
            "attention": "colab_magics",
            "loss": "hidden",
            "max_length": 2048,
        }.items()
    },
}
OOM: dict[str, Any] = {
    "kind": "oom",
    "time": "2026-11-25T20:00:00.000+00:00",
    "attempt": 1,
    "step": 3,
    "micro_batch": 4,
    "documents": 4,
    "message": out_of_memory(TENSOR),
    "phase": "backward",
    "where": [
        "colab_magics.training.loop.micro_batch_gradients:330",
        "transformers.models.qwen3.modeling_qwen3.Qwen3MLP.forward:81",
    ],
    "tokens": [900, 850, 400, 120],
    "in_memory": 3600,
    "packed": False,
    "gradient_checkpointing": True,
    "loss_chunk": 441,
    "first": False,
    "record": {
        "requested": 140_509_184,
        "allocated": 14 * GIB,
        "reserved": 14 * GIB + 2**28,
        "free": 2**26,
        "total": T4,
        "largest": [{"bytes": GIB, "count": 2}],
    },
    "host": {"total": 12 * GIB, "free": 9 * GIB},
    "rss": 3 * GIB,
}


def read(event: dict[str, Any], *others: dict[str, Any], **known: Any) -> Facts:
    return facts_of("tune", event, [*others, event], {"r": 32, "max_memory": None}, **known)


def test_everything_that_a_worker_tells_is_used() -> None:
    facts = read(OOM, PLAN)
    assert (facts.run, facts.step, facts.phase, facts.card) == ("tune", 3, "backward", "Tesla T4")
    assert (facts.tokens, facts.in_memory, facts.rows, facts.length) == ((900, 850, 400, 120), 3600, 4, 900)
    assert (facts.effective, facts.rank, facts.documents_in_all) == (16, 32, 2000)
    assert facts.setup is not None
    assert (facts.setup.documents, facts.setup.length, facts.setup.method) == (4, 900, "qlora")
    # the allocator's own figures are exact, where the message's have two decimals
    assert (facts.told.requested, facts.told.slack, facts.told.allocated) == (140_509_184, 0, 14 * GIB)
    assert (facts.told.unallocated, facts.told.free, facts.told.total) == (2**28, 2**26, T4)
    assert facts.host == (12 * GIB, 9 * GIB)
    assert diagnose(facts).cause in Cause


def test_the_allocation_is_named_in_a_run() -> None:
    event = {**OOM, "record": None}
    found = diagnose(read(event, PLAN))
    assert found.cause == Cause.MLP
    assert found.sentence.startswith("At step 3, in the backward: an activation of the MLP, 3,600 tokens × 9,728")
    assert any("the size and the place in the code agree" in line for line in found.details)


def test_a_log_of_an_older_worker_is_enough_for_a_sentence() -> None:
    old = {"kind": "oom", "step": 5, "micro_batch": 8, "documents": 8, "message": out_of_memory(GIB).split(". If")[0]}
    found = diagnose(read(old, PLAN))
    assert found.sentence.startswith("At step 5: ")
    assert any(remedy.line == "per_device_train_batch_size: 4" for remedy in found.remedies)
    assert diagnose(read({"kind": "oom"})).sentence


@pytest.mark.parametrize("missing", list(OOM))
def test_no_field_is_needed(missing: str) -> None:
    event = {key: value for key, value in OOM.items() if key != missing}
    assert diagnose(read(event, PLAN)).sentence
    assert diagnose(read({**OOM, missing: None}, PLAN)).sentence


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(OOM)), anything), st.dictionaries(st.sampled_from(list(PLAN)), anything))
def test_no_field_of_the_wrong_kind_is_an_error(event: dict[str, Any], plan: dict[str, Any]) -> None:
    facts = facts_of("tune", {**OOM, **event}, [{**PLAN, **plan, "kind": "plan"}], {})
    assert diagnose(facts).sentence


def test_the_newest_is_found_and_a_failed_run_s_own_comes_first() -> None:
    first, last = {**OOM, "step": 1}, {**OOM, "step": 9}
    assert newest([PLAN, first, last]) == last
    failed = {"kind": "failed", "time": "t", "error": {"what": "x"}, "oom": {**OOM, "step": 12, "phase": "optimizer"}}
    found = newest([PLAN, first, failed])
    assert found is not None
    assert (found["step"], found["phase"]) == (12, "optimizer")
    assert newest([PLAN, {"kind": "failed", "error": {"what": "The model was not found."}}]) is None
    assert newest([]) is None


def test_a_failure_without_an_oom_of_its_own_is_read_from_its_words() -> None:
    error = {"what": "Out of memory while loading the model.", "why": out_of_memory(GIB)}
    found = newest([{"kind": "failed", "phase": "loading the model", "error": error}])
    assert found is not None
    facts = read(found, PLAN)
    assert facts.told.requested == GIB
    assert facts.phase == "loading"
    unknown = {
        "what": "The worker failed while training.",
        "why": "RuntimeError: CUDA error: device-side assert triggered",
    }
    found = newest([{"kind": "failed", "error": unknown}])
    assert found is not None
    assert "device-side assert" in found["message"]


def test_the_machine_s_memory_is_not_called_by_the_gpu_s_name() -> None:
    said = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes. Error code 12"
    own = {"message": said, "phase": "forward", "step": 2, "host": {"total": 12 * GIB, "free": GIB}}
    event = {"kind": "failed", "oom": own}
    found = newest([event])
    assert found is not None
    said = diagnose(read(found, {**PLAN, "device": "CPU with 2 cores, 12.0 GiB"})).sentence
    assert said == (
        "At step 2, in the forward: the machine's own memory had no room for one more piece of 8.0 GiB; "
        "1.0 GiB of 12.0 GiB were free."
    )
