"""What `track` is given, refused in a sentence before anything is begun."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from colab_magics.errors import ColabMagicsError


def checked_state(state: Mapping[str, Any] | None) -> dict[str, Any]:
    """The person's own dict, where it is one."""
    if state is None or isinstance(state, Mapping):
        return state if isinstance(state, dict) else dict(state or {})
    raise ColabMagicsError(
        f"state is of type {type(state).__name__}.",
        "It is a dict: each thing that a checkpoint holds, by its name.",
        'Write state={"model": net}.',
    )


def checked_total(total: float | None) -> float | None:
    """How much there is to do, if it is an amount."""
    if total is None or (isinstance(total, int | float) and 0 < total < math.inf):
        return total
    raise ColabMagicsError(
        f"total={total!r} is no amount of work.",
        "It is a number above 0, in the unit of the run.",
        "Leave it out if nobody knows.",
    )


def checked_limit(limit: int) -> int:
    """How many checkpoints are kept, if it is a number from 1 on."""
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1:
        return limit
    raise ColabMagicsError(
        f"save_total_limit={limit!r} keeps no checkpoint.",
        "A loop could not go on from anything.",
        "Write a number from 1 on.",
    )
