"""What to change, ordered by the bytes that it saves for this very run.

Each saving is the difference of two estimates, one thing changed; so only what changes something is said. Where the
model is not known, what can be said is said without a figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from colab_magics.memory.culprit import Cause, Culprit
from colab_magics.memory.estimate import estimate
from colab_magics.memory.facts import Facts
from colab_magics.plan import ModelShape, Setup, cap_for

_LEAST = 32 * 2**20  # bytes; less is not worth a line,
_SHARE = 0.05  # unless it is that much of what a small run holds
_FEWER_ROWS = ("max_train_samples: (fewer), or a smaller model", "in the recipe")
_LESS_AT_A_TIME = ("less at a time", "a smaller array, batch or part of the file")
_MARGIN = 1.1  # of what is looked for: the estimate is within 6% (12% at worst)
_MOST_DOCUMENTS = 1024
_CHUNK = 512  # rows of logits
_SEGMENTS = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


@dataclass(frozen=True)
class Remedy:
    """One change.

    Attributes
    ----------
    line : to paste, into the recipe or a cell
    note : what it costs, or where it goes
    saves : bytes; None where no estimate can be asked
    enough : whether it alone is; None where that is not known
    """

    line: str
    note: str = ""
    saves: int | None = None
    enough: bool | None = None


def remedies(facts: Facts, culprit: Culprit) -> tuple[Remedy, ...]:
    """What helps, the most helpful first: what undoes the cause itself, then by bytes."""
    first = list(_of_the_cause(facts, culprit))
    changed = sorted(_of_the_recipe(facts, culprit), key=lambda one: -(one.saves or 0))
    if not facts.run and culprit.cause in _BY_CAUSE:
        general = _general(facts, culprit.cause)
        changed += [general] if all(one.line != general.line for one in changed) else []
    if not first and not changed:
        first = list(_last_resort(facts))
    return (*first, *changed)


def short_by(facts: Facts, culprit: Culprit) -> int | None:
    """Bytes that must be saved: what this allocation lacked, or all that is then held beyond what may be used."""
    missing = facts.missing
    total = facts.told.total or facts.total
    if facts.shape is None or facts.setup is None:
        return missing
    if facts.told.on_host:
        if facts.told.limit is None:
            return missing
        # what was to spare was not: by how much the estimate says nothing
        return max(0, _held(facts.shape, facts.setup, culprit) - facts.told.limit) or missing
    if not total:
        return missing
    room = min(total, facts.told.limit or total) - (facts.kernel or facts.told.by_others)
    return max(missing or 0, _held(facts.shape, facts.setup, culprit) - room)


def _held(shape: ModelShape, setup: Setup, culprit: Culprit) -> int:
    """Estimated bytes where it struck: while weights are loaded, or states are made, nothing of a batch is there."""
    parts = estimate(shape, setup)
    match culprit.allocation.cause if culprit.allocation is not None else culprit.cause:
        case Cause.LOADING:
            return parts.weights
        case Cause.OPTIMIZER:
            return parts.weights + parts.adapters + parts.gradients + parts.optimizer
        case _:
            return parts.peak


def _of_the_cause(facts: Facts, culprit: Culprit) -> Iterator[Remedy]:
    told = facts.told
    if facts.kernel and facts.kernel >= _LEAST and (facts.run or culprit.cause is Cause.OTHERS):
        note = "this notebook's own kernel holds that much of the card"
        yield Remedy("%vram free", note, facts.kernel, _enough(facts, culprit, facts.kernel))
    match culprit.cause:
        case Cause.OTHERS:
            for pid, size in sorted(told.others, key=lambda one: -one[1])[:3]:
                if size >= _LEAST:
                    note = "another notebook or program: shut its kernel down"
                    yield Remedy(f"end process {pid}", note, size, _enough(facts, culprit, size))
            if told.elsewhere >= _LEAST and not facts.kernel:
                note = "another notebook (Running Terminals and Kernels) or program (nvidia-smi names it)"
                yield Remedy(
                    "shut down what else is on the GPU", note, told.elsewhere, _enough(facts, culprit, told.elsewhere)
                )
        case Cause.FRAGMENTATION:
            yield _expandable(facts, enough=True)
        case Cause.LIMIT:
            if facts.max_memory and told.on_host:
                yield _more(facts)
            elif facts.max_memory:
                yield Remedy(f"max_memory: (now {facts.max_memory}; raise it, or leave it out)", "in the recipe")
            elif facts.process_limit is not None:
                name = facts.process_limit[0]
                note = "the limit is set in this notebook, or for all that is started here (ulimit)"
                yield Remedy(f"raise {name} with resource.setrlimit", note)
            elif told.kind != "mps":
                yield Remedy(
                    "torch.cuda.set_per_process_memory_fraction(1.0)", "the limit is set somewhere in the notebook"
                )  # fmt: skip
        case Cause.REFUSED:
            yield Remedy("restart the kernel", "then nothing of an earlier failure is left on the card")
        case Cause.HOST:
            if _others_matter(facts):
                yield Remedy("end other notebooks", "it is the machine's memory, not the GPU's")
            yield Remedy(*(_FEWER_ROWS if facts.run else _LESS_AT_A_TIME))
        case Cause.EVERY_SIZE:
            yield Remedy("call the function once with batch_size=1", "outside of the decorator: that error has figures")
            yield Remedy("gradient checkpointing, or shorter texts", "if this is a training")
            yield Remedy("%vram", "shows what fills the GPU now")
        case Cause.FULL if told.requested is None:
            yield Remedy("%vram", "shows what fills the GPU now")
        case _:
            pass
    spare = told.unallocated or 0
    if culprit.cause not in (Cause.FRAGMENTATION, Cause.REFUSED) and spare >= max(_LEAST, (told.requested or 0) // 2):
        yield _expandable(facts, enough=None)


def _more(facts: Facts) -> Remedy:
    """A `max_memory` by which the run as it stands would fit, as it is written into the recipe."""
    note = f"in the recipe, now {facts.max_memory}; or leave it out"
    if facts.shape is None or facts.setup is None:
        return Remedy("max_memory: (more)", note)
    peak, limit = estimate(facts.shape, facts.setup).peak, facts.told.limit or 0
    # where the estimate had room for it, what took that room is not known, nor whether this is enough
    enough = True if peak > limit else None
    return Remedy(f"max_memory: {cap_for(max(peak, limit + (facts.told.requested or 0)))}", note, enough=enough)


def _others_matter(facts: Facts) -> bool:
    """Whether what other processes of the machine hold could have made the room."""
    total, free = facts.host or (facts.total, 0)
    if total is None:
        return True
    return facts.told.requested <= total if facts.told.requested is not None else free < total / 2


def _expandable(facts: Facts, *, enough: bool | None) -> Remedy:
    where = "before the cell that trains" if facts.run else "in the first cell; then restart the kernel"
    return Remedy(f"%env {_SEGMENTS}", where, facts.told.unallocated, enough)


def _of_the_recipe(facts: Facts, culprit: Culprit) -> Iterator[Remedy]:
    if (
        facts.shape is None
        or facts.setup is None
        or culprit.cause in (Cause.OTHERS, Cause.FRAGMENTATION, Cause.REFUSED)
    ):
        yield from _without_an_estimate(facts, culprit)
        return
    before = _held(facts.shape, facts.setup, culprit)
    for line, note, changed, factor in _changes(facts, facts.setup, culprit):
        shape = facts.shape
        if factor != 1.0:
            shape = replace(shape, lora_parameters=round(shape.lora_parameters * factor))
        saves = before - _held(shape, changed, culprit)
        if saves >= min(_LEAST, _SHARE * before):
            yield Remedy(line, note, saves, _enough(facts, culprit, saves))


def _changes(facts: Facts, setup: Setup, culprit: Culprit) -> Iterator[tuple[str, str, Setup, float]]:
    """(line, note, the setup with it, what becomes of the adapters)"""
    own = not facts.run
    written = _argument if own else _recipe
    if setup.documents > 1:
        documents = _fewer(facts, setup, culprit)
        note = _kept(facts, setup.documents, documents)
        yield written("per_device_train_batch_size", documents), note, replace(setup, documents=documents), 1.0
    if not setup.gradient_checkpointing:
        changed = replace(setup, gradient_checkpointing=True)
        yield written("gradient_checkpointing", True), "a third more compute", changed, 1.0
    if setup.method in ("lora", "full") and not own:
        yield "method: qlora", "the base model in 4 bits", replace(setup, method="qlora"), 1.0
    if setup.method == "full" and not own:
        yield "method: lora", "trains adapters instead of all weights", replace(setup, method="lora"), 1.0
    length = _shorter(facts, setup, culprit)
    if length is not None:
        yield written("max_length", length), _cut(facts, length), replace(setup, length=length), 1.0
    if "8bit" not in setup.optim and setup.optim != "adafactor":
        narrow = "adamw_8bit" if facts.told.on_host else "paged_adamw_8bit"
        yield written("optim", narrow), "", replace(setup, optim=narrow), 1.0
    if own and setup.attention == "eager":
        yield 'attn_implementation="sdpa"', "in from_pretrained", replace(setup, attention="fused"), 1.0
    if own and (setup.loss == "logits" or setup.attention == "math"):
        what = "never holds all logits at once" if setup.loss == "logits" else "takes the kernel that keeps no scores"
        changed = replace(setup, loss="hidden", attention="fused", loss_chunk=min(_CHUNK, setup.loss_chunk))
        yield "%%finetune", what, changed, 1.0
    if facts.rank > 8 and setup.method != "full":
        yield "r: 8", f"now {facts.rank}", setup, 8 / facts.rank
    if setup.packed and setup.documents > 1:
        yield "packing: false", "without the mask of packed documents", replace(setup, packed=False), 1.0


def _recipe(key: str, value: int | bool | str) -> str:
    return f"{key}: {str(value).lower() if isinstance(value, bool) else value}"


def _argument(key: str, value: int | bool | str) -> str:
    return f"{key}={value!r}"


def _fewer(facts: Facts, setup: Setup, culprit: Culprit) -> int:
    """The largest smaller micro-batch that is enough, of those that the effective batch can be split into."""
    whole = facts.effective or setup.documents
    largest = min(setup.documents - 1, _MOST_DOCUMENTS)
    sizes = [size for size in range(largest, 0, -1) if whole % size == 0] or [1]
    if short_by(facts, culprit) is None:
        return sizes[0]
    for size in sizes:
        if _is_enough(facts, culprit, replace(setup, documents=size)):
            return size
    return sizes[-1]


def _shorter(facts: Facts, setup: Setup, culprit: Culprit) -> int | None:
    """A length that is enough, in 64s; half of it where none is, and none for what is short already."""
    short, long = 2, (setup.length - 1) // 64 + 1  # in 64s: one that may be enough, one that is not
    if not _is_enough(facts, culprit, replace(setup, length=64 * short)):
        half = setup.length // 2 // 64 * 64
        return half if half >= 64 * short else None
    while long - short > 1:
        middle = (short + long) // 2
        if _is_enough(facts, culprit, replace(setup, length=64 * middle)):
            short = middle
        else:
            long = middle
    return 64 * short if 64 * short < setup.length else None


def _is_enough(facts: Facts, culprit: Culprit, changed: Setup) -> bool:
    assert facts.shape is not None
    assert facts.setup is not None
    saves = _held(facts.shape, facts.setup, culprit) - _held(facts.shape, changed, culprit)
    return bool(_enough(facts, culprit, int(saves / _MARGIN)))


def _kept(facts: Facts, before: int, documents: int) -> str:
    """What keeps the effective batch as it is."""
    if facts.run:
        if not facts.effective:
            return "the effective batch stays"
        accumulation = max(1, facts.effective // documents)
        return f"the effective batch stays {facts.effective}, with gradient_accumulation_steps: {accumulation}"
    given = (facts.arguments or {}).get("gradient_accumulation_steps")
    steps = (given if isinstance(given, int) else 1) * before
    return f"gradient_accumulation_steps={-(-steps // documents)} keeps the effective batch"


def _cut(facts: Facts, length: int) -> str:
    """How many documents are longer, from the quantiles of their lengths."""
    if len(facts.usual) != 101:
        return "longer documents are cut"
    longer = sum(one > length for one in facts.usual) / len(facts.usual)
    if facts.documents_in_all:
        number = round(longer * facts.documents_in_all)
        return f"cuts about {number:,} of {facts.documents_in_all:,} documents"
    return f"cuts about {longer:.0%} of the documents"


def _enough(facts: Facts, culprit: Culprit, saves: int) -> bool | None:
    missing = short_by(facts, culprit)
    return None if missing is None else saves >= missing


_BY_CAUSE: dict[Cause, tuple[str, str]] = {
    Cause.LOGITS: ("%%finetune", "never holds all logits at once, nor does TRL 1.16"),
    Cause.SCORES: ('attn_implementation="sdpa"', "in from_pretrained: its kernels keep no scores where they can"),
    Cause.HEAD: ("leave out prepare_model_for_kbit_training", "it makes embeddings and head fp32"),
    Cause.LOADING: ("load_in_4bit=True", "BitsAndBytesConfig(...) as quantization_config, or a smaller model"),
    Cause.OPTIMIZER: ('optim="paged_adamw_8bit"', "or train adapters (LoRA) instead of all weights"),
    Cause.CACHE: ("max_new_tokens=", "smaller, or fewer prompts at a time"),
    Cause.OVERSIZED: ("a smaller batch, image or length", "no card of this size can hold that"),
}


def _general(facts: Facts, cause: Cause) -> Remedy:
    """What helps against that cause in any cell."""
    if cause is Cause.SCORES and not facts.sizes.hidden:
        return Remedy("F.scaled_dot_product_attention(query, key, value)", "its kernels keep no scores where they can")
    if cause is Cause.OVERSIZED and facts.told.kind == "mps":
        return Remedy(_BY_CAUSE[cause][0], "in parts: no Mac makes one buffer of that size")
    return Remedy(*_BY_CAUSE[cause])


def _without_an_estimate(facts: Facts, culprit: Culprit) -> Iterator[Remedy]:
    cause = culprit.allocation.cause if culprit.allocation is not None else culprit.cause
    if facts.run or culprit.cause in (Cause.OTHERS, Cause.FRAGMENTATION, Cause.REFUSED):
        return
    if cause in _BY_CAUSE and cause != culprit.cause:
        yield _general(facts, cause)
    if facts.told.unsure:
        yield Remedy(".contiguous()", "on the input: a view that is not in one piece is the other usual reason")
    if not facts.told.on_host and cause not in (
        Cause.LOADING,
        Cause.OPTIMIZER,
        Cause.OVERSIZED,
        Cause.EVERY_SIZE,
    ):
        yield Remedy("a smaller batch", "or shorter texts; gradient checkpointing if this is a training")


def _last_resort(facts: Facts) -> Iterator[Remedy]:
    if facts.told.on_host:
        yield Remedy("a smaller model", "or a machine with more memory") if facts.run else Remedy(*_LESS_AT_A_TIME)
        return
    yield Remedy("a smaller model, or a larger GPU", "%session plan compares platforms" if facts.run else "")
