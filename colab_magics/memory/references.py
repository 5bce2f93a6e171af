"""What an object refers to, and by what name, found out without running a line of anybody's code.

A namespace holds objects whose attributes are properties, whose `__getattr__` connects to a server, whose `__len__`
raises. So nothing is asked of an object itself: `__dict__` and slots are read through the descriptors that Python
made for them, containers through the methods of the built-in types, and everything else through the collector, which
tells what is referred to but not by what name.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

Named = tuple[str, Any]
"""How a referred object is reached, as it would be written behind the name of the one that refers to it."""

_MRO: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_CLASS_DICT: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_LEAVES = {int, float, complex, bool, str, bytes, bytearray, range, type(None), type(...), type(NotImplemented)} | {
    types.CodeType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    weakref.ref,
}
_KEY_MOST = 40  # characters of a key that become part of a name
_FLAGS: Callable[[type], int] = type.__dict__["__flags__"].__get__
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)  # Python's own; a property is somebody's code
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: classes that were made by a class statement
_MODULE_DICT: Callable[[Any], dict[str, Any]] = vars(types.ModuleType)["__dict__"].__get__
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_OWN = (str(Path(os.__file__).parent), str(Path(__file__).parents[1]))  # Python's library, and ours
_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def bases(kind: type) -> tuple[type, ...]:
    """The class and all it inherits from, whatever its metaclass says."""
    return _MRO(kind)


class References:
    """Reads references; what it has learnt of classes is kept for as long as it lives.

    Parameters
    ----------
    hidden : set of int
        The `id`s of objects behind which nothing is looked for: the namespace itself, the shell.
    place : callable
        What a frame is called, by its code.
    """

    def __init__(self, hidden: set[int], place: Callable[[types.CodeType], str]) -> None:
        self._hidden, self._place = hidden, place
        self._dicts: dict[type, Any] = {}
        self._slots: dict[type, list[tuple[str, Any]]] = {}
        self._readers: dict[type, Callable[[Any], Iterator[Named]]] = {}
        self._leaves: dict[type, bool] = dict.fromkeys(_LEAVES, True)
        self._running: set[int] | None = None

    def is_leaf(self, one: Any) -> bool:
        """Whether nothing is to be found behind it."""
        kind = type(one)
        leaf = self._leaves.get(kind)
        if leaf is None:
            up = bases(kind)
            leaf = self._leaves[kind] = type in up or types.ModuleType in up or weakref.ref in up
        return leaf or id(one) in self._hidden

    def of(self, one: Any) -> Iterator[Named]:
        """What it refers to, leaves left out."""
        return ((name, child) for name, child in self._all(one) if not self.is_leaf(child))

    def members(self, one: Any) -> Iterator[Named] | None:
        """What is in a class that a cell has made, or in a module of the user's; None of everything else.

        No instance tells of the attributes of a class, and to look into libraries would be to look for ever.
        """
        up = bases(type(one))
        if type in up and type.__dict__["__module__"].__get__(one) == "__main__":
            held = dict(_CLASS_DICT(one))
        elif types.ModuleType in up and id(one) not in self._hidden and _is_users(held := _MODULE_DICT(one)):
            held = dict(held)
        else:
            return None
        return ((f".{name}", child) for name, child in held.items() if not self.is_leaf(child))

    def attributes(self, one: Any) -> dict[str, Any]:
        """The object's own `__dict__`, the very one; an empty one where it has none."""
        descriptor = self._dict_of(type(one))
        held = None if descriptor is None else descriptor.__get__(one)
        return held if isinstance(held, dict) else {}

    def _all(self, one: Any) -> Iterator[Named]:
        read = self._readers.get(type(one))
        if read is None:
            read = self._readers[type(one)] = self._reader(type(one))
        return read(one)

    def _reader(self, kind: type) -> Callable[[Any], Iterator[Named]]:
        """How objects of a class are read."""
        up = bases(kind)
        if kind in _READ_WHOLE:
            return _READ_WHOLE[kind]
        if kind is types.TracebackType:
            return self._of_traceback
        if kind is types.FrameType:
            return self._of_frame
        if BaseException in up:
            return lambda one: chain(_of_failure(one), self._attributes_of(one))
        for base, items in _READ_WHOLE.items():
            if base in up:
                return lambda one: chain(items(one), self._attributes_of(one))
        if self._dict_of(kind) is None and not self._slots_of(kind):
            return _referents
        return self._own

    def _own(self, one: Any) -> Iterator[Named]:
        """Attributes, and what a type written in C holds beside these.

        An object that refers to nothing but leaves is spared the making of its `__dict__`.
        """
        referred = gc.get_referents(one)
        if all(map(self.is_leaf, referred)):
            return
        attributes = list(self._attributes_of(one))
        yield from attributes
        if not _FLAGS(type(one)) & _HEAP:
            named = {id(child) for _, child in attributes} | {id(self.attributes(one))}
            yield from (("", child) for child in referred if id(child) not in named)

    def _attributes_of(self, one: Any) -> Iterator[Named]:
        for name, value in list(dict.items(self.attributes(one))):
            yield f".{name}" if type(name) is str else "", value
        for name, descriptor in self._slots_of(type(one)):
            with suppress(AttributeError):  # it is empty
                yield f".{name}", descriptor.__get__(one)

    def _dict_of(self, kind: type) -> Any:
        """The descriptor of the class that gives an object's `__dict__`."""
        if kind not in self._dicts:
            found = (_CLASS_DICT(up).get("__dict__") for up in bases(kind))
            self._dicts[kind] = next((it for it in found if isinstance(it, _DESCRIPTORS)), None)
        return self._dicts[kind]

    def _slots_of(self, kind: type) -> list[tuple[str, Any]]:
        if kind not in self._slots:
            self._slots[kind] = [
                (name, found)
                for up in bases(kind)
                if _FLAGS(up) & _HEAP
                for name, found in list(_CLASS_DICT(up).items())
                if isinstance(found, types.MemberDescriptorType)
            ]
        return self._slots[kind]

    def _of_traceback(self, one: types.TracebackType | None) -> Iterator[Named]:
        while one is not None:
            yield f": {self._place(one.tb_frame.f_code)}", one.tb_frame
            one = one.tb_next

    def _of_frame(self, frame: types.FrameType) -> Iterator[Named]:
        # On Python 3.11 and 3.12 f_locals is a copy that the frame then keeps: harmless where the frame is over, but
        # in one that goes on it would keep alive what its variables have let go.
        over = not frame.f_code.co_flags & _SUSPENDED and id(frame) not in self._executing()
        apart = {id(frame.f_globals), id(frame.f_builtins)}
        if over and id(frame.f_globals) != id(frame.f_locals):
            yield from ((str(name), value) for name, value in list(frame.f_locals.items()) if id(value) not in apart)
        else:
            apart.add(id(frame.f_back))
            yield from (("", child) for child in gc.get_referents(frame) if id(child) not in apart)

    def _executing(self) -> set[int]:
        if self._running is None:
            self._running = set()
            for found in sys._current_frames().values():
                frame: types.FrameType | None = found
                while frame is not None:
                    self._running.add(id(frame))
                    frame = frame.f_back
        return self._running


def is_imported(one: Any) -> bool:
    """Whether it is a module that Python keeps, whatever name is removed."""
    if types.ModuleType not in bases(type(one)):
        return False
    name = _MODULE_DICT(one).get("__name__")
    return type(name) is str and sys.modules.get(name) is one


def _is_users(module: dict[str, Any]) -> bool:
    """Whether a module is a file of the user's own, or was made by his code; by what it holds."""
    file = module.get("__file__")
    if type(file) is str:
        return not (file.startswith(_OWN) or _INSTALLED.search(file))
    return module.get("__spec__") is None and module.get("__name__") != "__main__"


def _of_mapping(one: Any) -> Iterator[Named]:
    return ((f"[{_key(key)}]", value) for key, value in list(dict.items(one)))


def _of_sequence(base: Any) -> Callable[[Any], Iterator[Named]]:
    return lambda one: ((f"[{place}]", value) for place, value in enumerate(list(base.__iter__(one))))


def _of_collection(base: Any) -> Callable[[Any], Iterator[Named]]:
    return lambda one: (("[…]", value) for value in list(base.__iter__(one)))


def _of_function(one: Any) -> Iterator[Named]:
    yield from (("'s closure", _content(cell)) for cell in one.__closure__ or ())
    yield "'s defaults", one.__defaults__
    yield "'s defaults", one.__kwdefaults__
    yield "", one.__dict__


def _of_failure(one: Any) -> Iterator[Named]:
    get = BaseException.__dict__
    yield "", get["__traceback__"].__get__(one)
    yield ".args", get["args"].__get__(one)
    for name in ("__cause__", "__context__"):
        yield f".{name}", get[name].__get__(one)
    if BaseExceptionGroup in bases(type(one)):
        yield ".exceptions", BaseExceptionGroup.__dict__["exceptions"].__get__(one)


def _referents(one: Any) -> Iterator[Named]:
    return (("", child) for child in gc.get_referents(one))


_READ_WHOLE: dict[type, Callable[[Any], Iterator[Named]]] = {
    dict: _of_mapping,
    list: _of_sequence(list),
    tuple: _of_sequence(tuple),
    set: _of_collection(set),
    frozenset: _of_collection(frozenset),
    deque: _of_collection(deque),
    types.FunctionType: _of_function,
}


def _key(key: Any) -> str:
    """The key of a dictionary; only of types whose `repr` is Python's own."""
    if type(key) in (str, int, bool, float):
        shown = repr(key)
        return shown if len(shown) <= _KEY_MOST else f"{shown[: _KEY_MOST - 1]}…"
    return "…"


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None
