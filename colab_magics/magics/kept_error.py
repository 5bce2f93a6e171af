"""An out-of-memory that a cell caught itself and keeps (`err = e`): written down when it is asked for, never before."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from colab_magics.magics.failed_cell import of_memory

if TYPE_CHECKING:
    from colab_magics.magics.cell_record import FailedCell

_NAMED = re.compile(r"<ipython-input-(\d+)-")  # what IPython 7 calls a cell's code


def kept_error(shell: Any) -> tuple[str, FailedCell] | None:
    """The variable that keeps the newest out-of-memory, and what its error tells; text and numbers only.

    When it was is not known, nor how full the machine was then.
    """
    newest: tuple[int, str, BaseException] | None = None
    for name, value in list(getattr(shell, "user_ns", {}).items()):
        if name.startswith("_") or not issubclass(type(value), BaseException):
            continue
        with suppress(Exception):  # an error's own words may be another error
            error = of_memory(value)
            if error is None:
                continue
            cell = _cell(shell, error.__traceback__)
            if newest is None or cell >= newest[0]:
                newest = cell, name, error
    if newest is None:
        return None
    from colab_magics.magics.cell_record import written_down

    cell, name, error = newest
    found = written_down(error, cell)
    total = found.host[0] if found.host is not None and found.facts().told.on_host else found.total
    return name, replace(found, at=0.0, host=None, total=total, process_limit=None)


def _cell(shell: Any, traceback: TracebackType | None) -> int:
    """The number of the cell that an error came through first; 0 where it cannot be told."""
    numbers = getattr(getattr(shell, "compile", None), "_filename_map", {})  # IPython 8 and later
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        found = _NAMED.match(name)
        number = int(found[1]) if found else numbers.get(name)
        if isinstance(number, int):
            return number
        traceback = traceback.tb_next
    return 0
