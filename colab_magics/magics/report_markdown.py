"""A report as one Markdown file, for a repository, an issue or a wiki."""

from __future__ import annotations

import re

from colab_magics.errors import clean, redact
from colab_magics.magics.grid import Grid, grid_markdown, markdown_of
from colab_magics.magics.report_html import MARK
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
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import sparkline
from colab_magics.panel.words import number

_POINTS = 10


def markdown(report: Report) -> str:
    """The whole file; no letter of a name or an answer means anything in it."""
    lines = [markdown_of(line) for line in report.lines]
    sections = [_section(one) for one in report.sections]
    return "\n\n".join([MARK, f"# {markdown_of(report.title)}", *lines, *sections]) + "\n"


def _section(section: Section) -> str:
    return "\n\n".join([f"## {markdown_of(section.title)}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Text(text, quiet):
            return f"<sub>{markdown_of(text)}</sub>" if quiet else markdown_of(text)
        case Missing(how):
            return f"> {markdown_of(how)}"
        case Steps(items):
            return "\n".join(f"- {markdown_of(item)}" for item in items)
        case Code(text, language):
            return _fenced(text, language)
        case Sample(pieces):
            return _fenced("".join(f"⟦{text}⟧" if on else text for text, on in pieces))
        case Answers(prompt, said):
            return "\n\n".join([_fenced(prompt), *(f"**{markdown_of(who)}**\n\n{_fenced(what)}" for who, what in said)])
        case Curves(state):
            return _curve(state)
        case Grid():
            title = f"**{markdown_of(block.title)}**\n\n" if block.title else ""
            return title + grid_markdown(block)


def _fenced(text: str, language: str = "") -> str:
    """A block of code that nothing in it can end."""
    text = redact(clean(text))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _curve(state: PanelState) -> str:
    """The curve as blocks, and some of its points."""
    points, evals = state.curve.drawn(), dict(state.eval_curve.drawn())
    places = sorted({round(n * (len(points) - 1) / (_POINTS - 1)) for n in range(_POINTS)})
    steps = sorted({points[place][0] for place in places} | set(list(evals)[-_POINTS:]))
    losses = dict(points)
    rows = tuple(
        (f"{step:,.0f}", number(losses[step]) if step in losses else "", number(evals[step]) if step in evals else "")
        for step in steps
    )
    return f"`{sparkline(state)}`\n\n" + grid_markdown(Grid(("step", "training loss", "evaluation loss"), rows))
