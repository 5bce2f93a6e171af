"""How each kind of event changes the state; nothing odd in a log may break it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from colab_magics.checkpoints.marks import age_order
from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.panel import attempts, own, told
from colab_magics.panel.fields import amount, chosen, clock, count, items, lengths, mapping, number, sample, shown
from colab_magics.panel.parts import (
    Choice,
    Copied,
    Data,
    Eval,
    Gpu,
    Mark,
    Memory,
    Model,
    Notice,
    Prior,
    Progress,
    Saved,
)

if TYPE_CHECKING:
    from colab_magics.panel.state import PanelState

_NOTICES = 6  # the newest warnings that are shown; the others are counted
_EVALS = 50
_MARKS = 480  # steps by which the end is foretold: a job that comes and goes beside the training does so more than once
_GPUS = 16
_OF_THE_COPY = "Replica: "


def _started(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    # A new attempt keeps the curve (its first step says how much of it still holds) and nothing of the last one's end.
    return replace(
        state,
        name=shown(event.get("name"), 120) or state.name,
        attempt=count(event, "attempt") or state.attempt,
        began_clock=clock(event),
        stood=attempts.stood(state),
        own=_own_loop(state, event),
        device="",
        phase="starting",
        progress=None,
        estimate=None,
        prior=None,
        step=0,
        total_steps=None,
        epoch=None,
        loss=None,
        learning_rate=None,
        tokens_per_second=None,
        tokens=None,
        marks=(),
        evaluated_for=0.0,
        notices=(),
        notices_left_out=0,
        memory=None,
        resumed=(),
        went_on=(),
        resumed_step=0,
        saved=None,
        seconds=None,
        ended_clock=None,
        path="",
        failure=(),
        reason="",
    )


def _own_loop(state: PanelState, event: Mapping[str, Any]) -> own.Own | None:
    """A loop of one's own keeps the phases that are over, and of the one it was in what tells whether it goes on."""
    begun = own.begun(event)
    if begun is None or state.own is None:
        return begun
    return replace(begun, phase=state.own.phase, before=state.own.before)


def _progress(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    phase = shown(event.get("phase"), 40)
    progress = Progress(phase, amount(event, "done") or 0.0, amount(event, "total"), shown(event.get("unit"), 20))
    return replace(state, phase=phase or state.phase, progress=progress)


def _data(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    split = shown(event.get("split"), 20) or "train"
    kind = "pairs" if "pairs" in event else "examples" if "desirable" in event else "documents"
    data = Data(
        split=split,
        source=shown(event.get("source"), 200),
        format=shown(event.get("format"), 40),
        samples=count(event, "pairs" if kind == "pairs" else "documents"),
        tokens=count(event, "tokens"),
        trained_tokens=count(event, "trained_tokens"),
        max_length=count(event, "max_length"),
        truncated=count(event, "truncated") or 0,
        dropped=tuple(
            (shown(item.get("reason"), 120), count(item, "count") or 0)
            for item in items(event.get("dropped"))
            if isinstance(item, Mapping)
        ),
        lengths=lengths(event.get("lengths")),
        mask_method=shown(event.get("mask_method"), 60),
        cached=event.get("cached") is True,
        notes=tuple(shown(note, 200) for note in items(event.get("notes"))[:5]),
        sample=_compared(sample(event.get("sample")), sample(event.get("rejected"))),
        kind=kind,
    )
    return replace(state, data=(*(other for other in state.data if other.split != split), data)[-4:])


def _compared(
    sample: tuple[tuple[str, bool], ...], rejected: tuple[tuple[str, bool], ...]
) -> tuple[tuple[str, bool], ...]:
    """One document, or two answers to one prompt, one below the other."""
    return (*sample, ("\n\nand rejected:\n\n", False), *rejected) if rejected else sample


def _model(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    model = Model(
        id=shown(event.get("id"), 200),
        method=shown(event.get("method"), 20),
        parameters=count(event, "parameters"),
        trainable=count(event, "trainable_parameters"),
    )
    return replace(state, model=model)


def _plan(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    choices = event.get("choices")
    if not isinstance(choices, Mapping):
        return state
    plan = tuple(
        Choice(shown(key, 60), shown(chosen(choice.get("value")), 120), shown(choice.get("reason"), 240))
        for key, choice in choices.items()
        if isinstance(choice, Mapping)
    )
    planned = count(mapping(choices.get("total_steps")), "value")
    # A plan that was settled after a measurement repeats the choices alone: what was estimated before still holds.
    estimate = amount(mapping(event.get("estimate")), "peak")
    told_tokens = count(event, "eval_tokens")
    guess = mapping(event.get("duration"))
    low, mid, high = (amount(guess, key) for key in ("low", "mid", "high"))
    prior = state.prior if low is None or mid is None or high is None else Prior(low, mid, high)
    return replace(
        state,
        plan=plan,
        device=shown(event.get("device"), 120) or state.device,
        total_steps=planned if planned is not None else state.total_steps,
        eval_every=count(mapping(choices.get("eval_every")), "value") or None,
        eval_tokens=state.eval_tokens if told_tokens is None else told_tokens,
        estimate=state.estimate if estimate is None else estimate,
        prior=prior,
    )


def _step(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    step, loss = count(event, "step") or 0, number(event, "loss", finite=False)
    if loss is None and "loss" in event:
        loss = math.nan  # JSON has none: the log writes null
    state = own.entered(state, event)
    x = step
    if state.own is not None:  # its curve is of its phase
        x, loss = count(event, "phase_step") or step, own.drawn_value(event)
    # The first step of an attempt: what an earlier one drew from there on is not this run's any more.
    again = state.step == 0 or step <= state.step
    curve = state.curve.cut(x) if again else state.curve
    restarted = again and not curve.drawn()
    odd = 0 if restarted else state.odd_losses
    allocated, reserved = amount(event, "allocated"), amount(event, "reserved")
    memory = state.memory
    if allocated is not None or reserved is not None:
        memory = replace(
            memory or Memory(), allocated=allocated, reserved=reserved, peak=_larger(event, "peak", memory)
        )
    state = _gone_back(state, step) if again else state
    return replace(
        state,
        phase=state.phase if state.phase == "stopping" else "training",
        progress=None,
        own=own.stepped(state.own, event) if state.own is not None else None,
        step=step,
        total_steps=count(event, "total_steps") or (state.total_steps if state.own is None else None),
        epoch=number(event, "epoch"),
        loss=loss,
        first_loss=loss if restarted or state.first_loss is None else state.first_loss,
        odd_losses=odd
        + (own.odd_values(event) if state.own is not None else loss is not None and not math.isfinite(loss)),
        margin=number(mapping(event.get("rewards")), "margins"),
        preferred=number(mapping(event.get("rewards")), "accuracies"),
        learning_rate=number(event, "learning_rate"),
        tokens_per_second=amount(event, "tokens_per_second"),
        tokens=count(event, "tokens"),
        curve=curve if loss is None else own.drawn_on(curve, x, loss, event),
        memory=memory,
        marks=_marked(() if again else state.marks, step, event, state.evaluated_for),
        evaluated_for=0.0,
    )


def _gone_back(state: PanelState, step: int) -> PanelState:
    """The state without the evaluations from `step` on."""
    evals = tuple(one for one in state.evals if one.step < step)
    best = state.best_eval if state.best_eval is not None and state.best_eval.step < step else _best(evals)
    return replace(state, evals=evals, best_eval=best, eval_curve=state.eval_curve.cut(step))


def _marked(marks: tuple[Mark, ...], step: int, event: Mapping[str, Any], evaluated_for: float) -> tuple[Mark, ...]:
    """With the step that has just ended: its time is that between two steps, so that saves are in it."""
    now, seconds = clock(event), amount(event, "seconds")
    if now is None:
        return marks
    if marks and step == marks[-1].step + 1 and now > marks[-1].clock:
        seconds = max(now - marks[-1].clock - evaluated_for, seconds or 0.0)
    return (*marks, Mark(step, now, seconds))[-_MARKS:]


def _eval(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    loss = number(event, "loss", finite=False)
    if loss is None:
        return state
    step, seconds = count(event, "step") or 0, amount(event, "seconds")
    margin = number(mapping(event.get("rewards")), "margins")
    one = Eval(step, loss, number(event, "perplexity"), number(event, "token_accuracy"), seconds, margin)
    return replace(
        state,
        evals=(*state.evals, one)[-_EVALS:],
        best_eval=_best((one,) if state.best_eval is None else (state.best_eval, one)),
        eval_curve=state.eval_curve.add(step, loss),
        evaluated_for=state.evaluated_for + (seconds or 0.0),
        progress=None,
    )


def _best(evals: tuple[Eval, ...]) -> Eval | None:
    return min((one for one in evals if math.isfinite(one.loss)), key=lambda one: one.loss, default=None)


def _memory(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    before = state.memory or Memory()
    totals = {gpu.index: gpu.total for gpu in before.gpus}  # a GPU that falls off the bus tells nothing any more
    gpus = tuple(
        Gpu(
            index=count(one, "index") or 0,
            name=shown(one.get("name"), 60),
            total=amount(one, "total") or totals.get(count(one, "index") or 0),
            used=amount(one, "used"),
            utilisation=amount(one, "utilisation"),
            temperature=number(one, "temperature"),
            power=amount(one, "power"),
        )
        for one in items(event.get("devices"))[:_GPUS]
        if isinstance(one, Mapping)
    )
    allocated, reserved = amount(event, "allocated"), amount(event, "reserved")
    host, busy = mapping(event.get("host")), amount(event, "cpu")
    memory = Memory(
        gpus=gpus or before.gpus,
        allocated=before.allocated if allocated is None else allocated,
        reserved=before.reserved if reserved is None else reserved,
        peak=_larger(event, "peak", before),
        host_total=amount(host, "total") or before.host_total,
        host_used=amount(host, "used") if host else before.host_used,
        resident=amount(event, "rss") or before.resident,
        cores=None if busy is None else busy / 100,
    )
    return replace(state, memory=memory)


def _larger(event: Mapping[str, Any], key: str, before: Memory | None) -> float | None:
    """The larger of two peaks: whoever resets torch's counter does not make it smaller."""
    known = (amount(event, key), None if before is None else before.peak)
    return max((peak for peak in known if peak is not None), default=None)


def _warning(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return _noticed(state, "warning", shown(event.get("message")))


def _oom(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return _noticed(state, "oom", told.out_of_memory(event, state.samples))


def _recovered(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return _noticed(state, "recovered", told.recovered(event))


def _resumed(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return replace(
        state,
        resumed=told.resumed(event),
        went_on=told.resumed(event, over=True),
        resumed_step=count(event, "step") or 0,
    )


def _checkpoint(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    step = count(event, "step") or 0
    if event.get("action") == "failed":
        text = f"The checkpoint of step {step:,} could not be written: {shown(event.get('message'))}"
        return _noticed(state, "warning", f"{text}. Training goes on.")
    if event.get("action") != "saved":
        return state
    if event.get("bytes") is None and state.saved is not None and state.saved.step == step:
        return state  # a person asked for one that was there already
    saved = Saved(step, count(event, "bytes"), amount(event, "stall"), amount(event, "stall_share"), clock(event))
    return replace(state, saved=saved)


def _replica(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    copied = Copied(
        state=shown(event.get("state"), 20),
        where=shown(event.get("where"), 200),
        step=count(event, "step"),
        left=count(event, "bytes_left"),
        message=shown(event.get("message")),
    )
    state = replace(state, copied=copied)
    order = age_order(shown(event.get("checkpoint"), 40))
    if copied.state == "confirmed" and order >= state.copied_order:  # a pinned one may be copied after a newer one
        state = replace(state, copied_step=copied.step, copied_order=order, copied_clock=clock(event))
    if copied.message and copied.state in ("waiting", "full", "refused", "given up"):
        # what was said of it before may be true no more
        others = tuple(one for one in state.notices if not one.text.startswith(_OF_THE_COPY))
        return _noticed(replace(state, notices=others), "warning", _OF_THE_COPY + copied.message)
    return state


def _stopping(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    return replace(state, phase="stopping", reason=shown(event.get("reason"), 40))


def _finished(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    reason = shown(event.get("reason"), 40) or "completed"
    loss = number(event, "last_loss", finite=False)
    first = number(event, "first_loss", finite=False)
    seconds, ended_clock = amount(event, "seconds"), clock(event)
    if not state.step:
        state = attempts.nothing_left(state, count(event, "step") or 0)
        seconds, ended_clock = state.seconds or seconds, state.ended_clock or ended_clock
    return replace(
        state,
        phase="stopped" if reason in ("stopped", "deadline") else "finished",
        reason=reason,
        progress=None,
        step=count(event, "step") or state.step,
        total_steps=count(event, "total_steps") or state.total_steps,
        loss=state.loss if loss is None else loss,
        first_loss=state.first_loss if first is None else first,
        tokens=count(event, "tokens") or state.tokens,
        seconds=seconds,
        ended_clock=ended_clock,
        path=shown(event.get("path"), 400),
    )


def _failed(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    error = event.get("error")
    cause = ColabMagicsError.from_dict(error if isinstance(error, Mapping) else {})
    state = replace(attempts.as_it_stood(state), progress=None, ended_clock=clock(event))
    if isinstance(cause, Interrupted):
        return replace(state, phase="stopped")
    return replace(state, phase="failed", failure=tuple(shown(line) for line in cause.lines()))


FOLDS: Mapping[str, Callable[[PanelState, Mapping[str, Any]], PanelState]] = {
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
