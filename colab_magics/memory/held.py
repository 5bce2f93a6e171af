"""What colab_magics itself keeps in this process's memory, under the name that `%vram` shows.

A user's variables are his. What a magic keeps for the next cell is ours: `%vram free` lets go of it without being
told a name, because the next cell that needs it loads it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Held:
    """One thing that is kept.

    Attributes
    ----------
    name : str
        `%generate's model of run kwanzaa`.
    what : object
        The module; all that hangs on it counts as its own.
    drop : callable
        Lets go of every other reference to it.
    """

    name: str
    what: Any = field(repr=False)
    drop: Callable[[], None] = field(repr=False)


_HELD: list[Held] = []


def hold(name: str, what: Any, drop: Callable[[], None]) -> None:
    """Show it by that name from now on; what was held before under another name has only this one."""
    _HELD[:] = [one for one in _HELD if one.what is not what]
    _HELD.append(Held(name, what, drop))


def held() -> tuple[Held, ...]:
    """What is kept now."""
    return tuple(_HELD)


def let_go() -> tuple[str, ...]:
    """Let go of all of it; the names. The memory comes back when the collector has run."""
    names = tuple(one.name for one in _HELD)
    while _HELD:
        _HELD.pop().drop()
    return names
