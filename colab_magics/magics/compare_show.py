"""`%compare`: two models side by side, with what differs easy to see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from colab_magics.errors import clean, redact
from colab_magics.inference.compare import Compared
from colab_magics.magics.generate_show import shortened
from colab_magics.magics.grid import Grid, Marked, Page

_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def bundle(made: Compared, foot: list[str]) -> dict[str, str]:
    """As a display bundle: a table, and lines of text below each other where tables are not shown."""
    title = f"{made.before.label} and {made.after.label}"
    lines = [f"{len(made.prompts)} {'case' if len(made.prompts) == 1 else 'cases'} in {made.seconds:.1f} s"]
    sums = _sums(made)
    grids = [sums] if sums.rows else []
    shown = Page(title, lines, [*grids, _cases(made)], foot)
    text = "\n\n".join(filter(None, [Page(title, lines, grids).text(), *_as_text(made), "\n".join(foot)]))
    return {"text/html": shown.html(), "text/plain": text}


def cut(made: Compared) -> list[str]:
    """Whose texts look whole and are not: what is cut is not the reference, and may score low for nothing."""
    said = [f"{side.cut} of {side.label}" for side in (made.before, made.after) if side.cut]
    return [f"Cut before their end: {', '.join(said)}. --max-new-tokens N allows more."] if said else []


def _sums(made: Compared) -> Grid:
    rows = [
        ("loss on the answers", *_pair(made, "loss", "{:.4f}")),
        ("perplexity", *_pair(made, "perplexity", "{:,.3f}")),
        ("exact match", *_pair(made, "exact", "{:.0%}")),
        ("score", *_pair(made, "score", "{:.3f}")),
    ]
    return Grid(("", made.before.label, made.after.label), tuple(row for row in rows if row[1] or row[2]))


def _pair(made: Compared, name: str, form: str) -> tuple[str, str]:
    before, after = (getattr(side, name) for side in (made.before, made.after))
    return "" if before is None else form.format(before), "" if after is None else form.format(after)


def _cases(made: Compared) -> Grid:
    rows = []
    for number, prompt in enumerate(made.prompts):
        before, after = differing(made.before.texts[number] or "", made.after.texts[number] or "")
        reference = made.references[number] or ""
        rows.append((str(number + 1), shortened(prompt), reference, before, after, _figures(made, number)))
    return Grid(("", "prompt", "reference", made.before.label, made.after.label, "loss, score"), tuple(rows))


def differing(one: str, other: str) -> tuple[Marked, Marked]:
    """Both texts, with the words marked that the other does not have there."""
    words = _WORD.findall(one), _WORD.findall(other)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = [], []
    for tag, *places in SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for side, written, (start, end) in zip(sides, words, (places[:2], places[2:]), strict=True):
            if end > start:
                side.append(("".join(written[start:end]), tag != "equal"))
    return Marked(sides[0]), Marked(sides[1])


def _figures(made: Compared, number: int) -> str:
    """A case's losses, and the scores where there are any: before → after."""

    def change(before: float | None, after: float | None) -> str:
        return "" if before is None or after is None else f"{before:.3f} → {after:.3f}"

    scores = [side.scores[number] if side.scores else None for side in (made.before, made.after)]
    return ", ".join(filter(None, [change(made.before.losses[number], made.after.losses[number]), change(*scores)]))


def _as_text(made: Compared) -> Iterator[str]:
    width = max(len("reference"), len(made.before.label), len(made.after.label))
    for number, prompt in enumerate(made.prompts):
        before, after = made.before.texts[number], made.after.texts[number]
        said = [(made.before.label, before), (made.after.label, "the same" if before == after else after)]
        rows = [("reference", made.references[number]), *said, ("loss, score", _figures(made, number))]
        lines = [f"{number + 1}. {shortened(prompt)}"]
        lines += [f"   {label.ljust(width)}  {text}" for label, text in rows if text]
        yield "\n".join(redact(clean(line).replace("\n", " ")) for line in lines)
