"""Naming what memory ran out for, by arithmetic.

PyTorch asks the driver for whole segments, and the message gives their size to two decimals. A model has few sizes,
and they are odd numbers: a segment of 1.74 GiB with 2,048 tokens and 151,936 words is a table of logits, and hardly
anything else. Where two things have the size, the innermost frames decide; where none has, frames alone may tell;
and where nothing tells, the card is simply full.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from colab_magics.memory.facts import Facts
from colab_magics.memory.messages import EVERYTHING, Told

_MIB = 2**20
_SMALL, _SMALL_SEGMENT = _MIB, 2 * _MIB
_LARGE, _LARGE_SEGMENT = 10 * _MIB, 20 * _MIB
_CHUNK = 512
_MOST_OF_A_CARD = 0.97  # the driver keeps some, and CUDA's context needs some
_ROUNDING = 2**30 // 100
_FULL_OF_TENSORS = 0.975  # of a card: so full it would be also without holes
_HUGE = 2**29  # bytes in one piece


class Cause(StrEnum):
    """Why memory ran out: a closed set."""

    LOGITS = "logits"
    SCORES = "attention scores"
    MASK = "attention mask"
    WEIGHT = "dequantised weight"
    MLP = "MLP activation"
    HIDDEN = "hidden states"
    HEAD = "output head in fp32"
    OPTIMIZER = "optimizer states"
    LOADING = "the model's weights"
    CACHE = "KV cache"
    TENSOR = "a tensor of the cell"
    SAMPLE = "an unusually long document"
    FRAGMENTATION = "fragmentation"
    OTHERS = "another process"
    LIMIT = "a limit that was set"
    REFUSED = "the driver refused"
    OVERSIZED = "more than the whole card"
    WORKSPACE = "a library's workspace"
    HOST = "the machine's memory"
    FULL = "a full card"
    EVERY_SIZE = "every batch size"


@dataclass(frozen=True)
class Allocation:
    """A thing of a known size: what it is, in words, and the product that is its bytes.

    `near` unless its sizes are of something that the failing code did not reach.
    """

    cause: Cause
    words: str
    bytes: int
    factors: str
    near: bool = True


@dataclass(frozen=True)
class Culprit:
    """The cause, and what was being allocated when it struck, if that could be told.

    `certain` is how it was told: by "size and place", "size", "place", or "figures" (of the message alone).
    """

    cause: Cause
    allocation: Allocation | None
    certain: str

    @property
    def guessed(self) -> bool:
        """Whether nothing but the size speaks for it, of something that merely lies in the notebook."""
        return self.certain == "size" and self.allocation is not None and not self.allocation.near


def segment(size: int) -> int:
    """What the caching allocator asks the driver for, when a tensor of `size` bytes finds no block."""
    size = max(_CHUNK, -(-size // _CHUNK) * _CHUNK)
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _LARGE:
        return _LARGE_SEGMENT
    return -(-size // _SMALL_SEGMENT) * _SMALL_SEGMENT


def has_size(told: Told, size: int) -> bool:
    """Whether a tensor of `size` bytes makes this message; of those that fill one segment together, no one does."""
    if told.requested is None or size <= 0:
        return False
    asked = segment(size) if told.kind == "cuda" else size
    if told.kind == "cuda" and asked <= _LARGE_SEGMENT:
        return False
    return abs(asked - told.requested) <= told.slack


def name(facts: Facts) -> Culprit:
    """The cause, by size, place and figures."""
    told = facts.told
    allocation, certain = _allocation(facts)
    around = _around(facts, allocation)
    if around is not None:
        return Culprit(around, allocation, certain if allocation is not None else "figures")
    if allocation is not None:
        return Culprit(allocation.cause, allocation, certain)
    if told.kind == "retried":
        return Culprit(Cause.EVERY_SIZE, None, "figures")
    if told.kind in ("cublas", "cudnn", "nccl", "library"):
        return Culprit(Cause.WORKSPACE, None, "figures")
    if told.on_host:
        return Culprit(Cause.HOST, None, "figures")
    if facts.unusual is not None:
        return Culprit(Cause.SAMPLE, None, "figures")
    return Culprit(Cause.FULL, None, "figures")


def _around(facts: Facts, allocation: Allocation | None) -> Cause | None:
    """What outweighs the allocation itself: without it, there would have been room for it."""
    told = facts.told
    requested, free, total = told.requested, told.free, told.total
    if told.on_host and (told.limit is not None or facts.process_limit is not None):
        return Cause.LIMIT
    if told.kind == "mps" and requested is not None and told.limit is None:
        return Cause.OVERSIZED
    if requested is None or told.on_host or told.kind == "mps":
        return None
    if requested >= _MOST_OF_A_CARD * (total or EVERYTHING):
        return None if allocation is not None else Cause.OVERSIZED
    if total is None:
        return None
    if told.limit is not None and (free is None or free >= requested):
        beyond = (told.reserved or 0) + requested + _ROUNDING > told.limit
        return Cause.LIMIT if beyond else Cause.REFUSED
    if free is None:
        return Cause.REFUSED if told.reserved is not None and told.reserved + requested < total / 2 else None
    if free >= requested + total / 20:
        return Cause.REFUSED
    # of two that would have been enough each, the one that would have given more back
    in_pieces = told.fragmented and (told.allocated or 0) < _FULL_OF_TENSORS * total
    spare = (told.unallocated or 0) if in_pieces else 0
    others = max(told.by_others, facts.kernel or 0)
    if others >= max(requested - free, total / 16) and others > spare:
        return Cause.OTHERS
    return Cause.FRAGMENTATION if spare else None


def _allocation(facts: Facts) -> tuple[Allocation | None, str]:
    fitting = [one for one in allocations(facts) if has_size(facts.told, one.bytes)]
    fitting.sort(key=lambda one: not one.near)
    strong, weak = _hints(facts.frames)
    for hint in (strong, weak):
        for one in fitting:
            if one.cause == hint:
                return one, "size and place"
    if strong is not None:
        return _by_place(facts, strong), "place"
    if fitting:
        return fitting[0], "size"
    if weak is not None and (facts.told.requested or 0) >= _HUGE:  # nothing else there is as large
        return _by_place(facts, weak), "place"
    by_phase = {"loading": Cause.LOADING, "optimizer": Cause.OPTIMIZER}.get(facts.phase)
    return (_by_place(facts, by_phase), "place") if by_phase is not None else (None, "")


def allocations(facts: Facts) -> Iterator[Allocation]:
    """All that this model allocates with these tokens, likeliest first; only what the phase can hold."""
    if facts.phase == "loading":
        yield from _weights(facts, Cause.LOADING)
        return
    if facts.phase in ("optimizer", "clipping"):
        yield from _weights(facts, Cause.OPTIMIZER)
        return
    for one in (*_of_tokens(facts), *_of_weights(facts)):
        yield one if facts.near else replace(one, near=False)
    yield from _of_tensors(facts)
    yield from _of_products(facts)


def _of_tokens(facts: Facts) -> Iterator[Allocation]:
    sizes, tokens, rows, length = facts.sizes, facts.in_memory, facts.rows, facts.length
    if not tokens:
        return
    shown = f"{rows:,} × {length:,}" if rows > 1 else f"{length:,}"
    # the label of a token is the next one: some losses leave out the last logits of each row
    for count in dict.fromkeys((tokens, tokens - rows, min(facts.loss_chunk, tokens))):
        for width in (4, 2):
            yield _logits(count, sizes.vocabulary, width)
    for width in (4, 2):
        words = f"the attention scores of {_count(rows, 'row')} × {sizes.heads} heads × {length:,} × {length:,} tokens"
        size = rows * sizes.heads * length * length * width
        factors = f"{rows} × {sizes.heads} × {length:,} × {length:,} × {width}"
        yield Allocation(Cause.SCORES, f"{words} in {_dtype(width)}", size, factors)
    for width in (1, 2, 4):
        words = "the mask of the packed documents" if facts.packed else "the attention's mask"
        size = rows * length * length * width
        yield Allocation(Cause.MASK, f"{words}, {shown} × {length:,}", size, f"{shown} × {length:,} × {width}")
    for columns in (sizes.intermediate, 2 * sizes.intermediate):  # some make gate and up at once
        for width in (2, 4):
            words = f"an activation of the MLP, {tokens:,} tokens × {columns:,}"
            size = tokens * columns * width
            yield Allocation(Cause.MLP, f"{words} in {_dtype(width)}", size, f"{tokens:,} × {columns:,} × {width}")
    for width in (2, 4):
        words = f"hidden states, {tokens:,} tokens × {sizes.hidden:,}"
        size = tokens * sizes.hidden * width
        yield Allocation(
            Cause.HIDDEN, f"{words} in {_dtype(width)}", size, f"{tokens:,} × {sizes.hidden:,} × {width}"
        )  # fmt: skip
        words = f"keys or values of {tokens:,} tokens × {sizes.key_value:,}, kept to go on from them"
        size = tokens * sizes.key_value * width
        yield Allocation(Cause.CACHE, words, size, f"{tokens:,} × {sizes.key_value:,} × {width}")


def _of_weights(facts: Facts) -> Iterator[Allocation]:
    sizes = facts.sizes
    if sizes.vocabulary and sizes.hidden:
        size, factors = 4 * sizes.vocabulary * sizes.hidden, f"{sizes.vocabulary:,} × {sizes.hidden:,} × 4"
        yield Allocation(Cause.HEAD, "the embedding or the output head in fp32", size, factors)
    if sizes.quantised:
        for rows, columns in _linear(facts):
            words = f"a weight of {rows:,} × {columns:,}, taken out of its 4 bits for one multiplication"
            yield Allocation(Cause.WEIGHT, words, 2 * rows * columns, f"{rows:,} × {columns:,} × 2")
    if not facts.run and not facts.phase:
        yield from _weights(facts, Cause.LOADING)


def _weights(facts: Facts, cause: Cause) -> Iterator[Allocation]:
    what = "a weight" if cause is Cause.LOADING else "an optimizer state for a weight"
    vocabulary = [(facts.sizes.vocabulary, facts.sizes.hidden)] if facts.sizes.vocabulary else []
    for rows, columns in [*_linear(facts), *vocabulary]:
        for width in (2, 4):
            words = f"{what} of {rows:,} × {columns:,} in {_dtype(width)}"
            yield Allocation(cause, words, rows * columns * width, f"{rows:,} × {columns:,} × {width}")


def _linear(facts: Facts) -> list[tuple[int, int]]:
    h, i, q, kv = facts.sizes.hidden, facts.sizes.intermediate, facts.sizes.query, facts.sizes.key_value
    pairs = [(h, i), (h, q), (h, kv), (h, 2 * i), (h, q + 2 * kv)]
    return list(dict.fromkeys(pair for pair in pairs if all(pair)))


def _of_tensors(facts: Facts) -> Iterator[Allocation]:
    for tensor in facts.tensors:
        shown = " × ".join(f"{size:,}" for size in tensor.shape)
        own = tensor.bytes // max(1, tensor.elements)
        for width in dict.fromkeys((own, 4, 2)):
            words = f"a tensor of the size of `{tensor.name}` ({shown}) in {_dtype(width)}"
            cause, size = _like(facts, tensor.shape), tensor.elements * width
            yield Allocation(cause, words, size, f"{shown} × {width}", tensor.near)


# what says that four dimensions are rows, heads, tokens and the width of a head
_ATTENDS = re.compile(r"(q|k|query|key|queries|keys)(_\w+)?$")
_ATTENTION = re.compile(r"[Aa]tt(entio)?n|sdpa|MultiHead")


def _of_products(facts: Facts) -> Iterator[Allocation]:
    """What the tensors at hand make when they are multiplied: each token with each, or one matrix with another."""
    for tensor in facts.tensors:
        if len(tensor.shape) == 4:
            rows, heads, length, _ = tensor.shape
            shown = f"{rows} × {heads} × {length:,} × {length:,}"
            attends = _ATTENDS.match(tensor.name) or any(_ATTENTION.search(frame) for frame in facts.frames)
            what = "attention scores of" if attends else "a value for each pair of rows of"
            cause = Cause.SCORES if attends else Cause.TENSOR
            for width in (4, 2):
                words = f"{what} `{tensor.name}`, {shown} in {_dtype(width)}"
                size = rows * heads * length**2 * width
                yield Allocation(cause, words, size, f"{shown} × {width}", tensor.near)
    for left in facts.tensors:
        for right in facts.tensors:
            if len(left.shape) < 2 or len(right.shape) != 2 or left.shape[-1] not in right.shape:
                continue
            columns = right.shape[1] if left.shape[-1] == right.shape[0] else right.shape[0]
            rows = left.elements // max(1, left.shape[-1])
            for width in (4, 2):
                words = f"the product of `{left.name}` and `{right.name}`, {rows:,} × {columns:,} in {_dtype(width)}"
                near = left.near and right.near
                yield Allocation(Cause.TENSOR, words, rows * columns * width, f"{rows:,} × {columns:,} × {width}", near)


def _like(facts: Facts, shape: tuple[int, ...]) -> Cause:
    """What a tensor of this shape is."""
    sizes = facts.sizes
    if len(shape) >= 2 and sizes.vocabulary and shape[-1] == sizes.vocabulary:
        return Cause.LOGITS
    if len(shape) == 4 and shape[-1] == shape[-2] and sizes.heads and shape[1] == sizes.heads:
        return Cause.SCORES
    return Cause.TENSOR


def _logits(tokens: int, vocabulary: int, width: int) -> Allocation:
    words = f"the logits of {tokens:,} tokens × {vocabulary:,} words in {_dtype(width)}"
    return Allocation(Cause.LOGITS, words, tokens * vocabulary * width, f"{tokens:,} × {vocabulary:,} × {width}")


_PLACES: tuple[tuple[Cause, bool, str], ...] = (
    (Cause.HEAD, True, r"kbit_training"),
    (Cause.WEIGHT, True, r"dequanti[sz]e|MatMul4Bit|matmul_4bit|MatMul8bit"),
    (Cause.OPTIMIZER, True, r"torch\.optim\.|bitsandbytes\.optim|_init_group|Optimizer\.step|init_state"),
    (Cause.LOADING, True, r"from_pretrained|load_state_dict|set_module_tensor|caching_allocator_warmup|model_loading"),
    (
        Cause.LOADING,
        True,
        r"Module\.(to|cuda|half|float|_apply)\b|Params4bit\.(to|cuda)\b|safetensors|_merge|get_delta_weight",
    ),
    (Cause.CACHE, True, r"cache_utils|(Dynamic|Static|KV)_?Cache\b"),
    (Cause.MASK, True, r"masking_utils|causal_mask|_Packing\.mask"),
    (
        Cause.LOGITS,
        True,
        r"cross_entropy|CausalLMLoss|log_?softmax|convert_to_fp32|log_?probs?\b|lm_head|training\.loss\.",
    ),
    (Cause.SCORES, True, r"eager_attention|scaled_dot_product|sdpa_attention|attn_varlen"),
    (Cause.MLP, True, r"MLP\.forward|\bmlp\b|FeedForward\.forward"),
    (Cause.SCORES, False, r"[Aa]ttention\w*\.forward|[Aa]ttention\.\w+:"),
    (Cause.LOGITS, False, r"For(CausalLM|ConditionalGeneration)\.forward|LMHeadModel\.forward"),
)
_TOLD_BY_NOBODY = re.compile(r"Model\.forward|DecoderLayer\.forward")  # whatever encloses it says nothing of it
_NEAR = 12  # frames


def _hints(frames: tuple[str, ...]) -> tuple[Cause | None, Cause | None]:
    """(what the innermost telling frame surely does, what it may do)"""
    weak = None
    for frame in reversed(frames[-_NEAR:]):
        for cause, strong, pattern in _PLACES:
            if re.search(pattern, frame):
                if strong:
                    return (cause, weak) if weak is None else (None, weak)
                weak = weak or cause
        if _TOLD_BY_NOBODY.search(frame):
            break
    return None, weak


def _by_place(facts: Facts, cause: Cause) -> Allocation:
    """What the place says, with the tokens that would have the size where only they are unknown."""
    requested = facts.told.requested or 0
    if cause is Cause.LOGITS and facts.sizes.vocabulary and not facts.in_memory and requested > _LARGE_SEGMENT:
        tokens = requested / (4 * facts.sizes.vocabulary)
        words = f"the logits of about {_about(tokens)} tokens × {facts.sizes.vocabulary:,} words in fp32"
        return Allocation(cause, words, requested, f"about {_about(tokens)} × {facts.sizes.vocabulary:,} × 4")
    return Allocation(cause, _WORDS[cause], requested, "")


_WORDS = {
    Cause.LOGITS: "the logits, or what the loss makes of them",
    Cause.SCORES: "the attention's scores, which grow with the square of the length,",
    Cause.MASK: "the attention's mask",
    Cause.WEIGHT: "a weight, taken out of its 4 bits for one multiplication",
    Cause.MLP: "an activation of the MLP",
    Cause.HIDDEN: "hidden states",
    Cause.HEAD: "the embedding or the output head in fp32",
    Cause.OPTIMIZER: "the optimizer's states",
    Cause.LOADING: "weights of the model",
    Cause.CACHE: "the KV cache",
    Cause.TENSOR: "a tensor",
}


def _about(value: float) -> str:
    return f"{round(value, -1):,.0f}" if value >= 1000 else f"{value:,.0f}"


def _dtype(width: int) -> str:
    return {8: "64 bit", 4: "fp32", 2: "16 bit", 1: "bytes"}.get(width, f"{width} bytes each")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
