"""What IPython keeps of cells that are over: where that is, and how it is let go.

After a cell has failed, three objects hold its frames, and with them every tensor that was in a local variable:
Python's `sys.last_*`, the object that printed the traceback, and the result of the cell, which lives until the next
cell has ended. A fourth is the debugger, once `%debug` was used. Deleting some of them frees nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_LAST = ("last_exc", "last_value", "last_traceback", "last_type")
_PRINTERS = ("InteractiveTB", "SyntaxTB")
_ERRORS = ("error_in_exec", "error_before_exec")
_UNDERSCORES = ("_", "__", "___")
OWN_NAMES = re.compile(r"In|Out|_[iod]h|_i{1,3}|_i\d+|get_ipython|exit|quit|open|__\w+__")
"""Variables of the notebook that are IPython's or Python's and hold nothing of the user's, outputs left out."""
_MACHINERY = ("IPython", "ipykernel", "colab_magics", "decorator")  # packages whose frames stand between cell and user
_CELL = re.compile(r"ipykernel_\d+|^<ipython-input")  # in the name of the file of a cell's code
_INPUTS = 200  # cells back in which a traceback's file is looked for


@dataclass(frozen=True)
class Failure:
    """An exception or a traceback that is kept, and by what."""

    by: str
    what: BaseException | TracebackType


def failures(shell: Any) -> list[Failure]:
    """What is kept of cells that failed. It refers to them: drop it soon."""
    found = [Failure(f"sys.{name}", getattr(sys, name, None)) for name in _LAST]  # type: ignore[arg-type]
    for name in _PRINTERS:
        printer = getattr(shell, name, None)
        found.append(Failure(f"{name}.tb", getattr(printer, "tb", None)))  # type: ignore[arg-type]
        found.append(Failure(name, getattr(printer, "last_syntax_error", None)))  # type: ignore[arg-type]
    result = getattr(shell, "last_execution_result", None)
    found += [Failure("last_execution_result", getattr(result, name, None)) for name in _ERRORS]  # type: ignore[arg-type]
    return [one for one in found if isinstance(one.what, BaseException | TracebackType)]


def holds_users(failure: Failure) -> bool:
    """Whether variables of the user's code lie in what is kept: of a function that ran, in a cell or in a library.

    A line that fails in the cell itself has none but the notebook's own, and one of our errors has only ours.
    """
    pending: list[Any] = [failure.what]
    seen = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BaseException):
            pending += [one.__cause__, one.__context__]
            one = one.__traceback__
        if _has_users_frame(one):
            return True
    return False


def _has_users_frame(trace: TracebackType | None) -> bool:
    in_cell = in_ours = False
    while trace is not None:
        frame = trace.tb_frame
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if _CELL.search(frame.f_code.co_filename):
            in_cell = True
            # a cell's own line keeps its variables in the notebook, and its frame none
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                return True
        elif in_cell and not in_ours and package not in _MACHINERY and "<decorator-gen" not in frame.f_code.co_filename:
            return True
        in_ours = in_ours or package == "colab_magics"  # what our own code has called is ours
        trace = trace.tb_next
    return False


def forget_failures(shell: Any) -> None:
    """Let go of all that is kept of cells that failed; `%debug` and `%tb` have nothing to show then.

    The references are dropped, and no frame is cleared: `traceback.clear_frames` frees nothing on Python 3.11 once
    IPython has shown the traceback, and would empty frames that the user may have kept on purpose.
    """
    result = getattr(shell, "last_execution_result", None)
    for name in _ERRORS:
        if getattr(result, name, None) is not None:
            setattr(result, name, None)
    for name in _LAST:
        with suppress(AttributeError):
            delattr(sys, name)
    for name in _PRINTERS:
        printer = getattr(shell, name, None)
        for held in ("tb", "last_syntax_error"):
            if getattr(printer, held, None) is not None:
                setattr(printer, held, None)
        _forget_frames(getattr(printer, "pdb", None))


def _forget_frames(debugger: Any) -> None:
    """The debugger of `%debug` keeps the outermost frame, and on Python 3.11 the variables of the innermost."""
    if debugger is None:
        return
    for name in ("botframe", "curframe", "stopframe", "returnframe", "_chained_exceptions"):
        if getattr(debugger, name, None) is not None:
            setattr(debugger, name, None)
    for name, empty in (("curframe_locals", {}), ("stack", []), ("_chained_exceptions", ())):
        if getattr(debugger, name, None):
            setattr(debugger, name, empty)


def outputs(shell: Any) -> dict[int, Any]:
    """What cells have shown as `Out[N]`, by N."""
    kept = shell.user_ns.get("_oh")
    return dict(kept) if isinstance(kept, dict) else {}


def drop_outputs(shell: Any, objects: Collection[Any]) -> None:
    """Remove these objects from `Out`, `_`, `__`, `___`, `_N` and wherever else IPython keeps what a cell has shown."""
    drop = {id(one) for one in objects}
    kept = shell.user_ns.get("_oh")
    if isinstance(kept, dict):
        for number in [number for number, one in kept.items() if id(one) in drop]:
            del kept[number]
    # the second is what `%who` leaves out: a copy of every name that IPython itself has set
    for namespace in (shell.user_ns, getattr(shell, "user_ns_hidden", {})):
        for name in [name for name in output_names(namespace) if id(namespace[name]) in drop]:
            if name in _UNDERSCORES:  # IPython goes on with these only while they are what it has put there
                namespace[name] = ""
            else:
                del namespace[name]
    hook = getattr(shell, "displayhook", None)
    for name in _UNDERSCORES:
        if id(getattr(hook, name, None)) in drop:
            setattr(hook, name, "")
    result = getattr(shell, "last_execution_result", None)
    if result is not None and id(getattr(result, "result", None)) in drop:
        result.result = None


def output_names(namespace: Any) -> Iterator[str]:
    """The variables that IPython makes of what cells have shown."""
    return (name for name in list(namespace) if re.fullmatch(r"_{1,3}|_\d+", str(name)))


def cell_of(filename: str, shell: Any) -> str | None:
    """`cell 5`, if that is the file of the code of a notebook's cell.

    IPython 7 writes the number into the file's name; ipykernel makes a name of the code, and IPython 8 and later keep
    a table of these.
    """
    compiler = getattr(shell, "compile", None)
    number = getattr(compiler, "_filename_map", {}).get(filename)
    if number is None:
        found = re.match(r"<ipython-input-(\d+)-", filename)
        number = found[1] if found else _number_by_name(filename, shell, compiler)
    if number is not None:
        return f"cell {number}"
    return "a cell" if _CELL.search(filename) else None


def _number_by_name(filename: str, shell: Any, compiler: Any) -> int | None:
    if "ipykernel_" not in filename:
        return None
    history = getattr(shell, "history_manager", None)
    for name in ("input_hist_raw", "input_hist_parsed"):
        inputs = getattr(history, name, [])
        for number in range(len(inputs) - 1, max(-1, len(inputs) - _INPUTS), -1):
            with suppress(Exception):
                if compiler.get_code_name(inputs[number], inputs[number], number) == filename:
                    return number
    return None
