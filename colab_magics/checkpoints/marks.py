"""What sets single checkpoints of a run apart: a person's pins, and what the durable store is known to hold."""

from __future__ import annotations

import os
from pathlib import Path

from colab_magics.checkpoints.manifest import parse_folder_name
from colab_magics.checkpoints.replica import LOG
from colab_magics.events import read_events

PINS = "pins"


def pinned(folder: Path) -> frozenset[str]:
    """The names of the checkpoints that a person has pinned; `folder` is the run's."""
    try:
        return frozenset(name for name in os.listdir(folder / PINS) if parse_folder_name(name) is not None)
    except OSError:
        return frozenset()


def newest_confirmed(folder: Path) -> str | None:
    """The newest checkpoint of which the durable store is known to have every byte.

    Not the one that was confirmed last: a pinned or the best one may be copied after a newer one.
    """
    told = [event for event in read_events(folder / LOG) if event.get("state") == "confirmed"]
    names = [name for event in told if isinstance(name := event.get("checkpoint"), str)]
    return max((name for name in names if parse_folder_name(name) is not None), key=age_order, default=None)


def age_order(name: str) -> tuple[int, int]:
    """(attempt, step) of a checkpoint's name: larger is newer."""
    step, attempt = parse_folder_name(name) or (0, 0)
    return attempt, step
