"""What `%magic?` shows: a magic's help, as `%magic --help` prints it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Magic = TypeVar("Magic", bound=Callable[..., Any])


def helped(text: str) -> Callable[[Magic], Magic]:
    """Let a magic's docstring end with its help; what it begins with is its line in `%quickref`."""

    def put(magic: Magic) -> Magic:
        magic.__doc__ = f"{(magic.__doc__ or '').strip()}\n\n{text.rstrip()}\n"
        return magic

    return put
