"""The words of a magic's line; each magic then has a grammar of its own."""

from __future__ import annotations

import shlex

from colab_magics.errors import ColabMagicsError


def split(line: str) -> list[str]:
    """The words of the line, split as in a shell.

    Raises
    ------
    ColabMagicsError
        A quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ColabMagicsError(
            "The line cannot be read.",
            f"It is split as in a shell: {str(error).lower()}.",
            "Close the quote, or leave it out.",
        ) from None
