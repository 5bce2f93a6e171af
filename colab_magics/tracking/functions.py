"""What a function does, as its own code tells it: so that a result is not taken for that of a function that changed.

Its bytecode says that, with the constants and names in it, its defaults, and the functions that are written in it.
Where it is written (a file, a line) says nothing. What it calls or reads outside of itself is not looked at: that could
be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any


def own_code(function: Any, value: Callable[[Any], Any]) -> Any:
    """JSON that is another one where the function does something else; None where it has no code of python's.

    Parameters
    ----------
    function : callable
        Of a `functools.partial`, also what it was given; of an object, its class's `__call__`.
    value : callable
        Gives the JSON of a default, or of what a partial was given.
    """

    def of(one: Any) -> Any:
        return own_code(one, value) if isinstance(one, FunctionType | MethodType | partial) else value(one)

    if isinstance(function, partial):
        keywords = {name: of(one) for name, one in sorted(function.keywords.items())}
        return {"of": own_code(function.func, value), "given": [[of(one) for one in function.args], keywords]}
    if isinstance(function, MethodType):
        function = function.__func__
    # a decorator's own function stands before the one that a person wrote
    wrapped = getattr(function, "__wrapped__", None)
    within = own_code(wrapped, value) if callable(wrapped) else None
    if not isinstance(function, FunctionType):
        function = type(function).__call__
    if not isinstance(function, FunctionType):
        return within
    keywords = {name: of(one) for name, one in sorted((function.__kwdefaults__ or {}).items())}
    defaults = [[of(one) for one in function.__defaults__ or ()], keywords]
    return {"code": _code(function.__code__), "defaults": defaults, "wraps": within}


def _code(code: CodeType) -> Any:
    is_class = "__firstlineno__" in code.co_names  # from python 3.13 on: a constant of it is the line of the class
    constants = [0 if is_class and one == code.co_firstlineno else _constant(one, is_class) for one in code.co_consts]
    return {
        "bytes": [code.co_code.hex(), code.co_exceptiontable.hex()],
        "constants": constants,
        "names": [list(code.co_names), list(code.co_freevars), list(code.co_cellvars)],
        "arguments": [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags],
    }


def _constant(one: Any, is_class: bool) -> Any:
    if isinstance(one, CodeType):
        return _code(one)
    if isinstance(one, tuple) and not (is_class and all(type(name) is str for name in one)):
        return [_constant(part, is_class) for part in one]
    if isinstance(one, tuple | frozenset):  # of names of a class's attributes, or of a set: ordered by hashes
        return ["set", *sorted(repr(part) for part in one)]
    return repr(one)  # 1, 1.0, True and "1" are told apart
