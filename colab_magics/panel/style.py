"""The panel's style sheet: it travels with every frame.

Text takes the colour that is there, and dims by opacity, so that it is legible on whatever the notebook has behind it.
Only graphics are coloured, in tones that show on light and dark alike; where the notebook tells its theme, in better
ones. `prefers-color-scheme` is not asked: it is the browser's, and wrong under a page that is always light (nbviewer,
the classic notebook, an export).
"""

from __future__ import annotations

import re

MOST_BYTES = 20_000  # a server drops output that comes too thick
# JupyterLab and Colab set $…$ in HTML as mathematics; MathJax leaves alone what is of these (version 2's, and 3's)
AS_TEXT = "tex2jax_ignore mathjax_ignore"

COLOURS = "--cm-a:#3b82f6;--cm-w:#d97706;--cm-r:#ef4444;--cm-k:#16a34a"
LIGHT = "--cm-a:#2563eb;--cm-w:#b45309;--cm-r:#dc2626;--cm-k:#15803d"
DARK = "--cm-a:#60a5fa;--cm-w:#f59e0b;--cm-r:#f87171;--cm-k:#4ade80"

BASE = f"""
.cm-panel{{{COLOURS};--cm-o:#8b949e;--cm-line:rgba(128,128,128,.28);
font:13px/1.5 var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif);color:inherit;
border:1px solid var(--cm-line);border-radius:10px;padding:14px 18px;max-width:860px;box-sizing:border-box;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere;text-align:left}}
.cm-panel *{{box-sizing:border-box}}
.cm-dim{{opacity:.76;font-size:12px}}
html[theme=dark] .cm-panel,.vscode-dark .cm-panel,[data-jp-theme-light=false] .cm-panel{{{DARK}}}
html[theme=light] .cm-panel,.vscode-light .cm-panel,[data-jp-theme-light=true] .cm-panel{{{LIGHT}}}
@media (max-width:460px){{.cm-panel{{padding:12px}}}}
"""

STYLE = (
    BASE
    + """
.cm-row{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px;align-items:baseline}
.cm-name{font-weight:600;font-size:15px}
.cm-dot::before,.cm-mind>.cm-big::before,.cm-bad>.cm-big::before{content:"";display:inline-block;width:8px;height:8px;
border-radius:4px;margin:0 7px 1px 0;background:var(--cm-a)}
.cm-dot{margin-left:10px}.cm-ok::before{background:var(--cm-k)}
.cm-mind::before,.cm-mind>.cm-big::before{background:var(--cm-w)}
.cm-bad::before,.cm-bad>.cm-big::before{background:var(--cm-r)}
.cm-track{height:6px;border-radius:3px;background:var(--cm-line);overflow:hidden;margin:10px 0 4px}
.cm-track>div{height:100%;background:var(--cm-a);border-radius:3px}
.cm-body{display:flex;flex-wrap:wrap;gap:16px 32px;margin-top:14px}
.cm-main{flex:3 1 300px;min-width:0}
.cm-side{flex:2 1 240px;min-width:0;display:flex;flex-direction:column;gap:14px}
.cm-wide{flex-flow:row wrap;gap:14px 32px}.cm-wide>div{flex:1 1 240px}
.cm-label{font-size:11px;line-height:1.4;opacity:.76}
.cm-big{font-size:15px;font-weight:600;line-height:1.35}
.cm-chart{display:grid;grid-template-columns:auto minmax(0,1fr);gap:0 8px;margin:12px 0 6px}
.cm-chart i,.cm-bar i{font-style:normal;display:block}
.cm-chart i::after{content:attr(data-v);font-size:11px;opacity:.76}
.cm-y{display:flex;flex-direction:column-reverse;justify-content:space-between;margin:-7px 0;text-align:right}
.cm-chart i{line-height:14px;height:14px;white-space:nowrap}
.cm-chart svg{width:100%;height:190px;display:block;overflow:visible;fill:none}
.cm-chart path{vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round}
.cm-g{stroke:var(--cm-line)}.cm-l{stroke:var(--cm-a);stroke-width:2}
.cm-raw{stroke:var(--cm-a);opacity:.38}
.cm-e{stroke:currentColor;opacity:.6}.cm-d{stroke:currentColor;stroke-width:6}
.cm-nan{stroke:var(--cm-r);stroke-width:6}.cm-f{stroke:var(--cm-r);stroke-width:2}
.cm-c{stroke:var(--cm-w);stroke-width:6}
.cm-x{grid-column:2;position:relative;height:16px;margin-top:5px}
.cm-x i{position:absolute;transform:translateX(-50%)}
.cm-x .cm-end{transform:translateX(-100%)}
.cm-keys{display:flex;flex-wrap:wrap;gap:0 14px;font-size:12px}
.cm-keys>span::before{content:"";display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:6px;
background:var(--cm-a)}
.cm-keys>.k-l::before,.cm-keys>.k-r::before{width:14px;height:2px;vertical-align:3px}
.cm-keys>.k-r::before{height:1px;opacity:.5}
.cm-keys>.k-d::before,.cm-keys>.k-n::before{width:7px;height:7px;border-radius:4px;background:currentColor}
.cm-keys>.k-n::before{background:var(--cm-r)}
.cm-keys>.k-c::before{width:7px;height:7px;border-radius:4px;background:var(--cm-w)}
.cm-keys>.k-f::before{width:2px;height:11px;background:var(--cm-r);vertical-align:-1px}
.cm-keys>.k-b::before,.cm-bar .k-b{background:repeating-linear-gradient(135deg,var(--cm-a) 0 2px,transparent 2px 4px)}
.cm-keys>.k-o::before,.cm-bar .k-o{background:var(--cm-o)}
.cm-keys>.k-p::before{width:2px;height:11px;border-radius:0;background:currentColor;vertical-align:-1px}
.cm-keys>.k-t::before,.cm-bar .k-t{height:0;background:none;border:4px solid transparent;border-top:6px solid}
.cm-keys>.k-t::before{width:0;vertical-align:-4px}
.cm-bar{position:relative;display:flex;height:12px;background:var(--cm-line);border-radius:3px;margin:9px 0 6px}
.cm-bar i{height:100%;background:var(--cm-a)}
.cm-bar i:first-child{border-radius:3px 0 0 3px}
.cm-bar .k-p{position:absolute;top:-2px;height:calc(100% + 4px);width:2px;background:currentColor;margin-left:-1px}
.cm-bar .k-t{position:absolute;top:-6px;margin-left:-4px}
.cm-gpus{display:grid;grid-template-columns:repeat(auto-fill,minmax(110px,1fr));gap:2px 16px;margin-top:6px}
.cm-gpus .cm-bar{height:8px;margin:5px 0}
.cm-note{border-left:3px solid var(--cm-w);padding:0 0 0 10px;margin:10px 0 0;font-size:12px}
.cm-told{border-color:var(--cm-line)}.cm-good{border-color:var(--cm-k)}.cm-fail{border-color:var(--cm-r)}
.cm-foot{margin:14px 0 0;padding:8px 0 0;border-top:1px solid var(--cm-line);font-size:12px;opacity:.76}
"""
)

FOLDS = """
.cm-more{border:0;padding:6px 18px}.cm-panel details{margin:2px 0}
.cm-panel summary{cursor:pointer;opacity:.76;font-size:12px}
.cm-panel dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:6px 0 0;font-size:12px}
.cm-panel dl dt{opacity:.76;font-weight:400;width:auto;float:none}
.cm-panel dl dd{margin:0;padding:0;min-width:0;width:auto}
.cm-panel dl dd .cm-dim{margin-left:8px}
.cm-sample{white-space:pre-wrap;font:12px/1.5 var(--jp-code-font-family,ui-monospace,Menlo,monospace);
margin:6px 0 0;padding:8px 10px;border:1px solid var(--cm-line);border-radius:6px;max-height:220px;overflow:auto}
.cm-sample mark{background:rgba(37,99,235,.22);color:inherit;border-radius:2px}
@media (max-width:460px){.cm-more{padding:6px 12px}
.cm-panel dl{grid-template-columns:1fr;gap:0}.cm-panel dl dd{margin:0 0 4px}}
"""

BASE, STYLE, FOLDS = (style.strip().replace("\n", "") for style in (BASE, STYLE, FOLDS))

# Bars and their legends alone, for whatever else shows one.
BARS = "".join(rule for rule in re.findall(r"[^{}]+{[^{}]*}", STYLE) if ".cm-bar" in rule or ".cm-keys" in rule)

# A chart and its legend alone.
CHART = "".join(
    rule
    for rule in re.findall(r"[^{}]+{[^{}]*}", STYLE)
    if any(word in rule for word in (".cm-chart", ".cm-g{", ".cm-y{", ".cm-x", ".cm-keys{", ".cm-keys>span", ".k-l"))
)
