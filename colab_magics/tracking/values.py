"""Values as JSON and tensors, and back: what a state, or a cache, may hold. Nothing is pickled.

Whatever is no tensor becomes JSON, and what JSON does not tell apart (a tuple from a list, NaN, a key that is a
number) is marked by an object that has the key "@". Tensors and arrays go beside it, each under the path at which it
stands, so that one that stands at two places is there once.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from colab_magics.checkpoints.tensors import Tensor
from colab_magics.errors import ColabMagicsError, clean
from colab_magics.tracking import arrays

MARK = "@"
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_LISTS: Mapping[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS: Mapping[str, type] = {"ordered": OrderedDict, "counter": Counter}


class Unsaveable(ColabMagicsError):
    """A value that only pickle could write."""

    def __init__(self, where: str, value: object, why: str = "") -> None:
        super().__init__(
            f"{where} cannot be saved.",
            why or f"It is {_called(value)}: only pickle could write that, and pickle is never read or written here.",
            "Leave it out, and make it anew in the cell; or give it as numbers, text, tensors or lists of these.",
            "An object of your own can be saved if it has state_dict() and load_state_dict().",
        )


def _called(value: object) -> str:
    name = getattr(value, "__qualname__", "")
    kind = type(value).__name__
    return clean(f"a {kind} ({name})" if name and callable(value) else f"of type {kind}")[:120]


class Encoder:
    """Turns values into JSON, and gathers the tensors that they hold.

    Attributes
    ----------
    tensors : dict
        Name -> the live tensor or array, not a copy.
    more : callable, optional
        Is asked first of every value: (value, where, key) -> its JSON, or None where it is not its to write.
    """

    def __init__(self, more: Callable[[Any, str, str], Any] | None = None) -> None:
        self.tensors: dict[str, Any] = {}
        self.more = more
        self._known: dict[tuple[Any, ...], str] = {}
        self._within: set[int] = set()

    def encode(self, value: Any, where: str, key: str) -> Any:
        """The JSON of `value`.

        Parameters
        ----------
        where : str
            How a person writes the way to it: `state["optimizer"].param_groups[0]`.
        key : str
            The same, for the names of tensors: `optimizer/param_groups/0`.

        Raises
        ------
        Unsaveable
            It, or something in it, cannot be written so; says which.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {MARK: "float", "is": str(value)}
        told = self.more(value, where, key) if self.more is not None else None
        if told is not None:
            return told
        if arrays.is_array(value):
            return self.tensor(value, where, key)
        if id(value) in self._within:
            raise Unsaveable(where, value, "It holds itself.")
        self._within.add(id(value))
        try:
            return self._compound(value, where, key)
        finally:
            self._within.discard(id(value))

    def tensor(self, value: Any, where: str, key: str) -> Any:
        """The JSON of a tensor or an array, which is gathered."""
        if why := arrays.why_not(value):
            raise Unsaveable(where, value, why)
        place = arrays.place(value)
        name = self._known.setdefault(place, key) if place is not None else key
        self.tensors.setdefault(name, value)
        return {MARK: "tensor", "name": name, "of": arrays.described(value)}

    def _compound(self, value: Any, where: str, key: str) -> Any:
        kind = type(value)
        if kind is list:
            return [self.encode(one, f"{where}[{at}]", f"{key}/{at}") for at, one in enumerate(value)]
        if kind is dict and all(type(name) is str for name in value) and MARK not in value:
            return {name: self.encode(one, f'{where}["{name}"]', f"{key}/{name}") for name, one in value.items()}
        if kind is dict or kind in _DICTS.values():
            names = [self.encode(name, f"a key of {where}", f"{key}/key") for name in value]
            held = [self.encode(one, f"{where}[{name!r}]", f"{key}/{name}") for name, one in value.items()]
            pairs = list(zip(names, held, strict=True))
            return {MARK: next((mark for mark, one in _DICTS.items() if one is kind), "dict"), "of": pairs}
        if kind in _LISTS.values():
            # the order of a set is that of this process's hashes
            ordered = value if kind is tuple else sorted(value, key=repr)
            of = [self.encode(one, f"{where}[{at}]", f"{key}/{at}") for at, one in enumerate(ordered)]
            return {MARK: next(mark for mark, one in _LISTS.items() if one is kind), "of": of}
        if kind is deque:
            of = [self.encode(one, f"{where}[{at}]", f"{key}/{at}") for at, one in enumerate(value)]
            return {MARK: "deque", "of": of, "most": value.maxlen}
        if kind is bytes:
            return {MARK: "bytes", "is": value.hex()}
        if kind is complex:
            return {MARK: "complex", "is": [value.real.hex(), value.imag.hex()]}
        if kind is range:
            return {MARK: "range", "is": [value.start, value.stop, value.step]}
        torch = sys.modules.get("torch")
        if torch is not None and kind is torch.Size:
            return {MARK: "size", "is": list(value)}
        if torch is not None and kind is torch.dtype:
            return {MARK: "dtype", "is": str(value).removeprefix("torch.")}
        if torch is not None and kind is torch.device:
            return {MARK: "device", "is": str(value)}
        raise Unsaveable(where, value)


def decode(told: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value whose JSON that is; tensors are new ones, on the CPU.

    Raises
    ------
    ValueError
        It was not written by `Encoder`.
    """
    if isinstance(told, list):
        return [decode(one, tensors) for one in told]
    if not isinstance(told, dict):
        return told
    if MARK not in told:
        return {name: decode(one, tensors) for name, one in told.items()}
    mark = told[MARK]
    if mark == "tensor":
        return arrays.made(tensors[told["name"]], told["of"])
    if mark in ("dict", *_DICTS):
        pairs = [(decode(name, tensors), decode(one, tensors)) for name, one in told["of"]]
        return _DICTS.get(mark, dict)(dict(pairs))
    if mark in _LISTS:
        return _LISTS[mark](decode(one, tensors) for one in told["of"])
    if mark == "deque":
        return deque((decode(one, tensors) for one in told["of"]), told["most"])
    return _small(mark, told.get("is"))


def _small(mark: str, told: Any) -> Any:
    match mark:
        case "float":
            return _ODD[told]
        case "bytes":
            return bytes.fromhex(told)
        case "complex":
            return complex(*map(float.fromhex, told))
        case "range":
            return range(*told)
    torch: Any = sys.modules.get("torch")
    match mark:
        case "size" if torch is not None:
            return torch.Size(told)
        case "dtype" if torch is not None:
            return getattr(torch, told)
        case "device" if torch is not None:
            return torch.device(told)
    raise ValueError(f"a value of a kind that is not known here: {mark}")
