"""Which checkpoints are kept. Pure: by step and attempt, never by a file's time."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from colab_magics.checkpoints.verify import Entry


def best_of(entries: Sequence[Entry]) -> Entry | None:
    """The one with the lowest evaluation loss, of those that were evaluated at their own step; the newest of equals."""
    scored = []
    for entry in entries:
        loss = entry.manifest.metrics.get("eval_loss") if entry.manifest is not None else None
        if isinstance(loss, int | float) and abs(loss) < math.inf:
            scored.append((-loss, entry.age_order, entry))
    return max(scored, key=lambda one: one[:2])[2] if scored else None


def superfluous(
    entries: Sequence[Entry], *, limit: int, verified: str | None, confirmed: str | None, pinned: Collection[str]
) -> list[Entry]:
    """Those to delete, the oldest first.

    Kept are: the newest `limit`, the newest verified, the newest confirmed in the durable store, the best by
    evaluation, the pinned, and whatever is broken (a person may want to look at it; it is not ours to judge).

    Parameters
    ----------
    entries : sequence of Entry
        All of a run, as `verify.entries` gives them.
    verified, confirmed : str or None
        The name of the newest one of which every byte has been read back, and of the newest in the durable store.
        Where nothing is verified, nothing is deleted.
    """
    whole = sorted((entry for entry in entries if entry.manifest is not None), key=lambda one: one.age_order)
    if verified is None or verified not in {entry.name for entry in whole}:
        return []
    best = best_of(whole)
    kept = {verified, confirmed, best.name if best is not None else None, *pinned}
    kept |= {entry.name for entry in whole[-max(1, limit) :]}
    return [entry for entry in whole if entry.name not in kept]
