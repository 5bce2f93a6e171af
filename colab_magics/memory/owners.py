"""Who holds memory in this process, by the names that a person has given: variables, Out[N], the failed cell.

Everything that a name leads to is walked once, breadth first, so that what is found has its shortest name. Memory that
several tensors share is counted once, for the first in this order: modules, optimizers, tensors, all other variables,
outputs, failed cells; the others are named beside it. Then come tensors that no name leads to.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType
from typing import Any

from colab_magics.memory.held import held
from colab_magics.memory.kept import OWN_NAMES, cell_of, failures, output_names, outputs
from colab_magics.memory.references import References, bases
from colab_magics.memory.tensors import Kind, Libraries, Storage

SECONDS = 1.5  # for which is looked, at most
_DEPTH = 12  # references behind a name; what lies within a module counts as one
_CLASS_DICT = type.__dict__["__dict__"].__get__
_LOOKED = 512  # references between two looks at the clock
FAILED = "traceback of the failed cell"
UNNAMED = "no variable"


@dataclass(frozen=True)
class Owner:
    """A name, and the memory that it holds.

    Attributes
    ----------
    name : str
        `model`, `trainer.optimizer`, `Out[5]`, `traceback of the failed cell: train_step() in cell 5`, `no variable`,
        `%generate's model of run kwanzaa`.
    what : str
        `weights of Qwen3ForCausalLM`, `gradients`, `states of AdamW`, `float16 [32, 2048]`, `3 tensors, …`.
    bytes : int
        On `device`: `cuda:0`, `cpu`.
    count : int
        How many tensors or arrays.
    tensors : bool
        Whether there are tensors among them.
    variable : str
        What to write after `%vram free` to let go of it; empty where no name leads to it.
    also : tuple of str
        Other names that hold some of the same memory.
    """

    name: str
    what: str
    bytes: int
    device: str
    count: int = 1
    tensors: bool = True
    variable: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """The owners, the largest first; `cut` says why some may be missing, and is empty where none are."""

    owners: tuple[Owner, ...] = ()
    cut: str = ""

    def on(self, device: str) -> int:
        """Bytes that are accounted for on a device."""
        return sum(owner.bytes for owner in self.owners if owner.device == device)


def survey(shell: Any, *, host: bool, seconds: float = SECONDS) -> Survey:
    """Look for all that holds tensors in this process.

    Parameters
    ----------
    shell : IPython's, whose notebook is looked at
    host : whether memory of the host counts (where there is no GPU); else only a device's
    seconds : after which it is cut off

    Notes
    -----
    Nothing found is kept: what it returns holds names and numbers only.
    """
    libraries = Libraries()
    if not libraries.any:
        return Survey()
    with _collector_paused():
        return _survey(shell, libraries, host, time.monotonic(), seconds)


def _survey(shell: Any, libraries: Libraries, host: bool, begin: float, seconds: float) -> Survey:
    walk = _Walk(shell, libraries, host, begin + 0.7 * seconds)
    for root in sorted(_roots(shell, libraries), key=lambda root: root.rank):
        walk.from_root(root)
    walk.unnamed(begin + seconds)
    return Survey(tuple(sorted(walk.owners(), key=lambda owner: -owner.bytes)), walk.cut)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """It would go through all that the walk notes, again and again, and run finalisers of the user's meanwhile."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True)
class _Root:
    """A name at which the walk begins."""

    name: str
    what: Any = field(repr=False)
    rank: int
    variable: str


def _roots(shell: Any, libraries: Libraries) -> Iterator[_Root]:
    namespace = dict(shell.user_ns)
    shown = outputs(shell)
    kept = {id(one): f"Out[{number}]" for number, one in shown.items()}
    of_outputs = set(output_names(namespace))
    ranks: dict[Kind | None, int] = {"module": 0, "optimizer": 1, "tensor": 2}
    for name, one in namespace.items():
        if type(name) is not str or OWN_NAMES.fullmatch(name):
            continue
        if name not in of_outputs:
            yield _Root(name, one, ranks.get(libraries.kind(one), 3), name)
        elif id(one) not in kept:
            yield _Root(name, one, 5, name)
    for ours in held():  # behind the user's own names: what he holds as well is his
        yield _Root(ours.name, ours.what, ranks.get(libraries.kind(ours.what), 3), "")
    for number, one in shown.items():
        yield _Root(f"Out[{number}]", one, 4, f"Out[{number}]")
    for failure in failures(shell):
        yield _Root(FAILED, failure.what, 6, "")


@dataclass
class _Found:
    """The memory that will be one owner's."""

    name: str
    root: int
    of: str  # the class of the module or optimizer it belongs to
    part: str
    device: str
    bytes: int = 0
    count: int = 0
    tensors: bool = False
    largest: int = 0
    path: str = ""
    shape: str = ""
    graph: bool = False
    holders: set[int] = field(default_factory=set)  # nodes whose referrers hold it too


class _Walk:
    """One walk. Nodes are `id`s of objects that `_alive` keeps from dying meanwhile; roots are negative numbers."""

    def __init__(self, shell: Any, libraries: Libraries, host: bool, until: float) -> None:
        self._shell, self._libraries, self._host, self._until = shell, libraries, host, until
        names = ("user_ns", "user_global_ns", "user_ns_hidden", "user_module", "kernel")
        hidden = [shell, shell.user_ns.get("_oh"), libraries, *(getattr(shell, name, None) for name in names)]
        self._references = References({id(one) for one in hidden if one is not None}, _places(shell))
        self._alive: list[Any] = []
        self._roots: list[_Root] = []
        self._parent: dict[int, tuple[int, str]] = {}  # by which a node was found first
        self._referrers: dict[int, list[int]] = defaultdict(list)  # by which it was found again
        self._kinds: dict[int, tuple[Kind, str]] = {}  # of nodes that name an owner: its kind, and its class
        self._parameters: dict[int, str] = {}  # of a module: by its name in there
        self._found: dict[tuple[Any, ...], _Found] = {}
        self._counted: dict[Hashable, _Found] = {}
        self._steps = 0
        self._cut_off: list[str] = []

    def from_root(self, root: _Root) -> None:
        """Walk what is behind a name, for half the time that is left at most."""
        self._roots.append(root)
        number = -len(self._roots)
        self._parent[number] = (0, root.name)
        pending: deque[tuple[Any, int]] = deque()
        if _is_own_class(root.what):  # its attributes may be tensors, and no instance of it tells
            for name, child in list(_CLASS_DICT(root.what).items()):
                if not self._references.is_leaf(child) and self._meet(child, number, f".{name}"):
                    pending.append((child, 1))
        elif not self._references.is_leaf(root.what) and self._meet(root.what, number, ""):
            pending.append((root.what, 0))
        now = time.monotonic()
        until = now + (self._until - now) / 2
        while pending:
            one, depth = pending.popleft()
            for name, child, kind in self._behind(one):
                self._steps += 1
                if not self._steps % _LOOKED and time.monotonic() > until:
                    self._cut_off.append(root.name)
                    return
                deeper = depth + (kind != "module")
                if self._meet(child, id(one), name) and deeper <= _DEPTH:
                    pending.append((child, deeper))

    @property
    def cut(self) -> str:
        """What was not looked through to its end."""
        names = ", ".join(self._cut_off)
        verb = "holds" if len(self._cut_off) == 1 else "hold"
        return f"{names} {verb} too many objects to look at them all." if names else ""

    def _behind(self, one: Any) -> Iterator[tuple[str, Any, Kind | None]]:
        kind = self._libraries.kind(one)
        if kind == "array":
            return
        if kind == "module":
            held = self._references.attributes(one)
            for inside in ("_parameters", "_buffers", "_modules"):
                members = held.get(inside)
                if isinstance(members, dict):
                    yield from ((f".{name}", child, kind) for name, child in list(members.items()) if child is not None)
            yield from (
                (f".{name}", child, None)
                for name, child in list(held.items())
                if name not in ("_parameters", "_buffers", "_modules") and self._worth(child)
            )
            return
        if kind == "optimizer":
            state = self._references.attributes(one).get("state")
            if isinstance(state, dict):
                for parameter, states in list(dict.items(state)):
                    yield f".state[{self._parameters.get(id(parameter), '…')}]", states, kind
        if kind == "tensor":
            # quantised weights and tensors made of others keep their parts as attributes
            held = self._references.attributes(one)
            yield from ((f".{name}", child, None) for name, child in list(held.items()) if self._worth(child))
            return
        yield from ((name, child, None) for name, child in self._references.of(one))

    def _worth(self, one: Any) -> bool:
        return not self._references.is_leaf(one)

    def _meet(self, one: Any, by: int, name: str) -> bool:
        """Note a reference; whether the object is met for the first time."""
        node = id(one)
        if node in self._parent:
            self._referrers[node].append(by)
            return False
        self._parent[node] = (by, name)
        self._alive.append(one)
        kind = self._libraries.kind(one)
        if kind in ("module", "optimizer"):
            self._kinds[node] = (kind, type(one).__name__)
        elif type(one) is FrameType:
            self._kinds[node] = ("frame", "")
        elif kind == "tensor":
            self._count_tensor(one, node)
        elif kind == "array" and self._host and (known := self._libraries.array(one)) is not None:
            self._count(node, known[0], known[1], "", tensor=False)
        return True

    def _count_tensor(self, tensor: Any, node: int) -> None:
        for storage in self._libraries.storages(tensor):
            graph = self._libraries.has_graph(tensor)
            self._count(node, storage, self._libraries.described(tensor), "", graph=graph)
        gradient = self._libraries.gradient(tensor)
        if gradient is not None:
            for storage in self._libraries.storages(gradient):
                self._count(node, storage, self._libraries.described(gradient), "gradients")

    def _count(
        self, node: int, storage: Storage, shape: str, part: str, *, tensor: bool = True, graph: bool = False
    ) -> None:
        if (storage.device == "cpu") is not self._host:
            return
        known = self._counted.get(storage.key)
        if known is not None:
            known.holders.add(node)
            return
        root, name, of, path, found_part = self._named(node)
        key = (name, part or found_part, of, storage.device)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = _Found(name, root, of, part or found_part, storage.device)
        found.bytes += storage.bytes
        found.count += 1
        found.tensors = found.tensors or tensor
        found.graph = found.graph or graph
        found.holders.add(node)
        if storage.bytes > found.largest:
            found.largest, found.path, found.shape = storage.bytes, path, shape
        self._counted[storage.key] = found

    def _named(self, node: int) -> tuple[int, str, str, str, str]:
        """(root, owner's name, its class, the way from there, the part): by the first module, optimizer or frame."""
        way: list[tuple[int, str]] = []
        while node >= 0:
            by, name = self._parent[node]
            way.append((node, name))
            node = by
        way.reverse()
        root = self._roots[-node - 1]
        until = next((place for place, (one, _) in enumerate(way) if one in self._kinds), None)
        if until is None:
            return node, root.name, "", "".join(name for _, name in way), ""
        kind, of = self._kinds[way[until][0]]
        name = root.name + "".join(name for _, name in way[: until + 1])
        path = "".join(name for _, name in way[until + 1 :])
        if kind == "module":
            part = "weights"
            self._parameters[way[-1][0]] = path.lstrip(".")
        elif kind == "optimizer":
            part = "states" if path.startswith(".state[") else "parameters"
        else:
            part = ""
        return node, name, of, path, part

    def unnamed(self, until: float) -> None:
        """Tensors that live, and to which no name has led."""
        number = -len(self._roots) - 1
        self._roots.append(_Root(UNNAMED, None, 7, ""))
        self._parent[number] = (0, UNNAMED)
        for place, one in enumerate(gc.get_objects()):
            if not place % _LOOKED and time.monotonic() > until:
                self._cut_off.append("other objects")
                return
            if self._libraries.kind(one) == "tensor" and id(one) not in self._parent:
                self._meet(one, number, "")

    def owners(self) -> Iterable[Owner]:
        """What was found, as names and numbers."""
        for found in self._found.values():
            root = self._roots[-found.root - 1]
            names = dict.fromkeys(self._roots[-one - 1].name for one in sorted(self._held_by(found), reverse=True))
            also = tuple(name for name in names if name not in (root.name, UNNAMED))
            what = _what(found)
            yield Owner(found.name, what, found.bytes, found.device, found.count, found.tensors, root.variable, also)

    def _held_by(self, found: _Found) -> set[int]:
        """The roots that lead to any of this memory."""
        pending, seen, roots = list(found.holders), set(found.holders), set()
        while pending:
            node = pending.pop()
            for by in (self._parent[node][0], *self._referrers.get(node, ())):
                if by < 0:
                    roots.add(by)
                elif by not in seen:
                    seen.add(by)
                    pending.append(by)
        return roots


def _places(shell: Any) -> Callable[[CodeType], str]:
    """Names frames by their code: `train_step() in cell 5`. It does not refer to the walk, which dies at its end."""

    @cache
    def place(code: CodeType) -> str:
        file = cell_of(code.co_filename, shell) or code.co_filename.replace("\\", "/").rpartition("/")[2]
        name = "" if code.co_name == "<module>" else f"{code.co_qualname.rpartition('<locals>.')[2]}() in "
        return f"{name}{file}"

    return place


def _is_own_class(one: Any) -> bool:
    """Whether it is a class that a cell has made."""
    return type in bases(type(one)) and type.__dict__["__module__"].__get__(one) == "__main__"


def _what(found: _Found) -> str:
    """In words."""
    match found.part:
        case "weights":
            return f"weights of {found.of}"
        case "states":
            return f"states of {found.of}"
        case "parameters":
            return f"parameters of {found.of}"
        case "gradients":
            return "gradients"
    largest = f"{found.path.lstrip('.')}: {found.shape}" if found.path.lstrip(".") else found.shape
    graph = ", with its graph" if found.graph else ""
    if found.count == 1:
        return f"{largest}{graph}"
    return f"{found.count:,} tensors, the largest {largest}{graph}"
