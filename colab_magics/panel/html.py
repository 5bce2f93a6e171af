"""The panel as HTML: one self-contained piece, no script, nothing from the network.

It is drawn by Colab (in an iframe a cell), Jupyter, VS Code and nbviewer, in light and dark. Where a viewer drops the
style and the chart (GitHub, a notebook that is not trusted), the numbers remain as plain text in reading order.
"""

from __future__ import annotations

from html import escape

from colab_magics.panel import answers, bands, words
from colab_magics.panel.answers import Answer
from colab_magics.panel.chart import chart, cut_off, smoothing
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.panel.style import AS_TEXT, MOST_BYTES, STYLE

__all__ = ["MOST_BYTES", "bar_html", "html", "legend_html"]

_NOWHEN = Moment()
_DOTS = {"finished": "cm-ok", "failed": "cm-bad", "stopped": "cm-mind", "stopping": "cm-mind", "unfinished": "cm-mind"}


def html(state: PanelState, moment: Moment = _NOWHEN) -> str:
    """One frame; all text escaped. What makes it larger than `MOST_BYTES` is left out, the notices first."""
    begin = (
        f'<div class="cm-panel {AS_TEXT}"><style>{STYLE}</style>{_head(state)}{_progress(state)}{_body(state, moment)}'
    )
    end = _foot(state) + "</div>"
    frame = ""
    left_out = '<div class="cm-note">What else there is to say is in the event log.</div>'
    for rest in (_notices(state, moment), _notices(state, moment, short=True), left_out):
        frame = begin + rest + end
        if len(frame.encode()) < MOST_BYTES:
            break
    return frame


def _head(state: PanelState) -> str:
    subject, standing = words.subject(state), answers.standing(state)
    attempt = f' <span class="cm-dim">attempt {state.attempt}</span>' if state.attempt > 1 else ""
    return (
        f'<div class="cm-row"><div><span class="cm-name">{escape(state.name or "run")}</span> '
        f'<span class="cm-dot {_DOTS.get(state.phase, "")}">{escape(standing)}</span></div>{attempt}</div>'
        + (f'<div class="cm-dim">{escape(subject)}</div>' if subject else "")
    )


def _progress(state: PanelState) -> str:
    fraction, done = words.progress(state)
    if fraction is None and not done:
        return ""
    bar = ""
    if fraction is not None:
        bar = (
            f'<div class="cm-track" role="progressbar" aria-label="{escape(done)}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{fraction * 100:.0f}">'
            f'<div style="width:{fraction * 100:.1f}%"></div></div>'
        )
    return (
        f'{bar}<div class="cm-row cm-dim"><span>{escape(done)}</span> <span>{escape(answers.speed(state))}</span></div>'
    )


def _body(state: PanelState, moment: Moment) -> str:
    main = _learning(state)
    side = "".join(
        _box(answer, inner)
        for answer, inner in (
            (answers.memory(state, moment), _memory(state)),
            (answers.time(state, moment), ""),
            (answers.safety(state, moment), ""),
        )
        if answer is not None
    )
    if not main and not side:
        return ""
    left = f'<div class="cm-main">{main}</div>' if main else ""
    return f'<div class="cm-body">{left}<div class="cm-side{"" if main else " cm-wide"}">{side}</div></div>'


def _box(answer: Answer, inner: str = "") -> str:
    level = "" if answer.level == "fine" else f' class="cm-{answer.level}"'
    verdict = f"<div>{escape(answer.verdict)}</div>" if answer.verdict else ""
    behind = "".join(f'<div class="cm-dim">{escape(line)}</div>' for line in answer.behind)
    return (
        f'<div{level}><div class="cm-label">{escape(answer.about)}</div>'
        f'<div class="cm-big">{escape(answer.said)}</div>{verdict}{inner}{behind}</div>'
    )


def _learning(state: PanelState) -> str:
    loss = answers.learning(state)
    if loss is None:
        return ""
    drawn = chart(state)
    keys = []
    if drawn:
        mean = smoothing(state)
        keys.append(("k-l", "train" if mean == 1 else f"train, mean of {mean:,} steps"))
        if mean > state.curve.stride:
            stride = state.curve.stride
            keys.append(("k-r", "each step" if stride == 1 else f"mean of {stride:,}"))
        if state.curve.gaps:
            keys.append(("k-n", "not finite"))
        above = cut_off(state)
        if above:
            keys.append(("k-c", f"{len(above)} cut off, up to {words.number(max(y for _, y in above))}"))
        if state.phase == "failed":
            keys.append(("k-f", "failed here"))
    evaluation = answers.evaluation(state)
    if evaluation is not None:
        keys.append(("k-d", "evaluation " + ", ".join(evaluation.parts)))
    return _box(loss, drawn + _keys(keys))


def _keys(keys: list[tuple[str, str]]) -> str:
    if not keys:
        return ""
    return '<div class="cm-keys">' + " ".join(f'<span class="{k}">{escape(v)}</span>' for k, v in keys) + "</div>"


def _memory(state: PanelState) -> str:
    bars = bands.memory_bars(state)
    if not bars:
        return ""
    if len(bars) == 1:
        return bar_html(bars[0]) + legend_html(bars[0])
    told = [f"{bar.label}: {bands.headline((bar,)).removesuffix(' GiB')}" for bar in bars]
    cells = "".join(
        f'<div><span class="cm-dim">{escape(said)}</span>{bar_html(bar)}</div>'
        for said, bar in zip(told, bars, strict=True)
    )
    return f'<div class="cm-gpus">{cells}</div>{legend_html(bars[0])}'


def bar_html(bar: bands.Bar) -> str:
    """One device's memory, drawn; nothing where its total is not known."""
    if not bar.total:
        return ""
    whole = max(bar.total, bar.used)
    parts = "".join(
        f'<i{kind} style="width:{100 * amount / whole:.1f}%"></i>'
        for kind, (_, amount) in zip(
            (f' class="{kind}"' if kind else "" for kind in _kinds(bar)), bar.bands, strict=False
        )
    )
    ticks = "".join(
        f'<i class="{kind}" style="left:{min(100.0, 100 * at / whole):.1f}%"></i>'
        for kind, at in (("k-p", bar.peak), ("k-t", bar.estimate))
        if at is not None
    )
    told = ", ".join(part for row in bands.legend(bar) for part in row)
    said = f"{bar.label}: {bands.headline((bar,))}; {told}"
    return f'<div class="cm-bar" role="img" aria-label="{escape(said)}">{parts}{ticks}</div>'


def _kinds(bar: bands.Bar) -> list[str]:
    names = [*(name for name, _ in bar.bands), *bar.unknown]
    kinds = {"others": "k-o", "cached": "k-b", "worker": "k-y", "trained": "k-y", "activations": "k-m", "margin": "k-b"}
    return [kinds.get(name.split(" ")[0], "") for name in names]


def legend_html(bar: bands.Bar) -> str:
    """What the bands of a bar are, with their amounts."""
    shown, ticks = bands.legend(bar)
    kinds = [kind for kind, at in (("k-p", bar.peak), ("k-t", bar.estimate)) if at is not None]
    return _keys(list(zip(_kinds(bar), shown, strict=True))) + _keys(list(zip(kinds, ticks, strict=True)))


def _notices(state: PanelState, moment: Moment, *, short: bool = False) -> str:
    notes = [f'<div class="cm-note">{escape(flag)}</div>' for flag in answers.flags(moment)]
    if state.begun_from:
        notes.append(f'<div class="cm-note cm-told">{"<br>".join(escape(line) for line in state.begun_from)}</div>')
    said = state.notices[-2:] if short else state.notices
    left_out = state.notices_left_out + len(state.notices) - len(said)
    if left_out:
        notes.append(f'<div class="cm-dim">{left_out} earlier warnings are in the event log.</div>')
    for notice in said:
        good = " cm-good" if notice.kind == "recovered" else ""
        notes.append(f'<div class="cm-note{good}">{escape(notice.text)}</div>')
    if state.failure:
        lines = "<br>".join(escape(line) for line in state.failure)
        notes.append(f'<div class="cm-note cm-fail">{lines}</div>')
    return "".join(notes)


def _foot(state: PanelState) -> str:
    lines = [escape(line) for line in words.footer(state)]
    return f'<div class="cm-foot">{"<br>".join(lines)}</div>' if lines else ""
