"""Our own errors leave a magic alone: without the frames that they came through, and what these held of the user's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from colab_magics.errors import ColabMagicsError

Magic = TypeVar("Magic", bound=Callable[..., Any])


def light(magic: Magic) -> Magic:
    """Raise what the magic refuses anew, without its traceback and the errors before it.

    IPython keeps the last error with all its frames, and in ours lie models, batches and tables of the notebook. Its
    sentences say all that there is to say; what is not expected keeps its traceback.
    """

    @wraps(magic)
    def called(*args: Any, **named: Any) -> Any:
        try:
            return magic(*args, **named)
        except ColabMagicsError as error:
            refused = error
        refused.__traceback__ = refused.__cause__ = refused.__context__ = None
        try:
            raise refused
        finally:
            del refused  # the error holds this frame

    return called  # type: ignore[return-value]
