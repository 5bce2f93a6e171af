"""What an autograd graph holds until backward has run, or until the tensor that carries it dies.

Nothing is unpacked and no hook is called: of what was saved the raw data is read (`SavedTensor.data`), which is the
tensor itself, or, under a user's hooks, whatever they have packed it into. A torch that does not give it is not asked
further: to read `_saved_self` instead could run a checkpointed forward pass.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from colab_magics.memory.references import bases

_CLASS_DICT = type.__dict__["__dict__"].__get__
_UNNAMED_NODES = ("CppFunction",)  # of C++ extensions: torch has no names for what they save


@dataclass(frozen=True)
class Saved:
    """What a node holds; `hidden` is whether there may be more that Python cannot see."""

    objects: tuple[Any, ...] = ()
    hidden: bool = False


@dataclass(frozen=True)
class _Readers:
    """The descriptors of a class of nodes, all of them torch's own."""

    next: Any
    variable: Any
    saved: tuple[Any, ...]
    hidden: bool


class Graphs:
    """Reads nodes; what it has learnt of their classes is kept for as long as it lives."""

    def __init__(self) -> None:
        self._readers: dict[type, _Readers] = {}

    def next(self, node: Any) -> Iterator[Any]:
        """The nodes that come after it in backward."""
        read = self._of(node).next
        try:
            found = () if read is None else read.__get__(node)
        except Exception:  # a custom function of an old kind, whose backward has begun
            return
        yield from (one for one, _ in found if one is not None)

    def parameter(self, node: Any) -> Any:
        """Whose gradient it adds up; None of all other nodes."""
        read = self._of(node).variable
        try:
            return None if read is None else read.__get__(node)
        except Exception:
            return None

    def saved(self, node: Any) -> Saved:
        """What it has saved for backward; nothing once that has run."""
        readers = self._of(node)
        held: list[Any] = []
        hidden = readers.hidden
        for read in readers.saved:
            try:
                found = read.__get__(node)
            except Exception:  # it is freed
                continue
            for one in found if type(found) is tuple else (found,):
                try:
                    held += [part for part in (one.data, one.unpack_hook) if part is not None]
                except Exception:  # a torch that only unpacks
                    hidden = True
        return Saved(tuple(held), hidden)

    def _of(self, node: Any) -> _Readers:
        kind = type(node)
        if kind not in self._readers:
            found: dict[str, Any] = {}
            for up in reversed(bases(kind)):
                own = _CLASS_DICT(up).items()
                found.update((name, one) for name, one in own if isinstance(one, types.GetSetDescriptorType))
            saved = tuple(one for name, one in found.items() if name.startswith("_raw_saved_"))
            hidden = kind.__name__ in _UNNAMED_NODES
            self._readers[kind] = _Readers(found.get("next_functions"), found.get("variable"), saved, hidden)
        return self._readers[kind]
