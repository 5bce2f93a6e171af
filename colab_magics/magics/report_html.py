"""A report as one HTML file: no script, nothing from the network, light or dark as the reader has it."""

from __future__ import annotations

from html import escape

from colab_magics.errors import clean, redact
from colab_magics.magics.grid import Grid, grid_html, html_of
from colab_magics.magics.report_parts import (
    Answers,
    Block,
    Code,
    Curves,
    Missing,
    Report,
    Sample,
    Section,
    Steps,
    Text,
)
from colab_magics.panel.chart import chart, cut_off, smoothing
from colab_magics.panel.state import PanelState
from colab_magics.panel.style import DARK, LIGHT, STYLE
from colab_magics.panel.words import number

MARK = "<!-- a report of colab_magics -->"

# this page is ours from edge to edge, so that here the reader's own light or dark may be asked for
_PAGE = f"""
:root{{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--line:rgba(128,128,128,.3);--soft:rgba(128,128,128,.08);
{LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{--ink:#e6edf3;--paper:#0d1117;{DARK}}}}}
body{{margin:0 auto;max-width:880px;padding:32px 20px 64px;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}}
h1{{font-size:26px;line-height:1.25;margin:0 0 6px}}h2{{font-size:18px;margin:36px 0 8px;padding-top:14px;
border-top:1px solid var(--line)}}h3{{font-size:14px;margin:18px 0 4px}}p{{margin:8px 0}}
.quiet{{opacity:.72;font-size:13px}}
.missing{{border-left:3px solid var(--line);padding-left:10px;opacity:.8}}
nav{{font-size:13px;margin:14px 0 0}}nav a{{color:inherit;margin-right:12px;white-space:nowrap}}
table{{border-collapse:collapse;min-width:46%;margin:8px 0;font-size:13.5px;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;vertical-align:baseline;padding:5px 14px 5px 0;border-bottom:1px solid var(--line)}}
thead:not(:has(th:not(:empty))){{display:none}}
th{{font-weight:400;font-size:12px;opacity:.72}}td.cm-whole{{white-space:nowrap}}
td:last-child{{overflow-wrap:anywhere;min-width:7em}}
.cm-part{{font-weight:600;font-size:14px;margin:16px 0 0}}
pre,.sample{{white-space:pre-wrap;font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;background:var(--soft);
border:1px solid var(--line);border-radius:6px;padding:10px 12px;margin:8px 0}}
mark{{background:rgba(37,99,235,.22);color:inherit;border-radius:2px}}
.answers{{border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:12px 0}}
.answers dl{{display:grid;grid-template-columns:84px 1fr;gap:4px 12px;margin:8px 0 0}}
.answers dt{{opacity:.72;font-size:13px}}.answers dd{{margin:0;white-space:pre-wrap}}
.cm-panel{{border:0;padding:0;max-width:none}}
@media print{{body{{max-width:none}}nav{{display:none}}h2{{break-after:avoid}}}}
@media (max-width:520px){{.answers dl{{grid-template-columns:1fr}}table{{display:block;overflow-x:auto}}}}
""".strip().replace("\n", "")


def html(report: Report) -> str:
    """The whole file; all text escaped."""
    title = html_of(report.title)
    lines = "".join(f"<p>{html_of(line)}</p>" for line in report.lines)
    links = "".join(f'<a href="#{_anchor(one)}">{html_of(one.title)}</a> ' for one in report.sections)
    body = "\n".join(_section(one) for one in report.sections)
    return (
        f'<!doctype html>\n{MARK}\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{STYLE}{_PAGE}</style>\n<h1>{title}</h1>\n{lines}\n<nav>{links.rstrip()}</nav>\n{body}\n</html>\n"
    )


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<h2 id="{_anchor(section)}">{html_of(section.title)}</h2>\n{blocks}'


def _block(block: Block) -> str:
    match block:
        case Text(text, quiet):
            return f"<p{' class=quiet' if quiet else ''}>{html_of(text)}</p>"
        case Missing(how):
            return f'<p class="missing">{html_of(how)}</p>'
        case Steps(items):
            return "<ul>" + "".join(f"<li>{html_of(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{_verbatim(text)}</pre>"
        case Sample(pieces):
            told = "".join(f"<mark>{_verbatim(text)}</mark>" if on else _verbatim(text) for text, on in pieces)
            return f'<div class="sample">{told}</div>'
        case Answers(prompt, said):
            rows = "".join(f"<dt>{html_of(who)}</dt><dd>{_verbatim(what)}</dd>" for who, what in said)
            return f'<div class="answers"><div class="sample">{_verbatim(prompt)}</div><dl>{rows}</dl></div>'
        case Curves(state):
            return f'<div class="cm-panel">{chart(state)}{_keys(state)}</div>'
        case Grid():
            return grid_html(block)


def _verbatim(text: str) -> str:
    """Text whose lines and spaces are kept."""
    return escape(redact(clean(text)))


def _keys(state: PanelState) -> str:
    mean = smoothing(state)
    keys = [("k-l", "training" if mean == 1 else f"training, mean of {mean:,} steps")]
    if mean > state.curve.stride:
        keys.append(("k-r", "each step" if state.curve.stride == 1 else f"mean of {state.curve.stride:,}"))
    if state.eval_curve.drawn():
        keys.append(("k-d", "evaluation"))
    if state.curve.gaps:
        keys.append(("k-n", "not finite"))
    if above := cut_off(state):
        keys.append(("k-c", f"{len(above)} cut off, up to {number(max(y for _, y in above))}"))
    return '<div class="cm-keys">' + " ".join(f'<span class="{k}">{escape(v)}</span>' for k, v in keys) + "</div>"
