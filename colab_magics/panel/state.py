"""What the panel knows of a run: a frozen value, folded from the run's events and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from colab_magics.checkpoints.marks import age_order
from colab_magics.errors import ColabMagicsError, Interrupted, clean, redact
from colab_magics.panel.curve import Curve
from colab_magics.panel.parts import Choice, Copied, Data, Eval, Memory, Model, Notice, Progress, Saved

ENDED = ("finished", "stopped", "unfinished", "failed")
_NOTICES = 6  # the newest warnings that are shown; the others are counted
_EVALS = 50
_MARKS = 30  # steps over which the speed is measured
_SAMPLE = 1200  # characters of the rendered sample
_OF_THE_COPY = "Replica: "


@dataclass(frozen=True)
class PanelState:
    """A run as the panel shows it. Times in seconds, memory in bytes."""

    name: str = ""
    folder: str = ""
    phase: str = "starting"
    attempt: int = 0
    device: str = ""
    progress: Progress | None = None
    data: tuple[Data, ...] = ()
    model: Model | None = None
    plan: tuple[Choice, ...] = ()
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    first_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    tokens: int | None = None
    curve: Curve = field(default_factory=Curve)
    evals: tuple[Eval, ...] = ()
    memory: Memory | None = None
    resumed: tuple[str, ...] = ()  # from where this attempt goes on, and what was lost
    resumed_step: int = 0
    saved: Saved | None = None
    copied: Copied | None = None
    copied_step: int | None = None  # of the newest checkpoint that the durable store is known to have
    copied_order: tuple[int, int] = (0, 0)  # how new that one is
    notices: tuple[Notice, ...] = ()
    notices_left_out: int = 0
    marks: tuple[tuple[int, float], ...] = ()  # (step, clock) of the newest steps
    seconds: float | None = None
    path: str = ""
    reason: str = ""
    failure: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from this attempt."""
        return self.phase in ENDED

    @property
    def seconds_left(self) -> float | None:
        """Time left of the training, from the speed of the newest steps."""
        if self.ended or self.total_steps is None or len(self.marks) < 2:
            return None
        (first, began), (last, now) = self.marks[0], self.marks[-1]
        if last <= first or now <= began:
            return None
        return max(0, self.total_steps - self.step) * (now - began) / (last - first)

    def fold(self, event: Mapping[str, Any]) -> PanelState:
        """The state after one more event; kinds and fields that nobody knows change nothing."""
        known = _FOLDS.get(event.get("kind", ""))
        return self if known is None else known(self, event)

    def fold_all(self, events: Iterable[Mapping[str, Any]]) -> PanelState:
        """The state after all these events."""
        state = self
        for event in events:
            state = state.fold(event)
        return state

    def ended_without_a_word(self, *, stopped: bool) -> PanelState:
        """The state of a run whose worker is gone, and whose log has no end."""
        if stopped:
            return replace(self, phase="stopped", progress=None)
        lines = ("The worker ended without a word.",)
        return replace(self, phase="unfinished", progress=None, failure=lines)

    def put_aside(self) -> PanelState:
        """The state of a run that trains on, but is no longer followed here."""
        return replace(self, reason="detached")


def _started(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    # A new attempt keeps the curve (its first step says how much of it still holds) and nothing of the last one's end.
    return replace(
        state,
        name=_shown(event.get("name"), 120) or state.name,
        attempt=_count(event, "attempt") or state.attempt,
        device="",
        phase="starting",
        progress=None,
        step=0,
        total_steps=None,
        epoch=None,
        loss=None,
        learning_rate=None,
        tokens_per_second=None,
        tokens=None,
        marks=(),
        notices=(),
        notices_left_out=0,
        memory=None,
        resumed=(),
        resumed_step=0,
        saved=None,
        seconds=None,
        path="",
        failure=(),
        reason="",
    )


def _progress(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    phase = _shown(event.get("phase"), 40)
    progress = Progress(phase, _number(event, "done") or 0.0, _number(event, "total"), _shown(event.get("unit"), 20))
    return replace(state, phase=phase or state.phase, progress=progress)


def _data(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    split = _shown(event.get("split"), 20) or "train"
    data = Data(
        split=split,
        source=_shown(event.get("source"), 200),
        format=_shown(event.get("format"), 40),
        documents=_count(event, "eval_documents" if split == "eval" else "documents") or _count(event, "documents"),
        tokens=_count(event, "tokens"),
        trained_tokens=_count(event, "trained_tokens"),
        max_length=_count(event, "max_length"),
        truncated=_count(event, "truncated") or 0,
        dropped=tuple(
            (_shown(item.get("reason"), 120), _count(item, "count") or 0)
            for item in _items(event.get("dropped"))
            if isinstance(item, Mapping)
        ),
        lengths=_lengths(event.get("lengths")),
        mask_method=_shown(event.get("mask_method"), 60),
        cached=event.get("cached") is True,
        notes=tuple(_shown(note, 200) for note in _items(event.get("notes"))[:5]),
        sample=_sample(event.get("sample")),
    )
    return replace(state, data=(*(other for other in state.data if other.split != split), data))


def _model(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    model = Model(
        id=_shown(event.get("id"), 200),
        method=_shown(event.get("method"), 20),
        parameters=_count(event, "parameters"),
        trainable=_count(event, "trainable_parameters"),
    )
    return replace(state, model=model)


def _plan(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    choices = event.get("choices")
    if not isinstance(choices, Mapping):
        return state
    plan = tuple(
        Choice(_shown(key, 60), _shown(_chosen(choice.get("value")), 120), _shown(choice.get("reason"), 240))
        for key, choice in choices.items()
        if isinstance(choice, Mapping)
    )
    total = choices.get("total_steps")
    planned = _count(total, "value") if isinstance(total, Mapping) else None
    device = _shown(event.get("device"), 120) or state.device
    return replace(state, plan=plan, device=device, total_steps=planned if planned is not None else state.total_steps)


def _chosen(value: object) -> object:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else value


def _step(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    step, loss = _count(event, "step") or 0, _number(event, "loss", finite=False)
    # The first step of an attempt: what an earlier one drew from there on is not this run's any more.
    again = state.step == 0 or step <= state.step
    curve = state.curve.cut(step) if again else state.curve
    evals = tuple(one for one in state.evals if one.step < step) if again else state.evals
    clock = _clock(event)
    marks = () if again else state.marks
    if clock is not None:
        marks = (*marks, (step, clock))[-_MARKS:]
    restarted = again and not curve.drawn()
    return replace(
        state,
        phase=state.phase if state.phase == "stopping" else "training",
        progress=None,
        step=step,
        total_steps=_count(event, "total_steps") or state.total_steps,
        epoch=_number(event, "epoch"),
        loss=loss,
        first_loss=loss if restarted or state.first_loss is None else state.first_loss,
        learning_rate=_number(event, "learning_rate"),
        tokens_per_second=_number(event, "tokens_per_second"),
        tokens=_count(event, "tokens"),
        curve=curve if loss is None else curve.add(step, loss),
        evals=evals,
        marks=marks,
    )


def _eval(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    loss = _number(event, "loss", finite=False)
    if loss is None:
        return state
    one = Eval(_count(event, "step") or 0, loss, _number(event, "perplexity"), _number(event, "token_accuracy"))
    return replace(state, evals=(*state.evals, one)[-_EVALS:], progress=None)


def _memory(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    used = _number(event, "reserved") or _number(event, "allocated")
    if used is None:
        return state
    return replace(state, memory=Memory(used, _number(event, "peak"), _number(event, "total")))


def _warning(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return _noticed(state, "warning", _shown(event.get("message")))


def _oom(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    text = f"Out of memory at step {_count(event, 'step')}"
    micro = _count(event, "micro_batch")
    if micro:
        text += f" with {micro} document{'s' if micro != 1 else ''} at a time"
    message = _shown(event.get("message"))
    return _noticed(state, "oom", f"{text}: {message}" if message else text)


def _recovered(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    changes = []
    micro, chunk = _count(event, "micro_batch"), _count(event, "loss_chunk")
    if micro:
        changes.append(f"{micro} document{'s' if micro != 1 else ''} at a time")
    if event.get("gradient_checkpointing") is True:
        changes.append("gradient checkpointing on")
    if chunk:
        changes.append(f"the loss in chunks of {chunk}")
    text = f"Step {_count(event, 'step')} repeated" + (f" with {', '.join(changes)}" if changes else "")
    return _noticed(state, "recovered", f"{text}; nothing is lost")


def _resumed(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    step, lost = _count(event, "step") or 0, _count(event, "lost_steps") or 0
    line = f"Goes on from step {step:,}, checkpoint {_shown(event.get('checkpoint'), 40)}"
    lines = [f"{line}; {lost:,} step{'s' if lost != 1 else ''} since then are run again." if lost else f"{line}."]
    for item in _items(event.get("skipped"))[:5]:
        if isinstance(item, Mapping):
            lines.append(f"Passed over {_shown(item.get('name'), 40)}: {_shown(item.get('reason'), 160)}.")
    for row in _items(event.get("changes"))[:8]:
        if isinstance(row, list | tuple) and len(row) == 4:
            key, was, now, used = (_shown(one, 60) for one in row)
            lines.append(f"{key}: {was} in the checkpoint, {now} in the cell, {used} used.")
    lines += [f"Not as it was: {_shown(text, 200)}." for text in _items(event.get("differs"))[:5]]
    return replace(state, resumed=tuple(lines), resumed_step=step)


def _checkpoint(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    step = _count(event, "step") or 0
    if event.get("action") == "failed":
        text = f"The checkpoint of step {step:,} could not be written: {_shown(event.get('message'))}"
        return _noticed(state, "warning", f"{text}. Training goes on.")
    if event.get("action") != "saved":
        return state
    saved = Saved(step, _count(event, "bytes"), _number(event, "stall"), _number(event, "stall_share"))
    return replace(state, saved=saved)


def _replica(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    copied = Copied(
        state=_shown(event.get("state"), 20),
        where=_shown(event.get("where"), 200),
        step=_count(event, "step"),
        left=_count(event, "bytes_left"),
        message=_shown(event.get("message")),
    )
    state = replace(state, copied=copied)
    order = age_order(_shown(event.get("checkpoint"), 40))
    if copied.state == "confirmed" and order >= state.copied_order:  # a pinned one may be copied after a newer one
        state = replace(state, copied_step=copied.step, copied_order=order)
    if copied.message and copied.state in ("waiting", "full", "refused", "given up"):
        # what was said of it before may be true no more
        others = tuple(one for one in state.notices if not one.text.startswith(_OF_THE_COPY))
        return _noticed(replace(state, notices=others), "warning", _OF_THE_COPY + copied.message)
    return state


def _stopping(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return replace(state, phase="stopping", reason=_shown(event.get("reason"), 40))


def _finished(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    reason = _shown(event.get("reason"), 40) or "completed"
    loss = _number(event, "last_loss", finite=False)
    first = _number(event, "first_loss", finite=False)
    return replace(
        state,
        phase="stopped" if reason in ("stopped", "deadline") else "finished",
        reason=reason,
        progress=None,
        step=_count(event, "step") or state.step,
        total_steps=_count(event, "total_steps") or state.total_steps,
        loss=state.loss if loss is None else loss,
        first_loss=state.first_loss if first is None else first,
        tokens=_count(event, "tokens") or state.tokens,
        seconds=_number(event, "seconds"),
        path=_shown(event.get("path"), 400),
    )


def _failed(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    error = event.get("error")
    told = ColabMagicsError.from_dict(error if isinstance(error, Mapping) else {})
    if isinstance(told, Interrupted):
        return replace(state, phase="stopped", progress=None)
    lines = tuple(_shown(line) for line in told.lines())
    return replace(state, phase="failed", progress=None, failure=lines)


_FOLDS = {
    "started": _started,
    "progress": _progress,
    "data": _data,
    "model": _model,
    "plan": _plan,
    "step": _step,
    "eval": _eval,
    "memory": _memory,
    "warning": _warning,
    "oom": _oom,
    "recovered": _recovered,
    "resumed": _resumed,
    "checkpoint": _checkpoint,
    "replica": _replica,
    "stopping": _stopping,
    "finished": _finished,
    "failed": _failed,
}


def _noticed(state: PanelState, kind: str, text: str) -> PanelState:
    notice = Notice(kind, text)
    if not text or notice in state.notices:
        return state
    notices = (*state.notices, notice)
    extra = max(0, len(notices) - _NOTICES)
    return replace(state, notices=notices[extra:], notices_left_out=state.notices_left_out + extra)


def _shown(value: object, limit: int = 400) -> str:
    """Text that is safe to show: no ANSI, no control characters, no endless lines."""
    if value is None:
        return ""
    text = redact(" ".join(clean(value).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _number(event: Mapping[str, Any], key: str, finite: bool = True) -> float | None:
    value = event.get(key)
    if isinstance(value, str) and value.lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return None if finite and not math.isfinite(value) else float(value)


def _count(event: Mapping[str, Any], key: str) -> int | None:
    value = _number(event, key)
    return None if value is None else int(value)


def _items(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _lengths(value: object) -> tuple[tuple[str, float], ...]:
    if not isinstance(value, Mapping):
        return ()
    pairs = ((key, _number(value, key)) for key in ("p50", "p99", "max"))
    return tuple((key, number) for key, number in pairs if number is not None)


def _sample(value: object) -> tuple[tuple[str, bool], ...]:
    sample: list[tuple[str, bool]] = []
    room = _SAMPLE
    for part in _items(value):
        if not isinstance(part, (list, tuple)) or len(part) != 2 or room <= 0:
            continue
        text = redact(clean(part[0]))
        sample.append((text if len(text) <= room else text[:room] + "…", bool(part[1])))
        room -= len(text)
    return tuple(sample)


def _clock(event: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(str(event.get("time")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
