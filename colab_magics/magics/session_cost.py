"""`%session cost`: what a run has used so far, against what was expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def cost(words: Sequence[str], root: Path) -> dict[str, str]:
    """What `%session cost WORDS` shows, as a display bundle.

    Parameters
    ----------
    words : what follows `cost` on the line: a run's name, or nothing
    root : where runs are kept
    """
    raise NotImplementedError
