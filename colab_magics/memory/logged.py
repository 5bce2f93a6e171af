"""The facts of a run's out-of-memory, from its log alone. Any field may be missing: older workers told less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from colab_magics.events import Event
from colab_magics.memory.facts import Facts, Sizes
from colab_magics.memory.messages import Told, is_sticky, read, tells_of_memory
from colab_magics.plan import ModelShape, Setup

T = TypeVar("T")

_MOST = 2**62


def newest(events: Sequence[Event]) -> Event | None:
    """The last `oom` or `failed` event that tells of memory, or of a lost context; None where there is none."""
    for event in reversed(events):
        if event.get("kind") == "oom":
            return event
        if event.get("kind") == "failed" and (told := _of_failed(event)) is not None:
            return told
    return None


def _of_failed(event: Event) -> Event | None:
    """A `failed` event with the fields of an `oom`, if memory or a lost context is what it failed of."""
    own = event.get("oom")
    if isinstance(own, Mapping):
        return {**event, **own, "kind": "failed"}
    error = event.get("error")
    lines = [str(error.get(key, "")) for key in ("why", "what")] if isinstance(error, Mapping) else []
    # what torch said stands at the traceback's end, and nowhere else where the worker did not know the error
    last = str(event.get("traceback") or "").strip().rpartition("\n")[2]
    for said in (*lines, last):
        if read(said) is not None or is_sticky(said) or tells_of_memory(said):
            return {**event, "message": said, "phase": _phase(str(event.get("phase", "")))}
    return None


def _phase(words: str) -> str:
    """A worker's phase, as an `oom` event calls it."""
    known = {"loading": "loading", "evaluat": "evaluation", "writing": "writing the result"}
    return next((phase for part, phase in known.items() if part in words), "")


def message_of(event: Event) -> str:
    """What the error said."""
    return _text(event.get("message")) or "out of memory"


def facts_of(
    name: str, event: Event, events: Sequence[Event], recipe: Mapping[str, Any], *, kernel: int | None = None
) -> Facts:
    """Everything the log knows of this out-of-memory.

    Parameters
    ----------
    name : of the run
    event : what `newest` found
    recipe : the run's recipe; only its rank, limit and length are asked
    kernel : bytes that this kernel holds on the same card now
    """
    plan = next((one for one in reversed(events) if one.get("kind") == "plan"), {})
    message = message_of(event)
    told = _completed(read(message) or Told("cuda"), event.get("record"))
    choices = _choices(plan)
    shape = _built(ModelShape, plan.get("shape"))
    tokens = tuple(_whole(one) or 0 for one in _list(event.get("tokens")))
    checkpointing = event.get("gradient_checkpointing")
    documents = len(tokens) or _whole(event.get("documents")) or _whole(event.get("micro_batch")) or 0
    packed = event.get("packed") is True
    in_memory = _whole(event.get("in_memory")) or (max(tokens, default=0) * len(tokens) if not packed else sum(tokens))
    chunk = _whole(event.get("loss_chunk")) or _whole(choices.get("loss_chunk")) or 0
    host = event.get("host")
    facts = Facts(
        message,
        told,
        run=name,
        phase=_text(event.get("phase")),
        step=_whole(event.get("step")),
        first=event.get("first") is True,
        frames=tuple(_text(one) for one in _list(event.get("where"))),
        tokens=tokens,
        in_memory=in_memory,
        packed=packed,
        gradient_checkpointing=checkpointing if isinstance(checkpointing, bool) else None,
        loss_chunk=chunk,
        usual=tuple(_whole(one) or 0 for one in _list(plan.get("lengths"))),
        documents_in_all=_whole(plan.get("documents")) or 0,
        sizes=Sizes.of_shape(shape, str(choices.get("method", ""))) if shape is not None else Sizes(),
        shape=shape,
        effective=_whole(choices.get("effective_batch")) or 0,
        rank=_whole(recipe.get("r")) or 0,
        max_length=_whole(choices.get("max_length")) or 0,
        max_memory=_text(recipe.get("max_memory")),
        card=_text(plan.get("device")).rpartition(",")[0] if not told.on_host else "",
        total=told.total,
        kernel=kernel,
        host=(_whole(host.get("total")) or 0, _whole(host.get("free")) or 0) if isinstance(host, Mapping) else None,
        rss=_whole(event.get("rss")),
    )
    if not choices or shape is None:
        return facts
    return replace(facts, setup=_setup(facts, choices, documents))


def _setup(facts: Facts, choices: Mapping[str, Any], documents: int) -> Setup:
    """What was in memory, as an estimate is asked about it."""
    documents = documents or _whole(choices.get("micro_batch")) or 1
    length = -(-facts.in_memory // documents) if facts.in_memory else 0
    checkpointing = facts.gradient_checkpointing
    return Setup(
        str(choices.get("method", "lora")),
        str(choices.get("precision", "fp32")),
        str(choices.get("optim", "adamw_torch")),
        documents,
        length or facts.max_length or max(facts.usual, default=1),
        bool(choices.get("gradient_checkpointing")) if checkpointing is None else checkpointing,
        facts.loss_chunk or 64,
        packed=facts.packed and not facts.told.on_host,
        attention="eager" if choices.get("attention") == "eager" else "fused",
        loss="head" if choices.get("loss") == "head" else "logits" if choices.get("loss") == "logits" else "hidden",
    )


def _completed(told: Told, record: object) -> Told:
    """The message's figures, and where it has none, the allocator's own, taken before anything was unwound."""
    if not isinstance(record, Mapping):
        return told
    requested, allocated, free, total, reserved = (
        _whole(record.get(key)) for key in ("requested", "allocated", "free", "total", "reserved")
    )
    if told.on_host:  # of a CPU under a cap: what it tells of its use are bounds, and not of tensors alone
        return replace(told, requested=told.requested if requested is None else requested, slack=0, limit=total)
    both = allocated is not None and reserved is not None
    return replace(
        told,
        requested=told.requested if requested is None else requested,
        slack=told.slack if requested is None else 0,  # to the byte
        allocated=told.allocated if allocated is None else allocated,
        unallocated=max(0, reserved - allocated) if both else told.unallocated,  # type: ignore[operator]
        free=told.free if free is None else free,
        # torch gives its observer the limit in the total's place
        total=told.total if total is None or told.limit is not None else total,
    )


def _choices(plan: Mapping[str, Any]) -> dict[str, Any]:
    told = plan.get("choices")
    if not isinstance(told, Mapping):
        return {}
    return {key: one.get("value") for key, one in told.items() if isinstance(one, Mapping)}


def _built(kind: type[T], values: object) -> T | None:
    """A dataclass from what a log tells of it; None where a field is missing or new."""
    if not isinstance(values, Mapping):
        return None
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{str(key): value for key, value in values.items() if key in known})
    except TypeError:
        return None


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        return None
    return int(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
