"""What a line magic both shows and returns is shown once.

`%vram` in the middle of a cell must show its report itself; as the cell's last line it would be shown a second time,
because IPython shows what the line returned. A magic cannot tell where it stands, or whether its value is assigned.
So it shows the value, and IPython's display hook finds the value quiet for the rest of that cell.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from colab_magics.magics.activity import ACTIVITY

_DEEP = 12  # frames between the display hook and what it calls to format a value
_shown: dict[int, float | None] = {}  # id of a value -> the cell that showed it; of the last value only


def show_once(shell: Any, value: Any) -> Any:
    """Show a value that has a `_repr_mimebundle_`, and return it for the cell to keep."""
    shell.display_formatter.ipython_display_formatter.for_type(type(value), _show_unless_shown)
    _shown.clear()
    _shown[id(value)] = ACTIVITY.began
    _show(value)
    return value


def _show_unless_shown(value: Any) -> None:
    if _shown.get(id(value), -1.0) == ACTIVITY.began and _asked_by_the_display_hook():
        return
    _show(value)


def _show(value: Any) -> None:
    from IPython.display import display

    display(value._repr_mimebundle_(), raw=True)


def _asked_by_the_display_hook() -> bool:
    """Whether IPython shows the cell's last expression, and not the user by `display`."""
    hook: CodeType | None = getattr(type(sys.displayhook).__call__, "__code__", None)
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEP):
        if frame is None:
            return False
        if frame.f_code is hook:
            return True
        frame = frame.f_back
    return False
