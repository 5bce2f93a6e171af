"""The panel as HTML: one self-contained piece, no script, nothing from the network.

It is drawn by Colab (in an iframe a cell), Jupyter, VS Code and nbviewer, in light and dark: so all style travels
with it and undoes what JupyterLab does to `dl`, text takes the colour that is there, and borders and tracks are greys
that show on both. Where a viewer drops the style and the chart (GitHub), the numbers remain as plain text in order.
"""

from __future__ import annotations

from html import escape

from colab_magics.panel import words
from colab_magics.panel.parts import Data
from colab_magics.panel.state import PanelState

_WIDTH, _HEIGHT = 600, 90
MOST_BYTES = 20_000  # a server drops output that comes too thick

_STYLE = """
.cm-panel{--cm-accent:#2563eb;--cm-line:rgba(128,128,128,.32);--cm-dim:.68;
font:13px/1.5 var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif);color:inherit;
border:1px solid var(--cm-line);border-radius:8px;padding:12px 16px;max-width:760px;box-sizing:border-box;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.cm-panel *{box-sizing:border-box}
.cm-head{display:flex;flex-wrap:wrap;gap:0 10px;align-items:baseline}
.cm-name{font-weight:600;font-size:15px}
.cm-phase{color:var(--cm-accent)}
.cm-dim{opacity:var(--cm-dim);font-size:12px}
.cm-track{height:6px;border-radius:3px;background:var(--cm-line);overflow:hidden;margin:10px 0 4px}
.cm-track>div{height:100%;background:var(--cm-accent);border-radius:3px}
.cm-row{display:flex;justify-content:space-between;flex-wrap:wrap;gap:0 16px}
.cm-chart{display:flex;gap:8px;margin:10px 0 6px}
.cm-axis{display:flex;flex-direction:column;justify-content:space-between;text-align:right;font-size:11px;
line-height:1.1;opacity:var(--cm-dim)}
.cm-chart svg{flex:1;overflow:visible;min-width:0;height:90px;display:block;color:var(--cm-accent);
border-bottom:1px solid var(--cm-line)}
.cm-facts{display:flex;flex-wrap:wrap;align-items:flex-end;gap:4px 28px;margin:6px 0 0}
.cm-facts>div{min-width:0}
.cm-facts b{display:block;font-weight:400;font-size:11px;opacity:var(--cm-dim)}
.cm-big{font-size:17px;font-weight:600;line-height:1.2}
.cm-note{border-left:3px solid #d97706;padding:1px 0 1px 10px;margin:8px 0 0}
.cm-note.cm-good{border-color:#16a34a}
.cm-note.cm-bad{border-color:#dc2626}
.cm-panel details{margin:6px 0 0}
.cm-panel summary{cursor:pointer;opacity:var(--cm-dim);font-size:12px}
.cm-panel dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:6px 0 0;font-size:12px}
.cm-panel dl dt{opacity:var(--cm-dim);font-weight:400;width:auto;float:none}
.cm-panel dl dd{margin:0;padding:0;min-width:0;width:auto}
.cm-panel dl dd .cm-dim{margin-left:8px}
.cm-sample{white-space:pre-wrap;font:12px/1.5 var(--jp-code-font-family,ui-monospace,Menlo,monospace);
margin:6px 0 0;padding:8px 10px;border:1px solid var(--cm-line);border-radius:6px;max-height:220px;overflow:auto}
.cm-sample mark{background:rgba(37,99,235,.22);color:inherit;border-radius:2px}
.cm-foot{margin:10px 0 0;padding:8px 0 0;border-top:1px solid var(--cm-line);font-size:12px;opacity:var(--cm-dim)}
@media (prefers-color-scheme:dark){.cm-panel{--cm-accent:#60a5fa}}
html[theme=dark] .cm-panel,.vscode-dark .cm-panel,[data-jp-theme-light=false] .cm-panel{--cm-accent:#60a5fa}
html[theme=light] .cm-panel,.vscode-light .cm-panel,[data-jp-theme-light=true] .cm-panel{--cm-accent:#2563eb}
@media (max-width:460px){.cm-panel{padding:10px 12px}.cm-panel dl{grid-template-columns:1fr;gap:0}
.cm-panel dl dd{margin:0 0 4px}}
""".strip().replace("\n", "")


def html(state: PanelState) -> str:
    """The whole panel; all text escaped. What makes it larger than `MOST_BYTES` is left out, details first."""
    head, bar, chart, facts = _head(state), _bar(state), _chart(state), _facts(state)
    notices, details, foot = _notices(state), _details(state), _foot(state)
    frame = ""
    for rest in (notices + details, notices, ""):
        frame = f'<div class="cm-panel"><style>{_STYLE}</style>{head}{bar}{chart}{facts}{rest}{foot}</div>'
        if len(frame.encode()) < MOST_BYTES:
            break
    return frame


def _head(state: PanelState) -> str:
    subject = words.subject(state)
    head = (
        f'<div class="cm-head"><span class="cm-name">{escape(state.name or "run")}</span> '
        f'<span class="cm-phase">{escape(words.phase(state))}</span></div>'
    )
    return head + (f'<div class="cm-dim">{escape(subject)}</div>' if subject else "")


def _bar(state: PanelState) -> str:
    fraction, done = words.progress(state)
    if state.phase == "failed" or (fraction is None and not done):
        return ""
    bar = ""
    if fraction is not None:
        bar = (
            f'<div class="cm-track" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{fraction * 100:.0f}"><div style="width:{fraction * 100:.1f}%"></div></div>'
        )
    left = state.seconds_left
    right = f"{words.duration(left)} left" if left is not None else ""
    return f'{bar}<div class="cm-row cm-dim"><span>{escape(done)}</span> <span>{right}</span></div>'


def _chart(state: PanelState) -> str:
    points = state.curve.drawn()
    if len(points) < 2:
        return ""
    evals = [(one.step, one.loss) for one in state.evals if one.loss == one.loss and abs(one.loss) != float("inf")]
    heights = [y for _, y in (*points, *evals)]
    low, high = min(heights), max(heights)
    first, last = points[0][0], max(points[-1][0], state.total_steps or 0)

    def at(x: float, y: float) -> str:
        across = 0.0 if last <= first else _WIDTH * (x - first) / (last - first)
        down = _HEIGHT / 2 if high <= low else 4 + (_HEIGHT - 8) * (high - y) / (high - low)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(at(x, y) for x, y in points)
    # A line of no length with round ends is a dot that the stretched viewBox cannot squash.
    dots = "".join(f'<path d="M{at(x, y)}h0" vector-effect="non-scaling-stroke"/>' for x, y in evals)
    legend = " · dots: evaluation" if dots else ""
    return (
        f'<div class="cm-chart"><div class="cm-axis"><span>{words.number(high)}</span>'
        f"<span>{words.number(low)}</span></div>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" style="height:90px" '
        f'aria-label="loss by step{legend}"><polyline points="{line}" fill="none" stroke="currentColor" '
        f'stroke-width="1.6" stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        f'<g stroke="#d97706" stroke-width="6" stroke-linecap="round">'
        f"{dots}</g></svg></div>"
    )


def _facts(state: PanelState) -> str:
    facts = [(label, value) for label, value in words.facts(state) if label != "time left"]
    loss = words.loss(state)
    if not facts and not loss:
        return ""
    cells = [f"<div><b>{escape(label)}</b>{escape(value)}</div>" for label, value in facts]
    if loss:
        value, comma, rest = loss.partition(",")
        cells.insert(0, f'<div><b>loss</b><span class="cm-big">{escape(value)}</span>{escape(comma + rest)}</div>')
    return f'<div class="cm-facts">{" ".join(cells)}</div>'


def _notices(state: PanelState) -> str:
    notes = [f'<div class="cm-dim">{escape(line)}</div>' for line in state.resumed]
    if state.notices_left_out:
        notes.append(f'<div class="cm-dim">{state.notices_left_out} earlier warnings are in the event log.</div>')
    for notice in state.notices:
        good = " cm-good" if notice.kind == "recovered" else ""
        notes.append(f'<div class="cm-note{good}">{escape(notice.text)}</div>')
    if state.failure:
        lines = "<br>".join(escape(line) for line in state.failure)
        notes.append(f'<div class="cm-note cm-bad">{lines}</div>')
    return "".join(notes)


def _details(state: PanelState) -> str:
    folds = []
    if state.plan:
        rows = "".join(
            f"<dt>{escape(choice.key)}</dt><dd>{escape(choice.value)}"
            + (f' <span class="cm-dim">{escape(choice.reason)}</span>' if choice.reason else "")
            + "</dd>"
            for choice in state.plan[:30]
        )
        folds.append(f"<details><summary>Plan: what was chosen, and why</summary><dl>{rows}</dl></details>")
    if state.data:
        folds.append(
            "<details><summary>Data: what is trained on</summary>"
            + "".join(_data(data) for data in state.data)
            + "</details>"
        )
    return "".join(folds)


def _data(data: Data) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in words.data_facts(data))
    sample = "".join(f"<mark>{escape(part)}</mark>" if trained else escape(part) for part, trained in data.sample)
    shown = f'<div class="cm-dim">One sample, the trained part marked:</div><div class="cm-sample">{sample}</div>'
    return f"<dl>{rows}</dl>" + (shown if sample else "")


def _foot(state: PanelState) -> str:
    lines = [escape(line) for line in words.footer(state)]
    return f'<div class="cm-foot">{"<br>".join(lines)}</div>' if lines else ""
