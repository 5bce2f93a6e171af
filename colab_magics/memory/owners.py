"""Who holds memory in this process, by the names that a person has given: variables, Out[N], the failed cell.

Everything that a name leads to is walked once, breadth first, so that what is found has its shortest name. Memory that
several tensors share is counted once, for the first in this order: modules, optimizers, tensors, all other variables,
outputs, failed cells; the others are named beside it. Then come tensors that no name leads to.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from colab_magics.memory.held import held
from colab_magics.memory.kept import OWN_NAMES, failures, output_names, outputs
from colab_magics.memory.references import is_imported
from colab_magics.memory.tensors import Kind, Libraries
from colab_magics.memory.walk import Found, Root, Walk

SECONDS = 1.5  # for which is looked, at most
_OF_A_FUNCTION = "'s "  # how the name of a closure or a default begins
_FEW = 3  # names in a sentence
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
    fixed : tuple of str
        Of these, such as `%vram free` does not remove: modules that were imported, what is ours, a failed cell.
    """

    name: str
    what: str
    bytes: int
    device: str
    count: int = 1
    tensors: bool = True
    variable: str = ""
    also: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """The owners, the largest first.

    `cut` says why some may be missing, and is empty where none are. `graphs` are the variables with a graph that
    backward has not emptied, and `read` those of them whose graphs were looked through to their end: what no variable
    leads to is not theirs. Of storages that were sought, `still` bytes are there, held by the names `still_by`; those
    of them that `%vram free` can remove are `removable`.
    """

    owners: tuple[Owner, ...] = ()
    cut: str = ""
    graphs: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    still: int = 0
    still_by: tuple[str, ...] = ()
    removable: tuple[str, ...] = ()

    def on(self, device: str) -> int:
        """Bytes that are accounted for on a device."""
        return sum(owner.bytes for owner in self.owners if owner.device == device)


def survey(shell: Any, *, host: bool, seconds: float = SECONDS, sought: Mapping[Hashable, int] | None = None) -> Survey:
    """Look for all that holds tensors in this process.

    Parameters
    ----------
    shell : IPython's, whose notebook is looked at
    host : whether memory of the host counts (where there is no GPU); else only a device's
    seconds : after which it is cut off
    sought : storages of which is told who holds them, as `behind` gives them

    Notes
    -----
    Nothing found is kept: what it returns holds names and numbers only.
    """
    libraries = Libraries()
    if not libraries.any:
        return Survey()
    with _collector_paused():
        return _survey(shell, libraries, host, time.monotonic(), seconds, sought)


def behind(shell: Any, objects: Iterable[Any], *, host: bool, seconds: float = SECONDS / 3) -> dict[Hashable, int]:
    """The storages that these objects lead to, graphs left out: bytes, by a key that outlives the objects."""
    libraries = Libraries()
    if not libraries.any:
        return {}
    with _collector_paused():
        walk = Walk(shell, libraries, host, time.monotonic() + seconds)
        for one in objects:
            walk.from_root(Root("", one, 0, ""))
        return walk.storages


def _survey(
    shell: Any,
    libraries: Libraries,
    host: bool,
    begin: float,
    seconds: float,
    sought: Mapping[Hashable, int] | None,
) -> Survey:
    walk = Walk(shell, libraries, host, begin + 0.7 * seconds, sought)
    for root in sorted(_roots(shell, libraries), key=lambda root: root.rank):
        walk.from_root(root)
    walk.graphs()
    walk.unnamed(Root(UNNAMED, None, 7, ""), begin + seconds)
    owners = sorted((_owner(walk, found) for found in walk.found), key=lambda owner: -owner.bytes)
    carrying = dict.fromkeys(root.variable for root in walk.carrying() if root.variable)
    unread = {root.variable for root in walk.unread()}
    read = tuple(name for name in carrying if name not in unread)
    still, roots = walk.still()
    still_by = tuple(dict.fromkeys(root.name for root in roots))
    removable = tuple(dict.fromkeys(root.variable for root in roots if root.variable))
    return Survey(tuple(owners), walk.cut, tuple(carrying), read, still, still_by, removable)


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


def _roots(shell: Any, libraries: Libraries) -> Iterator[Root]:
    namespace = dict(shell.user_ns)
    shown = outputs(shell)
    kept = {id(one): f"Out[{number}]" for number, one in shown.items()}
    of_outputs = set(output_names(namespace))
    ranks: dict[Kind | None, int] = {"module": 0, "optimizer": 1, "tensor": 2}
    for name, one in namespace.items():
        if type(name) is not str or OWN_NAMES.fullmatch(name):
            continue
        if name not in of_outputs:
            yield Root(name, one, ranks.get(libraries.kind(one), 3), "" if is_imported(one) else name)
        elif id(one) not in kept:
            yield Root(name, one, 5, name)
    for ours in held():  # behind the user's own names: what he holds as well is his
        yield Root(ours.name, ours.what, ranks.get(libraries.kind(ours.what), 3), "")
    for number, one in shown.items():
        yield Root(f"Out[{number}]", one, 4, f"Out[{number}]")
    for failure in failures(shell):
        yield Root(FAILED, failure.what, 6, "")


def _owner(walk: Walk, found: Found) -> Owner:
    """As names and numbers."""
    root = walk.root(found.root)
    names = {one.name: one.variable for one in walk.leading_to(found) if one.name not in (root.name, UNNAMED)}
    fixed = tuple(name for name, variable in names.items() if not variable)
    what = _what(found)
    return Owner(
        found.name, what, found.bytes, found.device, found.count, found.tensors, root.variable, tuple(names), fixed
    )


def _what(found: Found) -> str:
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
        case "saved":
            return f"graph of {few(found.carriers)}: {_counted(found.count, 'tensor')} saved for backward"
        case "leaves":
            return f"graph of {few(found.carriers)}: {_counted(found.count, 'parameter')}"
    path = found.path.lstrip(".")
    if path.startswith(_OF_A_FUNCTION):
        path = f"in its {path.removeprefix(_OF_A_FUNCTION)}"
    largest = f"{path}: {found.shape}" if path else found.shape
    graph = ", with its graph" if found.graph else ""
    if found.count == 1:
        return f"{largest}{graph}"
    return f"{found.count:,} tensors, the largest {largest}{graph}"


def few(names: Iterable[str]) -> str:
    """`a, b, c and 4 more`: the first of these names, and how many there are beside."""
    named = list(names)
    rest = len(named) - _FEW
    return ", ".join(named[:_FEW]) + (f" and {rest:,} more" if rest > 0 else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")
