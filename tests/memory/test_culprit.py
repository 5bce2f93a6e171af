"""Naming what memory ran out for: each cause in cases of its own, and the arithmetic for all sizes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pretended_allocator import GIB, T4, out_of_memory, written
from shapes import GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.memory.culprit import Cause, has_size, name, segment
from colab_magics.memory.diagnosis import diagnose
from colab_magics.memory.facts import Facts, Sizes, Tensor
from colab_magics.memory.messages import Told, read

MIB = 2**20
QWEN = Sizes.of_shape(QWEN3_4B, "qlora")
LLAMA = Sizes.of_shape(LLAMA_1B, "lora")
BIG = Sizes.of_shape(QWEN3_14B, "qlora")
SMALL = Sizes.of_shape(GPT2, "full")


def ran_out(tensor: int, *tokens: int, message: dict[str, Any] | None = None, **known: Any) -> Facts:
    """The facts of a tensor of so many bytes that found no room, with documents of these tokens in flight."""
    text = out_of_memory(tensor, **(message or {}))
    told = read(text)
    assert told is not None
    padded = {"in_memory": max(tokens, default=0) * len(tokens)}
    return Facts(text, told, tokens=tokens, **(padded | known))


CASES: list[tuple[str, Cause, Facts]] = [
    # the logits in fp32, as transformers' Trainer makes them; of all tokens or of all but the rows' last; in 16 bit
    ("fp32", Cause.LOGITS, ran_out(2048 * 151_936 * 4, 2048, sizes=QWEN)),
    ("shifted", Cause.LOGITS, ran_out((512 - 2) * 128_256 * 4, 256, 256, sizes=LLAMA)),
    ("16 bit", Cause.LOGITS, ran_out(8192 * 151_936 * 2, 8192, sizes=BIG)),
    ("a chunk", Cause.LOGITS, ran_out(441 * 151_936 * 4, 900, sizes=QWEN, loss_chunk=441)),
    ("place alone", Cause.LOGITS, ran_out(3 * GIB, sizes=QWEN, frames=("torch.nn.functional.cross_entropy:3504",))),
    # fp32 scores of the MATH kernel, 16-bit ones of eager attention
    ("math", Cause.SCORES, ran_out(32 * 4096**2 * 4, 4096, sizes=QWEN)),
    ("eager", Cause.SCORES, ran_out(2 * 32 * 3072**2 * 2, 3072, 2900, sizes=LLAMA)),
    (
        "sdpa",
        Cause.SCORES,
        ran_out(5 * GIB, sizes=QWEN, frames=("torch.nn.functional.scaled_dot_product_attention:1",)),
    ),
    (
        "a cell's own query",
        Cause.SCORES,
        ran_out(2 * 60_000**2 * 4, tensors=(Tensor("query", (1, 2, 60_000, 8), "float32"),)),
    ),
    (
        "a cell's own product",
        Cause.TENSOR,
        ran_out(
            8192 * 200_000 * 4, tensors=(Tensor("x", (4, 2048, 64), "float32"), Tensor("w", (200_000, 64), "float32"))
        ),
    ),
    ("packed", Cause.MASK, ran_out(16_384**2, *[2048] * 8, sizes=QWEN, packed=True)),
    ("in 16 bit", Cause.MASK, ran_out(12_000**2 * 2, *[1500] * 8, sizes=LLAMA, packed=True)),
    ("gate", Cause.WEIGHT, ran_out(2560 * 9728 * 2, 700, sizes=QWEN)),
    (
        "14b",
        Cause.WEIGHT,
        ran_out(5120 * 17_408 * 2, 333, sizes=BIG, frames=("bitsandbytes.functional.dequantize_4bit:1",)),
    ),
    ("16 bit", Cause.MLP, ran_out(8192 * 9728 * 2, 8192, sizes=QWEN)),
    ("fp32", Cause.MLP, ran_out(3000 * 8192 * 4, 3000, sizes=LLAMA)),
    ("fp32", Cause.HIDDEN, ran_out(8192 * 2560 * 4, 8192, sizes=QWEN)),
    ("16 bit", Cause.HIDDEN, ran_out(9000 * 2048 * 2, 9000, sizes=LLAMA)),
    ("4b", Cause.HEAD, ran_out(151_936 * 2560 * 4, 512, sizes=QWEN)),
    (
        "kbit",
        Cause.HEAD,
        ran_out(128_256 * 2048 * 4, sizes=LLAMA, frames=("peft.utils.other.prepare_model_for_kbit_training:160",)),
    ),
    ("first step", Cause.OPTIMIZER, ran_out(50_257 * 768 * 4, 512, sizes=SMALL, phase="optimizer", step=0, first=True)),
    ("by place", Cause.OPTIMIZER, ran_out(30 * MIB, sizes=LLAMA, frames=("torch.optim.adamw.AdamW._init_group:130",))),
    ("a linear", Cause.LOADING, ran_out(2048 * 8192 * 2, sizes=LLAMA, phase="loading")),
    ("an embedding", Cause.LOADING, ran_out(151_936 * 5120 * 2, sizes=BIG, phase="loading")),
    ("by place", Cause.LOADING, ran_out(7 * GIB, frames=("transformers.modeling_utils.caching_allocator_warmup:5",))),
    (
        "cat",
        Cause.CACHE,
        ran_out(32_768 * 1024 * 2, 32_768, sizes=QWEN, frames=("transformers.cache_utils.DynamicLayer.update:9",)),
    ),
    (
        "static",
        Cause.CACHE,
        ran_out(200 * MIB, sizes=LLAMA, frames=("transformers.cache_utils.StaticCache.__init__:7",)),
    ),
    (
        "copy",
        Cause.TENSOR,
        ran_out(64 * 3 * 1024 * 1024 * 4, tensors=(Tensor("images", (64, 3, 1024, 1024), "float32"),)),
    ),
    (
        "of the heads",
        Cause.SCORES,
        ran_out(32 * 5000**2 * 2, sizes=QWEN, tensors=(Tensor("w", (1, 32, 5000, 5000), "float16"),)),
    ),
    (
        "of the words",
        Cause.LOGITS,
        ran_out(3000 * 151_936 * 4, sizes=QWEN, tensors=(Tensor("out", (1, 3000, 151_936), "float16"),)),
    ),
    ("upcast", Cause.TENSOR, ran_out(9000 * 9001 * 4, tensors=(Tensor("w", (9000, 9001), "float16"),))),
    ("long", Cause.SAMPLE, ran_out(77 * MIB, 8000, sizes=LLAMA, usual=(*range(10, 1000, 10), 990, 1000))),
    ("longer", Cause.SAMPLE, ran_out(333 * MIB, 500, 30_000, usual=tuple(range(101)))),
    ("pieces", Cause.FRAGMENTATION, ran_out(GIB, message={"unallocated": 3 * GIB})),
    (
        "logits in pieces",
        Cause.FRAGMENTATION,
        ran_out(2048 * 151_936 * 4, 2048, sizes=QWEN, message={"unallocated": 2 * GIB}),
    ),
    (
        "more than others hold",
        Cause.FRAGMENTATION,
        ran_out(GIB, message={"unallocated": 3 * GIB, "others": {7: 2 * GIB}}),
    ),
    ("a notebook", Cause.OTHERS, ran_out(GIB, message={"others": {77: 6 * GIB}})),
    ("old words", Cause.OTHERS, ran_out(GIB, message={"allocated": 5 * GIB, "generation": "2.0"})),
    ("this kernel", Cause.OTHERS, ran_out(GIB, run="tune", kernel=9 * GIB)),
    ("a fraction", Cause.LIMIT, ran_out(GIB, message={"limit": 4 * GIB, "allocated": 4 * GIB - MIB, "free": 9 * GIB})),
    (
        "max_memory",
        Cause.LIMIT,
        ran_out(
            40 * MIB, message={"limit": GIB, "allocated": GIB - 9 * MIB, "free": 2 * GIB}, run="a", max_memory="1 GiB"
        ),
    ),
    ("half free", Cause.REFUSED, ran_out(GIB, message={"free": 8 * GIB})),
    ("all free", Cause.REFUSED, ran_out(4 * GIB, message={"free": 14 * GIB, "allocated": 0, "unallocated": 0})),
    ("36 GiB", Cause.OVERSIZED, ran_out(36 * GIB)),
    ("15 GiB", Cause.OVERSIZED, ran_out(15 * GIB, message={"free": 14 * GIB})),
    ("nothing known", Cause.FULL, ran_out(700 * MIB)),
    ("no such size", Cause.FULL, ran_out(701 * MIB, 512, sizes=QWEN)),
    ("small", Cause.FULL, ran_out(1000, 512, sizes=QWEN)),
    ("cublas", Cause.WORKSPACE, Facts("", Told("cublas"))),
    ("cudnn", Cause.WORKSPACE, Facts("", Told("cudnn"), run="a", phase="forward", step=3)),
    ("numpy", Cause.HOST, Facts("", Told("host", backend="CPU", requested=58 * GIB), host=(12 * GIB, 3 * GIB))),
    ("MemoryError", Cause.HOST, Facts("", Told("host", backend="CPU"))),
    (
        "a run's own",
        Cause.LIMIT,
        Facts("", Told("cpu", backend="CPU", requested=MIB, limit=44 * MIB), run="a", max_memory="44 MiB"),
    ),
    ("accelerate", Cause.EVERY_SIZE, Facts("", Told("retried", backend=""))),
    ("of a trainer", Cause.EVERY_SIZE, Facts("", Told("retried", backend=""), sizes=QWEN)),
    ("a card of tensors", Cause.FULL, ran_out(20 * MIB, message={"allocated": 14_640 * MIB, "unallocated": 100 * MIB})),
    ("no attention", Cause.TENSOR, ran_out(60_000**2 * 4, tensors=(Tensor("x1", (1, 1, 60_000, 3), "float32"),))),
]


@pytest.mark.parametrize(("label", "cause", "facts"), CASES, ids=[f"{cause}: {label}" for label, cause, _ in CASES])
def test_the_cause_is_named(label: str, cause: Cause, facts: Facts) -> None:
    found = diagnose(facts)
    assert found.cause == cause, found.sentence
    assert found.sentence.endswith(".")
    assert found.remedies


def test_sizes_of_what_merely_lies_in_the_notebook_are_told_as_a_guess() -> None:
    lies = diagnose(ran_out(2048 * 151_936 * 4, 2048, sizes=QWEN, near=False))
    assert lies.sentence.startswith("Perhaps the logits of 2,048 tokens × 151,936 words in fp32 (1.2 GiB) did not fit")
    assert any("the code that failed does not reach" in line for line in lies.details)
    reached = diagnose(ran_out(2048 * 151_936 * 4, 2048, sizes=QWEN))
    assert reached.sentence.startswith("The logits of 2,048 tokens")


def test_what_the_failing_code_reached_goes_before_what_lies_around() -> None:
    far, near = (Tensor(name, (9000, 9001), "float32", near) for name, near in (("far", False), ("near", True)))
    found = diagnose(ran_out(9000 * 9001 * 4, tensors=(far, near)))
    assert "a tensor of the size of `near`" in found.sentence.lower()
    assert "perhaps" not in found.sentence.lower()


def test_attention_of_one_s_own_is_offered_torch_s_kernel_and_not_an_argument_of_transformers() -> None:
    facts = ran_out(2 * 60_000**2 * 4, tensors=(Tensor("query", (1, 2, 60_000, 8), "float32"),))
    offered = [remedy.line for remedy in diagnose(facts).remedies]
    assert "F.scaled_dot_product_attention(query, key, value)" in offered
    assert not any("attn_implementation" in line for line in offered)


def test_a_line_of_the_cell_is_told_in_words() -> None:
    facts = ran_out(700 * MIB, frames=("this notebook.<module>:4", "this notebook.train:9", "torch.nn.f:1"))
    assert (
        "Where: torch.nn.f:1 ← train in this notebook, line 9 ← this notebook's cell, line 4" in diagnose(facts).details
    )


def test_every_cause_has_at_least_two_cases() -> None:
    counted = [cause for _, cause, _ in CASES]
    assert all(counted.count(cause) >= 2 for cause in Cause)


def test_the_sentence_names_the_thing_its_size_and_the_moment() -> None:
    facts = ran_out(2048 * 151_936 * 4, 2048, sizes=QWEN, run="tune", step=12, phase="forward", card="Tesla T4")
    said = diagnose(facts).sentence
    assert said.startswith("At step 12, in the forward: the logits of 2,048 tokens × 151,936 words in fp32 (1.2 GiB)")
    assert "did not fit on the Tesla T4" in said
    assert "of its 14.6 GiB were free" in said


def test_an_unusually_long_document_is_told_beside_what_it_filled() -> None:
    usual = tuple(range(0, 1010, 10))
    facts = ran_out(8192 * 9728 * 2, 8192, sizes=QWEN, usual=usual)
    found = diagnose(facts)
    assert found.cause == Cause.MLP
    assert "has 8,192 tokens, where 99% have at most 990" in found.sentence


def test_of_two_that_have_the_size_the_place_decides() -> None:
    # 4,096 tokens of a model whose MLP is as wide as its hidden states are long
    sizes = Sizes(vocabulary=32_000, hidden=4096, intermediate=4096, query=4096, key_value=4096, heads=32, layers=4)
    tensor = 16_384 * 4096 * 2
    by_cache = ran_out(tensor, 16_384, sizes=sizes, frames=("transformers.cache_utils.DynamicLayer.update:9",))
    by_mlp = ran_out(tensor, 16_384, sizes=sizes, frames=("m.modeling_llama.LlamaMLP.forward:9",))
    assert (name(by_cache).cause, name(by_mlp).cause) == (Cause.CACHE, Cause.MLP)
    assert name(by_mlp).certain == "size and place"


def test_an_outer_place_does_not_outvote_an_inner_one() -> None:
    frames = ("m.LlamaForCausalLM.forward:1", "m.LlamaModel.forward:2", "torch.nn.modules.sparse.Embedding.forward:3")
    assert name(ran_out(3 * GIB, sizes=LLAMA, frames=frames)).cause == Cause.FULL


def test_segments_are_those_of_the_allocator() -> None:
    assert [segment(size) for size in (1, MIB, MIB + 1, 10 * MIB - 513, 10 * MIB, 10 * MIB + 1, 85 * MIB + 3)] == [
        2 * MIB, 2 * MIB, 20 * MIB, 20 * MIB, 10 * MIB, 12 * MIB, 86 * MIB,
    ]  # fmt: skip


def test_what_shares_a_segment_with_all_others_is_told_by_no_size() -> None:
    for size in (3 * MIB, 9 * MIB):
        told = read(out_of_memory(size))
        assert told is not None
        assert not has_size(told, size)


# a segment of its own: from 20 MiB on
@given(st.integers(21 * MIB, 200 * GIB))
def test_a_size_is_recognised_in_the_message_that_it_makes(size: int) -> None:
    for generation in ("2.0", "2.1", "2.2"):
        told = read(out_of_memory(size, generation=generation))
        assert told is not None
        assert has_size(told, size)


@given(st.integers(21 * MIB, 200 * GIB), st.integers(21 * MIB, 200 * GIB))
def test_another_size_is_not_unless_the_two_are_written_alike(size: int, other: int) -> None:
    told = read(out_of_memory(size))
    assert told is not None
    alike = written(segment(size)) == written(segment(other))
    # at a border of two decimals the next value is as near
    near = abs(segment(size) - segment(other)) <= 2 * told.slack
    assert alike <= has_size(told, other)
    assert has_size(told, other) <= (alike or near)


@given(
    st.sampled_from([QWEN, LLAMA, BIG, SMALL]),
    st.integers(1, 16),
    st.integers(64, 16_384),
    st.sampled_from([2, 4]),
)
def test_logits_are_named_for_any_batch_and_length(sizes: Sizes, rows: int, length: int, width: int) -> None:
    tensor = rows * length * sizes.vocabulary * width
    assume(21 * MIB < segment(tensor) < 0.9 * T4)
    frames = ("transformers.loss.loss_utils.ForCausalLMLoss:55",)
    found = name(ran_out(tensor, *[length] * rows, sizes=sizes, frames=frames))
    assert found.cause == Cause.LOGITS
    assert found.certain == "size and place"
    assert found.allocation is not None
    assert segment(found.allocation.bytes) == pytest.approx(segment(tensor), rel=0.005)


@given(st.sampled_from([QWEN, LLAMA, BIG]), st.integers(1, 4), st.integers(512, 8192), st.sampled_from([2, 4]))
def test_attention_scores_are_named_for_any_batch_and_length(
    sizes: Sizes, rows: int, length: int, width: int
) -> None:  # fmt: skip
    tensor = rows * sizes.heads * length**2 * width
    assume(21 * MIB < segment(tensor) < 0.9 * T4)
    frames = ("transformers.integrations.sdpa_attention.sdpa_attention_forward:90",)
    found = name(ran_out(tensor, *[length] * rows, sizes=sizes, frames=frames))
    assert (found.cause, found.certain) == (Cause.SCORES, "size and place")
