"""Giving memory back, and finding out whether it came back.

The order matters. What IPython keeps of a failed cell goes first, then what the user has named and what colab_magics
keeps for itself, then what only the collector can free (trainers and models are full of cycles), and only then has
torch something to give to the card.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.memory.allocator import allocators, cuda
from colab_magics.memory.held import let_go
from colab_magics.memory.kept import (
    OWN_NAMES,
    drop_outputs,
    failures,
    forget_failures,
    holds_users,
    output_names,
    outputs,
)
from colab_magics.memory.owners import Owner, Survey, behind, survey
from colab_magics.memory.references import is_imported

_OUTPUT = re.compile(r"Out\[(\d+)\]|_(\d+)")
_PART = re.compile(r"(Out\[\d+\]|\w+)((?:\.|\[).*)")
_STICKY = ("device-side assert", "illegal memory access", "unspecified launch failure", "misaligned address",
           "hardware stack error", "illegal instruction", "CUDA-capable device(s) is/are busy")  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """What this process held at one moment; bytes.

    Attributes
    ----------
    reserved : int, optional
        Of the GPUs, by torch; None where it uses none.
    allocated : int
        Of that, in tensors.
    rss : int
        Of the host.
    """

    reserved: int | None
    allocated: int
    rss: int


@dataclass(frozen=True)
class Released:
    """What a release has done.

    Attributes
    ----------
    before, after : Standing
    forgotten : bool
        Whether a failed cell's traceback was let go that held variables of the user's code.
    removed : tuple of str
        Variables and outputs that were removed, as they were named.
    ours : tuple of str
        What colab_magics had kept itself.
    threads : tuple of str
        Threads of the user's that still run.
    left : Survey
        Who holds what is left.
    stuck : tuple of str
        What cannot be freed from here, each with the one thing that helps.
    """

    before: Standing
    after: Standing
    forgotten: bool
    removed: tuple[str, ...]
    left: Survey
    stuck: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()


def standing() -> Standing:
    """What this process holds now."""
    import psutil

    try:
        here = allocators()
    except Exception:  # after an illegal access CUDA answers nothing any more
        here = ()
    reserved = sum(one.reserved for one in here) if here else None
    return Standing(reserved, sum(one.allocated for one in here), int(psutil.Process().memory_info().rss))


def release(shell: Any, names: Sequence[str] = ()) -> Released:
    """Free what can be freed; of the user's variables only those that are named.

    Parameters
    ----------
    shell : IPython's
    names : variables, `Out[5]` or `_5` for one output, `Out` for all outputs that hold memory

    Raises
    ------
    ColabMagicsError
        A name that there is not (the nearest is named); nothing is removed then.
    """
    before, forgotten = standing(), any(map(holds_users, failures(shell)))
    for name in names:
        _check(name, shell.user_ns, outputs(shell))
    host = cuda() is None
    sought = behind(shell, _named(shell, names), host=host) if names else {}
    removed, ours = _remove(shell, names), let_go()
    forget_failures(shell)
    gc.collect()
    gc.collect()  # what a finaliser has brought back in the first
    stuck = _empty_cache()
    _trim()
    left, threads = survey(shell, host=host, sought=sought), _threads()
    return Released(before, standing(), forgotten, removed, left, (*stuck, *_told(threads)), ours, threads)


def release_ours() -> tuple[str, ...]:
    """Free what colab_magics keeps for itself, and nothing else; the names."""
    names = let_go()
    if names:
        gc.collect()
        _empty_cache()
    return names


def owned(shell: Any) -> tuple[list[Owner], list[str]]:
    """Variables and outputs that hold tensors, the largest first; and all names that lead to any of these."""
    found = survey(shell, host=cuda() is None).owners
    owners = [owner for owner in found if owner.variable and owner.tensors]
    fixed = {name for owner in owners for name in owner.fixed}
    names = dict.fromkeys(name for owner in owners for name in (owner.variable, *owner.also) if name not in fixed)
    return owners, [name for name in names if _is_there(name, shell.user_ns, outputs(shell))]


def _remove(shell: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Remove variables and outputs; the objects die with the last reference, which is ours."""
    objects, removed = _named(shell, names), tuple(dict.fromkeys(names))
    of_ipython = {"Out", *output_names(shell.user_ns)}
    for name in removed:
        if name not in of_ipython and _number(name) is None:
            del shell.user_ns[name]
    if objects:
        drop_outputs(shell, objects)
    return removed


def _named(shell: Any, names: Sequence[str]) -> list[Any]:
    """The objects that these names stand for."""
    shown = outputs(shell)
    objects: list[Any] = []
    for name in names:
        number = _number(name)
        objects += shown.values() if name == "Out" else [shell.user_ns[name] if number is None else shown[number]]
    return objects


def _number(name: str) -> int | None:
    found = _OUTPUT.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def _is_there(name: str, namespace: Any, shown: dict[int, Any]) -> bool:
    number = _number(name)
    return name == "Out" or number in shown or (number is None and name in namespace and not OWN_NAMES.fullmatch(name))


def _check(name: str, namespace: Any, shown: dict[int, Any]) -> None:
    if _is_there(name, namespace, shown):
        if is_imported(namespace.get(name)):
            raise ColabMagicsError(
                f"{name} is a module that was imported; nothing was removed.",
                "Python keeps it, whatever name is removed, and with it all that it holds.",
                "%vram shows which names hold memory.",
            )
        return
    if name in namespace:
        raise ColabMagicsError(
            f"{name} is {'Python' if name.startswith('__') else 'IPython'}'s own; nothing was removed.",
            "%vram free removes variables that you have made.",
            "%vram shows which names hold memory.",
        )
    part = _PART.fullmatch(name)
    if part is not None and _is_there(part[1], namespace, shown):
        whole, inside = part[1], _quoted(part[2], namespace)
        raise ColabMagicsError(
            f"{whole}{inside} is a part of {whole}; nothing was removed.",
            "%vram free removes whole variables and outputs.",
            f"del {whole}{inside} removes that part; %vram free then gives its memory back.",
            f"%vram free {whole} removes all of {whole}.",
        )
    variables = [one for one in namespace if isinstance(one, str) and not one.startswith("_")]
    known = [*(one for one in variables if not OWN_NAMES.fullmatch(one)), *(f"Out[{one}]" for one in shown)]
    close = nearest(name, known)
    raise ColabMagicsError(
        f"There is no variable {name}; nothing was removed.",
        "%vram free takes names of variables, Out[5] for one output, and Out for all.",
        f"Did you mean {close}?" if close else "%vram shows which names hold memory.",
    )


def _quoted(part: str, namespace: Any) -> str:
    """`[k]` as `['k']`: the line was split as in a shell, which takes the quotes away.

    What stands for itself stays: a number, a slice, a name that is a variable.
    """

    def key(found: re.Match[str]) -> str:
        word = found[1]
        stands = word in namespace or re.fullmatch(r"[-\d:\s]*|.*['\"()\[].*", word)
        return found[0] if stands else f"[{word!r}]"

    return re.sub(r"\[([^\]]*)\]", key, part)


def _empty_cache() -> list[str]:
    """Give what no tensor uses back to the card; sentences, where CUDA refuses."""
    mps: Any = getattr(sys.modules.get("torch"), "mps", None)
    module = cuda()
    if module is None:
        with suppress(Exception):
            if mps is not None and allocators():
                mps.empty_cache()
        return []
    try:
        module.synchronize()  # an error of a kernel that ran earlier is told at the next call
        module.empty_cache()
        module.ipc_collect()
        clear = getattr(getattr(sys.modules["torch"], "_C", None), "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
            module.empty_cache()
    except Exception as error:
        said = next((one for one in _STICKY if one in str(error)), None)
        if said is None:
            return [f"torch could not give its cache back: {str(error).partition(chr(10))[0]}"]
        return [
            f"CUDA has failed in this process ({said}) and frees nothing any more. Only a restart of the kernel helps."
        ]
    return []


def _trim() -> None:
    """Give the host what its allocator keeps of freed blocks: with many small ones in between it keeps nearly all."""
    with suppress(Exception):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _threads() -> tuple[str, ...]:
    """Threads of the user's: what their frames hold cannot be seen, nor taken from them."""
    return tuple(
        one.name
        for one in threading.enumerate()
        if one is not threading.main_thread() and not one.daemon and _is_users(one)
    )


def _told(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{', '.join(names)} {verb} still running; what a running thread holds is free when it has ended: join it."]


def _is_users(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) == "__main__"
