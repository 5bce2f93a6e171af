"""A table of words in three forms: lines of text, self-contained HTML, Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from colab_magics.errors import clean, redact
from colab_magics.panel.bands import Bar, legend
from colab_magics.panel.html import bar_html, legend_html
from colab_magics.panel.style import AS_TEXT, BARS, CHART, COLOURS
from colab_magics.panel.text import shaded

# No script and nothing from the network; text takes the colour that is there, and the greys show on light and dark.
# JupyterLab aligns and stripes every table: what it does is undone.
_STYLE = """
.cm-grid{--cm-line:rgba(128,128,128,.32);--cm-dim:.68;font:13px/1.5 var(--jp-ui-font-family,system-ui,
-apple-system,"Segoe UI",Roboto,sans-serif);color:inherit;border:1px solid var(--cm-line);border-radius:8px;
padding:12px 16px;max-width:1000px;box-sizing:border-box;font-variant-numeric:tabular-nums;overflow-x:auto}
.cm-grid .cm-name{font-weight:600;font-size:15px}
.cm-grid .cm-part{font-weight:600;margin:12px 0 0}
.cm-grid .cm-dim{opacity:var(--cm-dim);font-size:12px}
.cm-grid table{border:0;border-collapse:collapse;margin:8px 0 0;width:100%;font-size:13px;color:inherit}
.cm-grid tr,.cm-grid tr:nth-child(even),.cm-grid tr:hover{background:none}
.cm-grid th,.cm-grid td{border:0;border-bottom:1px solid var(--cm-line);padding:4px 14px 4px 0;
text-align:left;vertical-align:baseline;max-width:none;color:inherit}
.cm-grid th{font-weight:400;font-size:11px;opacity:var(--cm-dim);white-space:nowrap}
.cm-grid .cm-whole{white-space:nowrap}
.cm-grid .cm-off td{opacity:var(--cm-dim)}
.cm-grid mark{background:rgba(210,153,34,.3);color:inherit;border-radius:2px}
.cm-grid .cm-foot{margin:6px 0 0;font-size:12px;opacity:var(--cm-dim)}
""".strip().replace("\n", "")
_KINDS = (("k-y", "--cm-k"), ("k-m", "--cm-w"))
_OWN = "".join(f".cm-keys>.{kind}::before,.cm-bar .{kind}{{background:var({colour})}}" for kind, colour in _KINDS)
_BARS = f".cm-grid{{{COLOURS};--cm-o:#8b949e}}{BARS}{_OWN}"
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\|*_`<>[]#"})


class Marked(str):
    """A cell of which some parts stand out in HTML; elsewhere it is a cell like any other.

    Attributes
    ----------
    parts : tuple of (str, bool)
        The cell's text in pieces, and whether each stands out.
    """

    parts: tuple[tuple[str, bool], ...]

    def __new__(cls, parts: Sequence[tuple[str, bool]]) -> Marked:
        made = super().__new__(cls, "".join(text for text, _ in parts))
        made.parts = tuple(parts)
        return made


@dataclass(frozen=True)
class Grid:
    """Rows under a head. A column without a word is left out.

    Attributes
    ----------
    off : collection of int
        Numbers of the rows that are shown pale.
    whole : collection of str
        The columns whose words are not broken into lines.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    off: Collection[int] = ()
    whole: Collection[str] = ()

    @property
    def columns(self) -> list[int]:
        return [column for column in range(len(self.head)) if any(row[column] for row in self.rows)]


@dataclass(frozen=True)
class Page:
    """What a line shows: a title, lines under it, bars of memory, tables, and lines at the foot."""

    title: str
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    foot: Sequence[str] = ()
    bars: Sequence[Bar] = ()

    def bundle(self) -> dict[str, str]:
        """As a display bundle."""
        return {"text/html": self.html(), "text/plain": self.text()}

    def text(self) -> str:
        """Without ANSI and control characters."""
        parts = ["\n".join(map(_safe, [self.title, *self.lines]))]
        parts += ["\n".join(_safe(line) for bar in self.bars for line in _bar(bar))]
        parts += ["\n".join([*filter(None, [_safe(grid.title)]), *_aligned(grid)]) for grid in self.grids]
        parts += ["\n".join(map(_safe, self.foot))]
        return "\n\n".join(filter(None, parts))

    def html(self) -> str:
        """One self-contained piece; all text escaped."""
        lines = "".join(f'<div class="cm-dim">{html_of(line)}</div>' for line in self.lines)
        grids = "".join(map(grid_html, self.grids))
        foot = "".join(f'<div class="cm-foot">{html_of(line)}</div>' for line in self.foot)
        title = f'<div class="cm-name">{html_of(self.title)}</div>'
        style = _STYLE + _BARS if self.bars else _STYLE
        bars = "".join(
            f'<div class="cm-part">{html_of(bar.label)}</div>{bar_html(bar)}{legend_html(bar)}' for bar in self.bars
        )
        return f'<div class="cm-grid {AS_TEXT}"><style>{style}</style>{title}{lines}{bars}{grids}{foot}</div>'

    def markdown(self) -> str:
        """For a README or an issue."""
        parts = [f"## {markdown_of(self.title)}", "\n\n".join(map(markdown_of, self.lines))]
        for grid in self.grids:
            parts += [f"### {markdown_of(grid.title)}" if grid.title else "", grid_markdown(grid)]
        parts += ["\n\n".join(map(markdown_of, self.foot))]
        return "\n\n".join(filter(None, parts))


def chart_html(title: str, drawn: str) -> str:
    """A chart, drawn already, in a frame as a page has it; to stand below one."""
    style = _STYLE + CHART
    return (
        f'<div class="cm-grid {AS_TEXT}"><style>{style}</style><div class="cm-part">{html_of(title)}</div>{drawn}</div>'
    )


def _bar(bar: Bar) -> list[str]:
    return [f"{shaded(bar)}{bar.label}", "  ".join(part for row in legend(bar) for part in row)]


def _aligned(grid: Grid) -> list[str]:
    rows = [[_safe(row[column]) for column in grid.columns] for row in (grid.head, *grid.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def grid_html(grid: Grid) -> str:
    """The table alone, under its title; all text escaped."""
    head = "".join(f'<th scope="col">{html_of(grid.head[column])}</th>' for column in grid.columns)
    body = ""
    for number, row in enumerate(grid.rows):
        cells = "".join(f"<td{_class(grid, column)}>{_html_cell(row[column])}</td>" for column in grid.columns)
        pale = ' class="cm-off"' if number in grid.off else ""
        body += f"<tr{pale}>{cells}</tr>"
    title = f'<div class="cm-part">{html_of(grid.title)}</div>' if grid.title else ""
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_cell(cell: str) -> str:
    if not isinstance(cell, Marked):
        return html_of(cell)
    return "".join(f"<mark>{html_of(text)}</mark>" if stands_out else html_of(text) for text, stands_out in cell.parts)


def _class(grid: Grid, column: int) -> str:
    return ' class="cm-whole"' if grid.head[column] in grid.whole else ""


def grid_markdown(grid: Grid) -> str:
    """The table alone, without its title."""
    lines = [[markdown_of(row[column]) for column in grid.columns] for row in (grid.head, *grid.rows)]
    lines.insert(1, ["---"] * len(grid.columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _safe(said: str) -> str:
    """Text that may hold a name whose letters a stranger has chosen."""
    return redact(clean(said).replace("\n", " "))


def html_of(said: str) -> str:
    """The text as it stands in HTML."""
    return escape(_safe(said))


def markdown_of(said: str) -> str:
    """The text as it stands in Markdown, where none of its letters means anything."""
    return _safe(said).translate(_MARKDOWN)
