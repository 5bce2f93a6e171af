"""The last cell of this kernel that ran out of memory: noted the moment it ends, for its traceback may be gone later.

A cell that did not fail costs one comparison; what is needed to note one is imported with the first that ran out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colab_magics.magics.cell_record import FailedCell


_CHAIN = 6  # exceptions that led to this one


class Failures:
    """The last cell of this kernel that ran out of memory."""

    def __init__(self) -> None:
        self.last: FailedCell | None = None


FAILURES = Failures()
"""Of this process, which is one kernel."""


def cell_failed(*arguments: Any) -> None:
    """For IPython's `post_run_cell`: 7.34 and 9 pass the result. It must never raise, or IPython prints a traceback."""
    result = arguments[0] if arguments else None
    error = getattr(result, "error_in_exec", None)
    if error is None:
        return
    with suppress(Exception):  # whatever the user's objects are: a cell's own error is enough for him
        found = of_memory(error)
        if found is not None:
            from colab_magics.magics.cell_record import written_down

            FAILURES.last = written_down(found, int(getattr(result, "execution_count", 0) or 0))


def of_memory(error: BaseException) -> BaseException | None:
    """Of the error and those that led to it, the one that tells of memory or of a lost context."""
    from colab_magics.errors import ColabMagicsError
    from colab_magics.memory.messages import is_sticky, read

    retried = None
    for _ in range(_CHAIN):
        if isinstance(error, ColabMagicsError):
            return None  # a run's: its log tells more
        said = str(error)
        kind = type(error).__name__
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
            return error
        told = read(said) if isinstance(error, RuntimeError) else None
        if told is not None and told.kind == "retried":
            retried = retried or error  # one of those that it caught may be in the chain, and tells more
        elif told is not None or (isinstance(error, RuntimeError) and is_sticky(said)):
            return error
        if isinstance(error, OSError) and error.errno == 12:
            return error
        before = error.__cause__ or error.__context__
        if before is None:
            break
        error = before
    return retried


HOOKS = {"post_run_cell": cell_failed}
