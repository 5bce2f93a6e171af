"""What a report is made of: sections of a few kinds of blocks, drawn as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from colab_magics.magics.grid import Grid
from colab_magics.panel.state import PanelState


@dataclass(frozen=True)
class Text:
    """A paragraph; `quiet` ones are notes beside what counts."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Steps:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text in which every space counts."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Sample:
    """A text in pieces, and whether each of them is trained."""

    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Curves:
    """The loss by step."""

    state: PanelState


@dataclass(frozen=True)
class Answers:
    """What was said to one prompt: who said it, and what."""

    prompt: str
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Missing:
    """A part that was not measured, and how it would be."""

    how: str


Block = Text | Steps | Code | Sample | Curves | Answers | Missing | Grid


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """All of it; `lines` stand under the title."""

    title: str
    lines: Sequence[str]
    sections: Sequence[Section]


def pairs(rows: Sequence[tuple[str, str]], title: str = "") -> Grid:
    """What is known by its name; rows without a value are left out."""
    return Grid(("", ""), tuple((label, value) for label, value in rows if value), title=title)
