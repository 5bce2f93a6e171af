"""`%checkpoint list`, drawn: the same survey as HTML and as text."""

from __future__ import annotations

import time
from html import escape

from colab_magics.errors import clean, redact
from colab_magics.magics.checkpoint_survey import Row, Survey
from colab_magics.panel import words
from colab_magics.panel.style import AS_TEXT

HEAD = ("step", "age", "loss", "eval loss", "size", "copy", "marks")
_DAY = 86_400.0

# No script and nothing from the network; text takes the colour that is there, and the greys show on light and dark.
# JupyterLab aligns and stripes every table: what it does is undone.
_STYLE = """
.cm-checkpoints{--cm-line:rgba(128,128,128,.32);--cm-dim:.68;font:13px/1.5 var(--jp-ui-font-family,system-ui,
-apple-system,"Segoe UI",Roboto,sans-serif);color:inherit;border:1px solid var(--cm-line);border-radius:8px;
padding:12px 16px;max-width:860px;box-sizing:border-box;font-variant-numeric:tabular-nums;overflow-x:auto}
.cm-checkpoints .cm-name{font-weight:600;font-size:15px}
.cm-checkpoints .cm-dim{opacity:var(--cm-dim);font-size:12px}
.cm-checkpoints table{border:0;border-collapse:collapse;margin:8px 0 0;width:100%;font-size:13px;color:inherit}
.cm-checkpoints tr,.cm-checkpoints tr:nth-child(even),.cm-checkpoints tr:hover{background:none}
.cm-checkpoints th,.cm-checkpoints td{border:0;border-bottom:1px solid var(--cm-line);padding:4px 14px 4px 0;
text-align:left;vertical-align:baseline;white-space:nowrap;max-width:none;color:inherit}
.cm-checkpoints th{font-weight:400;font-size:11px;opacity:var(--cm-dim)}
.cm-checkpoints .cm-number{text-align:right}
.cm-checkpoints .cm-mark{border:1px solid var(--cm-line);border-radius:9px;padding:0 7px;
margin-right:4px;font-size:11px}
.cm-checkpoints .cm-broken{white-space:normal}
.cm-checkpoints .cm-broken::before{content:"";border-left:3px solid #dc2626;margin-right:8px}
.cm-checkpoints .cm-foot{margin:6px 0 0;font-size:12px;opacity:var(--cm-dim)}
""".strip().replace("\n", "")


def bundle(found: Survey, now: float | None = None) -> dict[str, str]:
    """The table in both forms; `now` in seconds since the epoch."""
    now = time.time() if now is None else now
    return {"text/html": html(found, now), "text/plain": text(found, now)}


def age(seconds: float) -> str:
    """How long ago, in whole units; a clock that was set back makes nothing negative."""
    for amount, unit in ((_DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * amount:
            return f"{seconds / amount:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def text(found: Survey, now: float) -> str:
    """The survey as lines of text, without ANSI and control characters."""
    rows = [HEAD, *(_cells(row, now) for row in found.rows)]
    shown = [index for index in range(len(HEAD)) if any(row[index] for row in rows[1:])]
    widths = {index: max(len(row[index]) for row in rows) for index in shown}
    lines = []
    for cells, row in zip(rows, (None, *found.rows), strict=True):
        line = "  ".join(_aligned(cells[index], widths[index], index) for index in shown).rstrip()
        if row is not None and row.broken:
            line = f"{_aligned(cells[0], widths.get(0, 4), 0)}  broken: {_safe(row.broken)}"
        lines.append(line)
    return "\n".join([*(lines if found.rows else []), *_foot(found)])


def html(found: Survey, now: float) -> str:
    """The survey as one self-contained piece; all text escaped."""
    head = "".join(f"<th{_class(index)}>{escape(label)}</th>" for index, label in enumerate(HEAD))
    body = "".join(_html_row(row, now) for row in found.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if found.rows else ""
    foot = "".join(f'<div class="cm-foot">{escape(line)}</div>' for line in _foot(found))
    count = f"{len(found.rows)} checkpoint{'' if len(found.rows) == 1 else 's'}"
    return (
        f'<div class="cm-checkpoints {AS_TEXT}"><style>{_STYLE}</style>'
        f'<span class="cm-name">{escape(found.name)}</span> '
        f'<span class="cm-dim">{count}</span>{table}{foot}</div>'
    )


def _html_row(row: Row, now: float) -> str:
    cells = _cells(row, now)
    if row.broken:
        said = escape(f"broken: {_safe(row.broken)}")
        return (
            f'<tr><td class="cm-number">{cells[0]}</td><td class="cm-broken" colspan="{len(HEAD) - 1}">{said}</td></tr>'
        )
    marks = "".join(f'<span class="cm-mark">{escape(mark)}</span> ' for mark in row.marks)
    plain = "".join(f"<td{_class(index)}>{escape(cell)}</td>" for index, cell in enumerate(cells[:-1]))
    return f"<tr>{plain}<td>{marks}</td></tr>"


def _cells(row: Row, now: float) -> tuple[str, ...]:
    return (
        f"{row.entry.step:,}",
        age(now - row.saved) if row.saved is not None else "",
        words.number(row.loss) if row.loss is not None else "",
        words.number(row.eval_loss) if row.eval_loss is not None else "",
        words.size(row.size) if row.size is not None else "",
        row.copy,
        ", ".join(row.marks),
    )


def _class(index: int) -> str:
    return ' class="cm-number"' if _is_number(index) else ""


def _is_number(index: int) -> bool:
    return HEAD[index] in ("step", "age", "loss", "eval loss", "size")


def _aligned(cell: str, width: int, index: int) -> str:
    return cell.rjust(width) if _is_number(index) else cell.ljust(width)


def _foot(found: Survey) -> list[str]:
    aside = [f"Set aside as broken: {', '.join(_safe(name) for name in found.aside)}"] if found.aside else []
    replica = [f"Replica: {_safe(found.replica)}"] if found.replica else []
    return [*aside, *replica, found.resume]


def _safe(said: str) -> str:
    """Text that may name a file whose name a stranger has chosen."""
    return redact(clean(said).replace("\n", " "))
