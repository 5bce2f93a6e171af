"""`prompt_template`: text with the names of columns in braces."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from colab_magics.data.examples import Unusable, Written, words
from colab_magics.errors import ColabMagicsError, nearest

_PLACEHOLDER = re.compile(r"\{(\{?)([^{}\n:\"']+)\}(\}?)")


def columns_of(template: str, columns: Mapping[str, str]) -> list[str]:
    """The columns that a template names, each once; the last is the answer.

    Without the rows a name that could be no variable's counts only where the recipe's `columns` has it: JSON in a
    prompt is full of braces.
    """
    names = []
    for match in _PLACEHOLDER.finditer(template):
        name = match[2].strip()
        if not match[1] and (name in columns or name.isidentifier()):
            names.append(columns.get(name, name))
    return [name for name in dict.fromkeys(names[:-1]) if name != names[-1]] + names[-1:]


def fill_in(
    template: str, columns: Mapping[str, str], found: Sequence[str], source: str
) -> Callable[[Mapping[str, Any]], Written]:
    """What makes a prompt and a completion of a row.

    `{column}` is the value of a column, `{{column}}` is `{column}` itself, and any other brace is left alone, as in
    JSON. The last value and what follows it is the completion.

    Raises
    ------
    ColabMagicsError
        No column stands in braces, or a name that no column has.
    """
    names = {**{name: name for name in found}, **columns}
    pieces: list[str] = []
    slots: list[str] = []
    position, literal = 0, ""
    for match in _PLACEHOLDER.finditer(template):
        doubled, name, closed = match[1], match[2].strip(), match[3]
        literal += template[position : match.start()]
        position = match.end()
        if name not in names:
            if name.isidentifier() and not doubled:
                near = nearest(name, list(names))
                raise ColabMagicsError(
                    f"prompt_template names {{{name}}}, and {source} has no such column.",
                    f"The columns are {', '.join(found)}",
                    f"Did you mean {{{near}}}?" if near else "",
                    f"If the braces are meant as they stand, double them: {{{{{name}}}}}",
                )
            literal += match[0]
        elif doubled and closed:
            literal += f"{{{match[2]}}}"
        else:
            pieces.append(literal + doubled)
            slots.append(names[name])
            literal = closed
    literal += template[position:]
    if not slots:
        raise ColabMagicsError(
            "prompt_template holds no column in braces.",
            f"The columns of {source} are {', '.join(found)}",
            f'Write it like "### Question:\\n{{{found[0]}}}\\n### Answer:\\n{{{found[-1]}}}"' if found else "",
        )

    def read(row: Mapping[str, Any]) -> Written:
        values = [words(row, slot, may_be_empty=True) for slot in slots[:-1]]
        for slot in slots[:-1]:
            if slot not in row:
                raise Unusable(f"no {slot}")
        prompt = "".join(piece + value for piece, value in zip(pieces, values, strict=False)) + pieces[-1]
        return Written(prompt, words(row, slots[-1]) + literal)

    return read
