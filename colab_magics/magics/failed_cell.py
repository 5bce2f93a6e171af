"""The last cell of this kernel that ran out of memory: noted the moment it ends, for its traceback may be gone later.

A cell that did not fail costs one comparison; what is needed to note one is imported with the first that did.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colab_magics.magics.cell_record import FailedCell


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
        from colab_magics.magics.cell_record import of_memory, written_down

        found = of_memory(error)
        if found is not None:
            FAILURES.last = written_down(found, int(getattr(result, "execution_count", 0) or 0))


HOOKS = {"post_run_cell": cell_failed}
