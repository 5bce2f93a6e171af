"""What is said of an event that a person should know of: memory that ran out, a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from colab_magics.memory.messages import in_words
from colab_magics.panel.fields import count, items, shown


def out_of_memory(event: Mapping[str, Any], kind: str = "documents") -> str:
    """An `oom` event in a sentence; `kind` is what the run's samples are called."""
    text = f"Out of memory at step {count(event, 'step')}"
    micro = count(event, "micro_batch")
    if micro:
        text += f" with {_samples(micro, kind)} at a time"
    message = shown(in_words(str(event.get("message") or "").partition("\n")[0]))
    return f"{text}: {message}" if message else text


def recovered(event: Mapping[str, Any]) -> str:
    """A `recovered` event in a sentence."""
    changes = []
    micro, chunk = count(event, "micro_batch"), count(event, "loss_chunk")
    if micro:
        changes.append(f"{_samples(micro, 'documents')} at a time")
    if event.get("gradient_checkpointing") is True:
        changes.append("gradient checkpointing on")
    if chunk:
        changes.append(f"the loss in chunks of {chunk}")
    text = f"Step {count(event, 'step')} repeated" + (f" with {', '.join(changes)}" if changes else "")
    return f"{text}; nothing is lost"


def resumed(event: Mapping[str, Any], *, over: bool = False) -> tuple[str, ...]:
    """A `resumed` event in sentences: from where, what is run again, what was passed over, what is not as it was.

    Of an attempt that is `over` in the past: beside it stands from where the next one would go on.
    """
    step, lost = count(event, "step") or 0, count(event, "lost_steps") or 0
    line = f"{'Went' if over else 'Goes'} on from step {step:,}, checkpoint {shown(event.get('checkpoint'), 40)}"
    verb = ("was" if over else "is") if lost == 1 else ("were" if over else "are")
    again = f"; {lost:,} step{'s' if lost != 1 else ''} since then {verb} run again" if lost else ""
    if event.get("finished") is True:
        line = f"It was finished already, at step {step:,}: there was nothing left to do. again=True begins anew"
    lines = [f"{line}{again}."]
    for item in items(event.get("skipped"))[:5]:
        if isinstance(item, Mapping):
            lines.append(f"Passed over {shown(item.get('name'), 40)}: {shown(item.get('reason'), 160)}.")
    for row in items(event.get("changes"))[:8]:
        if isinstance(row, list | tuple) and len(row) == 4:
            key, was, now, used = (shown(one, 60) for one in row)
            lines.append(f"{key}: {was} in the checkpoint, {now} in the cell, {used} used.")
    lines += [f"Not as it was: {shown(text, 200)}." for text in items(event.get("differs"))[:5]]
    return tuple(lines)


def _samples(number: int, kind: str) -> str:
    return f"{number:,} {kind if number != 1 else kind.removesuffix('s')}"
