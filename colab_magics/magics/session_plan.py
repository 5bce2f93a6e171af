"""`%session plan`: this job on each platform: whether it fits, how long it takes, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any


def plan(
    words: Sequence[str],
    root: Path,
    *,
    body: str | None = None,
    namespace: MutableMapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """What `%session plan WORDS` shows, as a display bundle; without `text/html` where Markdown was asked for.

    Parameters
    ----------
    words : what follows `plan` on the line, split as in a shell
    root : where runs are kept
    body : the recipe of `%%session plan`
    namespace : the notebook's variables, which the recipe may name
    say : told the notes on the recipe, a line each
    """
    raise NotImplementedError
