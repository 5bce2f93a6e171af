"""From facts to a diagnosis: one sentence that names the allocation and when it struck, details, remedies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from colab_magics.memory.culprit import Cause, Culprit, name
from colab_magics.memory.facts import Facts
from colab_magics.memory.messages import EVERYTHING
from colab_magics.memory.remedies import Remedy, remedies, short_by
from colab_magics.sizes import size


@dataclass(frozen=True)
class Diagnosis:
    """What is told of one time that memory ran out."""

    cause: Cause | None
    sentence: str
    details: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()


def diagnose(facts: Facts) -> Diagnosis:
    """The cause in a sentence, the figures it rests on, and what to change."""
    culprit = name(facts)
    when, what = _when(facts, culprit), _what(facts, culprit)
    sentence = f"{when}{what if when else what[0].upper() + what[1:]}."
    return Diagnosis(culprit.cause, sentence, tuple(_details(facts, culprit)), remedies(facts, culprit))


def lost_context(message: str) -> Diagnosis:
    """Of an error after which the GPU takes no more calls from this process. Memory has nothing to do with it."""
    first = message.partition("\n")[0]
    return Diagnosis(
        None,
        "This was not memory: a kernel on the GPU failed, and the process has lost its connection to the card.",
        (
            f"{first}",
            "Nothing that uses the GPU works in this process any more, and its memory cannot be given back.",
            "The usual cause is an index that is out of range: a label, or a token beyond the vocabulary.",
        ),
        (Remedy("restart the kernel", "the one thing that helps"),),
    )


# what only passes a call on
_NOISE = re.compile(r"Module\._(wrapped_)?call_impl|<locals>\.|^IPython\.|_use_grad|contextlib\.")
_PHASES = {
    "loading": "while the model was loaded",
    "forward": "in the forward",
    "backward": "in the backward",
    "clipping": "while the gradients were clipped",
    "optimizer": "while the optimizer updated the weights",
    "evaluation": "in the evaluation",
    "writing the result": "while the result was written",
}


def _when(facts: Facts, culprit: Culprit) -> str:
    phase = facts.phase
    if not phase and culprit.allocation is not None and culprit.allocation.cause is Cause.OPTIMIZER:
        phase = "optimizer"
    words = [_PHASES.get(phase, "")]
    if phase != "loading" and facts.step is not None:
        if facts.run:
            words.insert(0, f"at step {facts.step:,}{', the first of this attempt' if facts.first else ''}")
        else:
            words.insert(0, "in the trainer's first step" if facts.first else f"after step {facts.step:,}")
    when = ", ".join(filter(None, words))
    return f"{when[0].upper()}{when[1:]}: " if when else ""


def _what(facts: Facts, culprit: Culprit) -> str:
    told = facts.told
    asked = "" if told.requested is None or told.requested >= EVERYTHING else size(told.requested)
    what = culprit.allocation.words if culprit.allocation is not None else ""
    what = f"perhaps {what}" if culprit.guessed else what
    if told.array is not None:
        shape, dtype = told.array
        what = f"an array of {' × '.join(f'{one:,}' for one in shape)} in {dtype}"
    thing = f"{what} ({asked})" if what and asked else what or (f"one more piece of {asked}" if asked else "")
    where = (
        f"the {facts.card}"
        if facts.card
        else {"MPS": "the Mac's GPU", "CPU": "the machine"}.get(told.backend, "the GPU")
    )
    free = "" if told.free is None else f"{size(told.free)} of its {size(told.total)} were free" if told.total else ""
    sample = _sample(facts)
    match culprit.cause:
        case Cause.FRAGMENTATION:
            spare = size(told.unallocated or 0)
            piece = thing if what else asked
            text = f"the memory was there, but in pieces: {spare} in PyTorch's cache, none large enough for {piece}"
        case Cause.OTHERS:
            text = f"another process was on {where}: {_holders(facts)}, and {thing} found no room{sample}"
        case Cause.LIMIT if told.on_host and facts.max_memory:
            thing = thing or "one more piece"
            text = f"max_memory lets this run have {facts.max_memory}, and {thing} went beyond it{sample}"
        case Cause.LIMIT if told.on_host and facts.process_limit is not None:
            name, limit = facts.process_limit
            whole = f"{size(limit)} of memory ({name})"
            text = f"this process may have {whole}, and {thing or 'what was asked'} went beyond it"
        case Cause.LIMIT:
            text = f"a limit of {size(told.limit or 0)} is set for this process, and {thing} went beyond it{sample}"
        case Cause.REFUSED:
            if told.free is None:
                text = f"the driver refused {thing}, although this process held {size(told.reserved or 0)}"
            else:
                text = f"the driver refused {thing}, although {size(told.free)} of {where} were free"
        case Cause.OVERSIZED:
            whole = f"; {where} has {size(told.total)} in all" if told.total else ""
            if told.kind == "mps":
                whole = "; Metal makes no single buffer so large"
            text = f"one piece of {asked or 'more than any card has'} was asked for{whole}"
        case Cause.WORKSPACE:
            library = told.library or {"cublas": "cuBLAS", "cudnn": "cuDNN", "nccl": "NCCL"}.get(told.kind, "a library")
            text = f"{where} was full when {library} asked for its own working memory{sample}"
            if told.unsure:
                text = f"perhaps {where} was full: {library} found no way to do it, for which memory is one reason"
        case Cause.EVERY_SIZE:
            text = (
                "memory ran out at every batch size that was tried, to the smallest; accelerate caught the errors, "
                "and their figures with them"
            )
        case Cause.HOST:
            text = f"the machine's own memory had no room for {thing or 'what was asked'}{_host(facts)}"
        case Cause.SAMPLE:
            text = f"an unusually long document filled {where}{sample}"
        case Cause.FULL if told.requested is None:
            text = f"CUDA found no memory on {where}; its message has no figures"
        case Cause.FULL if told.kind == "mps" and told.limit is not None:
            text = f"PyTorch may use {size(told.limit)} of the Mac's memory, and {thing} went beyond it"
        case Cause.FULL:
            text = f"{where} was full: {thing or 'one more allocation'} found no room"
            text += f"; {free}{sample}" if free else sample
        case _:
            text = f"{thing} did not fit on {where}" + (f"; {free}" if free else "") + sample
    return text


def _sample(facts: Facts) -> str:
    longest = max(facts.tokens, default=0)
    if not longest:
        return ""
    if facts.unusual is not None:
        return f". The document in flight has {longest:,} tokens, where 99% have at most {facts.usual[99]:,}"
    return ""


def _holders(facts: Facts) -> str:
    told = facts.told
    if facts.kernel and facts.kernel >= told.by_others / 2:
        return f"this notebook's own kernel holds {size(facts.kernel)}"
    shown = [f"process {pid} holds {size(held)}" for pid, held in sorted(told.others, key=lambda one: -one[1])[:3]]
    if told.elsewhere >= told.by_others / 2:
        shown.append(f"{size(told.elsewhere)} are neither free nor this process's")
    return ", ".join(shown)


def _host(facts: Facts) -> str:
    if facts.host is None:
        return ""
    total, free = facts.host
    if facts.told.requested is None and free >= total / 2:
        return f"; {size(free)} of {size(total)} were free when it had ended, so one piece alone was larger than that"
    return f"; {size(free)} of {size(total)} were free{'' if facts.run else ' when it had ended'}"


def _details(facts: Facts, culprit: Culprit) -> Iterator[str]:
    allocation = culprit.allocation
    if allocation is not None and allocation.factors:
        exact = size(allocation.bytes)
        asked = f"; {size(facts.told.requested)} was asked for" if facts.told.requested else ""
        yield f"How it was told: {allocation.factors} bytes = {exact}{asked} ({_sure(culprit)})."
    elif allocation is not None:
        yield "How it was told: by the place in the code."
    elif culprit.cause is Cause.FULL and facts.told.requested is not None:
        yield (
            "Nothing of this model has that size, and the place does not tell."
            if facts.sizes.hidden and facts.near
            else ("What it was for cannot be told: neither the model's sizes nor the place in the code are known.")
        )
    if (held := _held(facts)) is not None:
        yield held
    if facts.tokens and facts.near:
        yield _flight(facts)
    yield from _missing(facts, culprit)
    if telling := [_place(frame) for frame in facts.frames if not _NOISE.search(frame)]:
        yield f"Where: {' ← '.join(reversed(telling[-3:]))}"


_CELL = re.compile(r"this notebook\.(?P<name>.+):(?P<line>\d+)")


def _place(frame: str) -> str:
    """A place of the notebook's own code in words; of a library as Python names it."""
    found = _CELL.fullmatch(frame)
    if found is None:
        return frame
    name, line = found["name"], found["line"]
    if name == "<module>" or name.startswith("<cell line"):  # what IPython 7 calls it
        return f"this notebook's cell, line {line}"
    return f"{name} in this notebook, line {line}"


def _missing(facts: Facts, culprit: Culprit) -> Iterator[str]:
    here, whole = facts.missing, short_by(facts, culprit)
    if here and here < EVERYTHING // 2:
        more = f"; to the end of the step about {size(whole)}, by the estimate" if whole and whole > 1.5 * here else ""
        yield f"Missing: {size(here)}{more}."


def _sure(culprit: Culprit) -> str:
    if culprit.guessed:
        return "the size agrees; the code that failed does not reach what has it"
    return {"size and place": "the size and the place in the code agree", "size": "by the size"}.get(
        culprit.certain, "by the place in the code"
    )


def _held(facts: Facts) -> str | None:
    """Who held the card."""
    told = facts.told
    if told.on_host:
        return None
    parts = []
    if told.allocated is not None:
        parts.append(f"tensors {size(told.allocated)}")
    if told.unallocated is not None:
        parts.append(f"PyTorch's cache {size(told.unallocated)}")
    if told.private_pools:
        parts.append(f"of it in CUDA graphs {size(told.private_pools)}")
    if told.used is not None and told.reserved is not None and told.used > told.reserved:
        parts.append(f"CUDA and its libraries {size(told.used - told.reserved)}")
    elif told.used is None and told.elsewhere:
        parts.append(f"CUDA and other processes {size(told.elsewhere + 2**29)}")
    parts += [f"process {pid} {size(held)}" if pid else f"others {size(held)}" for pid, held in told.others]
    if told.free is not None:
        parts.append(f"free {size(told.free)}")
    if not parts:
        return None
    whole = told.limit if told.backend == "MPS" else told.total
    return f"The card{f', {size(whole)}' if whole else ''}: {', '.join(parts)}."


def _flight(facts: Facts) -> str:
    documents = len(facts.tokens)
    longest = max(facts.tokens)
    if not facts.run:
        return f"The batch: {facts.rows:,} × {facts.length:,} tokens."
    text = f"In flight: {documents:,} document{'s' if documents != 1 else ''}, the longest of {longest:,} tokens"
    if facts.in_memory:
        text += f", {facts.in_memory:,} tokens at once"
    if len(facts.usual) == 101:
        text += f"; half of the run's documents have at most {facts.usual[50]:,}, 99% at most {facts.usual[99]:,}"
    return f"{text}."
