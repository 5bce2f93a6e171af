"""One walk through all that the names of a process lead to, breadth first, so that what is found has its shortest name.

Names come first, one after the other, and then the graphs of all tensors that were met: what a graph alone holds is
the graph's, and what has a name of its own keeps it.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType
from typing import Any, Literal

from colab_magics.memory.graphs import Graphs
from colab_magics.memory.kept import cell_of
from colab_magics.memory.references import References
from colab_magics.memory.tensors import Kind, Libraries, Storage

_DEPTH = 12  # references behind a name; what lies within a module, or along a graph, counts as one
_NODES = 100_000  # of all graphs together
# Nodes that may come one after the other. torch 2.13 keeps a node's Python object with the node, and frees a chain of
# such by recursion: with 60,000 of them, `del loss` overflows a stack of 8 MiB and the kernel dies. A chain that was
# never looked at it frees in a loop.
_CHAIN = 10_000
_LOOKED = 512  # references between two looks at the clock
_PARAMETER = ".variable"
Part = Literal["", "weights", "states", "parameters", "gradients", "saved", "leaves"]


@dataclass(frozen=True)
class Root:
    """A name at which the walk begins; `variable` is what to write after `%vram free`."""

    name: str
    what: Any = field(repr=False)
    rank: int
    variable: str


@dataclass
class Found:
    """The memory that is one owner's.

    `part` of a graph: what it has saved, and the leaves whose gradients it adds up; `carriers` are then the tensors
    that carry it.
    """

    name: str
    root: int
    of: str  # the class of the module or optimizer it belongs to
    part: Part
    device: str
    bytes: int = 0
    count: int = 0
    tensors: bool = False
    largest: int = 0
    path: str = ""
    shape: str = ""
    graph: bool = False
    carriers: dict[str, None] = field(default_factory=dict)
    holders: set[int] = field(default_factory=set)  # nodes whose referrers hold it too


@dataclass(frozen=True)
class _Place:
    """Where a node was found: its root, its owner's name and class, the way from there, the part."""

    root: int
    name: str
    of: str
    path: str
    part: Part


class Walk:
    """Nodes are `id`s of objects that `_alive` keeps from dying meanwhile; roots are negative numbers.

    `sought` are storages of which is told who leads to them: bytes, by their keys.
    """

    def __init__(
        self,
        shell: Any,
        libraries: Libraries,
        host: bool,
        until: float,
        sought: Mapping[Hashable, int] | None = None,
    ) -> None:
        self._libraries, self._host, self._until = libraries, host, until
        self._sought = sought or {}
        self._still: dict[Hashable, int] = {}  # of these, what was met
        self._still_by: set[int] = set()
        names = ("user_ns", "user_global_ns", "user_ns_hidden", "user_module", "kernel")
        hidden = [shell, shell.user_ns.get("_oh"), libraries, *(getattr(shell, name, None) for name in names)]
        self._references = References({id(one) for one in hidden if one is not None}, _places(shell))
        self._graphs = Graphs()
        self._alive: list[Any] = []
        self._roots: list[Root] = []
        self._parent: dict[int, tuple[int, str]] = {}  # by which a node was found first
        self._referrers: dict[int, list[int]] = defaultdict(list)  # by which it was found again
        self._kinds: dict[int, tuple[Kind, str]] = {}  # of nodes that name an owner: its kind, and its class
        self._parameters: dict[int, str] = {}  # of a module: by its name in there
        self._carriers: list[Any] = []  # tensors whose graph is still to be walked
        self._chains: dict[int, int] = {}  # of nodes of graphs: how many may come after one another from there, at most
        self._loaded: set[int] = set()  # nodes of graphs that hold something
        self._unread: set[int] = set()  # of these, such as hold what could not be looked at
        self._found: dict[tuple[Any, ...], Found] = {}
        self._counted: dict[Hashable, tuple[Found, int]] = {}
        self._steps = 0
        self._cut_off: list[str] = []

    def from_root(self, root: Root) -> None:
        """Walk what is behind a name, for half the time that is left at most."""
        self._roots.append(root)
        number = -len(self._roots)
        self._parent[number] = (0, root.name)
        pending: deque[tuple[Any, int]] = deque()
        members = self._references.members(root.what)
        if members is not None:
            pending.extend((child, 1) for name, child in members if self._meet(child, number, name))
        elif not self._references.is_leaf(root.what) and self._meet(root.what, number, ""):
            pending.append((root.what, 0))
        now = time.monotonic()
        if not self._spread(pending, now + (self._until - now) / 2):
            self._cut_off.append(root.name)

    def graphs(self) -> None:
        """Walk the graphs of all tensors that names have led to: what they have saved for backward, and their leaves.

        First along the nodes, then to what they have saved: a leaf is mostly among what is saved as well.
        """
        whole = True
        while self._carriers and whole:
            carriers, self._carriers = self._carriers, []
            nodes: list[Any] = []
            whole = all(self._along(tensor, nodes) for tensor in carriers)
            pending: deque[tuple[Any, int]] = deque()
            for node in nodes:
                saved = self._graphs.saved(node)
                if saved.hidden or saved.objects:
                    self._loaded.add(id(node))
                if saved.hidden:
                    self._unread.add(id(node))
                for child in (*saved.objects, *self._references.attributes(node).values()):
                    if self._worth(child) and self._meet(child, id(node), ""):
                        pending.append((child, 1))
                if self._is_late(self._until):
                    self._cut_graph(node)
                    return
            if not self._spread(pending, self._until):
                self._cut_graph(nodes[0])
                return

    def unnamed(self, root: Root, until: float) -> None:
        """Tensors that live, and to which nothing has led."""
        self._roots.append(root)
        number = -len(self._roots)
        self._parent[number] = (0, root.name)
        for place, one in enumerate(gc.get_objects()):
            if not place % _LOOKED and time.monotonic() > until:
                self._cut_off.append("other objects")
                return
            if self._libraries.kind(one) == "tensor" and id(one) not in self._parent:
                self._meet(one, number, "")

    @property
    def found(self) -> Iterable[Found]:
        """The memory, by owner."""
        return self._found.values()

    @property
    def cut(self) -> str:
        """What was not looked through to its end."""
        names = ", ".join(self._cut_off)
        verb = "holds" if len(self._cut_off) == 1 else "hold"
        return f"{names} {verb} too many objects to look at them all." if names else ""

    def root(self, number: int) -> Root:
        """A root, by its number."""
        return self._roots[-number - 1]

    def leading_to(self, found: Found) -> list[Root]:
        """The roots that lead to any of this memory."""
        return self._leading_to(found.holders)

    def carrying(self) -> list[Root]:
        """The roots that lead to a graph which backward has not emptied."""
        return self._leading_to(self._loaded)

    def unread(self) -> list[Root]:
        """Of these, such as lead to one that could not be looked through."""
        return self._leading_to(self._unread)

    @property
    def storages(self) -> dict[Hashable, int]:
        """The memory that was met, by its key; parameters that an optimizer works on are not its own."""
        return {key: size for key, (found, size) in self._counted.items() if found.part != "parameters"}

    def still(self) -> tuple[int, list[Root]]:
        """How much of what was sought is there, and which roots lead to it."""
        return sum(self._still.values()), self._leading_to(self._still_by)

    def _leading_to(self, nodes: set[int]) -> list[Root]:
        pending, seen, roots = list(nodes), set(nodes), set()
        while pending:
            node = pending.pop()
            for by in (self._parent[node][0], *self._referrers.get(node, ())):
                if by < 0:
                    roots.add(by)
                elif by not in seen:
                    seen.add(by)
                    pending.append(by)
        return [self.root(number) for number in sorted(roots, reverse=True)]

    def _spread(self, pending: deque[tuple[Any, int]], until: float) -> bool:
        """Walk on from these objects, each at its depth; whether there was time to reach the end."""
        while pending:
            one, depth = pending.popleft()
            for name, child, kind in self._behind(one):
                if self._is_late(until):
                    return False
                deeper = depth + (kind != "module")
                if self._meet(child, id(one), name) and deeper <= _DEPTH:
                    pending.append((child, deeper))
        return True

    def _is_late(self, until: float) -> bool:
        self._steps += 1
        return not self._steps % _LOOKED and time.monotonic() > until

    def _along(self, carrier: Any, nodes: list[Any]) -> bool:
        """Add the nodes of a tensor's graph that are met for the first time; whether these are all.

        Their leaves are met with them.
        """
        head = self._libraries.graph(carrier)
        if head is None or not self._meet(head, id(carrier), ""):
            return True
        self._kinds[id(head)] = ("graph", "")
        new, beyond, whole = [head], 0, True
        for node in new:  # it grows meanwhile
            leaf = self._graphs.parameter(node)
            if leaf is not None:
                self._meet(leaf, id(node), _PARAMETER)
            for after in self._graphs.next(node):
                if self._meet(after, id(head), ""):  # found by the head, so that its way to a name is a short one
                    new.append(after)
                else:
                    beyond = max(beyond, self._chains.get(id(after), 0))
                self._referrers[id(after)].append(id(node))
            if beyond + len(new) > _CHAIN or len(self._chains) + len(new) > _NODES or self._is_late(self._until):
                self._cut_graph(node)
                whole = False
                break
        self._chains |= dict.fromkeys(map(id, new), beyond + len(new))
        nodes += new
        return whole

    def _cut_graph(self, node: Any) -> None:
        self._loaded.add(id(node))
        self._unread.add(id(node))
        name = f"the graph of {self._named(id(node)).path}"
        if name not in self._cut_off:
            self._cut_off.append(name)

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
        graph = self._libraries.has_graph(tensor)
        if graph:
            self._carriers.append(tensor)
        for storage in self._libraries.storages(tensor):
            self._count(node, storage, self._libraries.described(tensor, storage.bytes), "", graph=graph)
        gradient = self._libraries.gradient(tensor)
        if gradient is not None:
            for storage in self._libraries.storages(gradient):
                self._count(node, storage, self._libraries.described(gradient), "gradients")

    def _count(
        self, node: int, storage: Storage, shape: str, part: Part, *, tensor: bool = True, graph: bool = False
    ) -> None:
        if (storage.device == "cpu") is not self._host:
            return
        if self._sought.get(storage.key) == storage.bytes:
            self._still[storage.key] = storage.bytes
            self._still_by.add(node)
        known = self._counted.get(storage.key)
        if known is not None:
            known[0].holders.add(node)
            return
        place = self._named(node)
        part = part or place.part
        key = (place.name, part, place.of, storage.device)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Found(place.name, place.root, place.of, part, storage.device)
        found.bytes += storage.bytes
        found.count += 1
        found.tensors = found.tensors or tensor
        found.graph = found.graph or graph
        found.holders.add(node)
        if place.part in ("saved", "leaves"):
            found.carriers[place.path] = None
        if storage.bytes > found.largest:
            found.largest, found.path, found.shape = storage.bytes, place.path, shape
        self._counted[storage.key] = found, storage.bytes

    def _named(self, node: int) -> _Place:
        """By the first module, optimizer or frame on the way there; of what a graph holds, before its carrier."""
        way: list[tuple[int, str]] = []
        while node >= 0:
            by, name = self._parent[node]
            way.append((node, name))
            node = by
        way.reverse()
        head = next((place for place, (one, _) in enumerate(way) if self._kinds.get(one, ("",))[0] == "graph"), None)
        if head is not None:
            carrier = self._owner(node, way[:head])
            whole = self.root(node).name + "".join(name for _, name in way[:head])
            in_frame = any(self._kinds.get(one, ("",))[0] == "frame" for one, _ in way[:head])
            part: Part = "leaves" if way[-1][1] == _PARAMETER else "saved"
            return _Place(node, carrier.name, "", carrier.path if in_frame else whole, part)
        return self._owner(node, way)

    def _owner(self, node: int, way: list[tuple[int, str]]) -> _Place:
        root = self.root(node)
        until = next((place for place, (one, _) in enumerate(way) if one in self._kinds), None)
        if until is None:
            return _Place(node, root.name, "", "".join(name for _, name in way), "")
        kind, of = self._kinds[way[until][0]]
        name = root.name + "".join(name for _, name in way[: until + 1])
        path = "".join(name for _, name in way[until + 1 :])
        part: Part = ""
        if kind == "module":
            part = "weights"
            self._parameters[way[-1][0]] = path.lstrip(".")
        elif kind == "optimizer":
            part = "states" if path.startswith(".state[") else "parameters"
        return _Place(node, name, of, path, part)


def _places(shell: Any) -> Callable[[CodeType], str]:
    """Names frames by their code: `train_step() in cell 5`. It does not refer to the walk, which dies at its end."""

    @cache
    def place(code: CodeType) -> str:
        file = cell_of(code.co_filename, shell) or code.co_filename.replace("\\", "/").rpartition("/")[2]
        name = "" if code.co_name == "<module>" else f"{code.co_qualname.rpartition('<locals>.')[2]}() in "
        return f"{name}{file}"

    return place
