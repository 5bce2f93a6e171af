"""Plan and data: what was chosen and what is trained on, drawn once beside the panel.

They are no part of the live frame: a <details> that somebody has opened would close at the next one.
"""

from __future__ import annotations

from html import escape

from colab_magics.panel import words
from colab_magics.panel.parts import Data
from colab_magics.panel.state import PanelState
from colab_magics.panel.style import AS_TEXT, BASE, FOLDS, MOST_BYTES

_CHOICES = 30


def details(state: PanelState) -> str:
    """Plan and data as HTML; empty where neither is known."""
    folds = _folded(state)
    return f'<div class="cm-panel cm-more {AS_TEXT}"><style>{BASE}{FOLDS}</style>{folds}</div>' if folds else ""


def details_text(state: PanelState) -> str:
    """Plan and data as text."""
    blocks = []
    if state.plan:
        key_width = max(len(choice.key) for choice in state.plan[:_CHOICES])
        value_width = min(24, max(len(choice.value) for choice in state.plan[:_CHOICES]))
        lines = [
            f"  {choice.key.ljust(key_width)}  {choice.value.ljust(value_width)}  {choice.reason}".rstrip()
            for choice in state.plan[:_CHOICES]
        ]
        blocks.append("\n".join(["plan", *lines]))
    blocks += [data_text(data) for data in state.data]
    return "\n\n".join(blocks)


def data_text(data: Data) -> str:
    """One split of the data as text."""
    facts = words.data_facts(data)
    width = max(len(label) for label, _ in facts)
    lines = ["data", *(f"  {label.ljust(width)}  {value}" for label, value in facts)]
    if data.sample:
        lines += ["one sample, the trained part between ⟦ and ⟧:"]
        lines += ["".join(f"⟦{part}⟧" if trained else part for part, trained in data.sample)]
    return "\n".join(lines)


def _folded(state: PanelState) -> str:
    """Both as <details>; what would not fit into an output is left out."""
    room = MOST_BYTES - len(BASE) - len(FOLDS) - 100
    parts = []
    if state.plan:
        rows = "".join(
            f"<dt>{escape(choice.key)}</dt><dd>{escape(choice.value)}"
            + (f' <span class="cm-dim">{escape(choice.reason)}</span>' if choice.reason else "")
            + "</dd>"
            for choice in state.plan[:_CHOICES]
        )
        parts.append(f"<details><summary>Plan: what was chosen, and why</summary><dl>{rows}</dl></details>")
    if state.data:
        body = "".join(_data(data) for data in state.data)
        parts.append(f"<details><summary>Data: what is trained on</summary>{body}</details>")
    while parts and len("".join(parts).encode()) > room:
        parts.remove(max(parts, key=len))
    return "".join(parts)


def _data(data: Data) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in words.data_facts(data))
    sample = "".join(f"<mark>{escape(part)}</mark>" if trained else escape(part) for part, trained in data.sample)
    told = f'<div class="cm-dim">One sample, the trained part marked:</div><div class="cm-sample">{sample}</div>'
    return f"<dl>{rows}</dl>" + (told if sample else "")
