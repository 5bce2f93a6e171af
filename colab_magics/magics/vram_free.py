"""`%vram free`: what came back, who holds the rest, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from colab_magics.magics.grid import Page
from colab_magics.magics.vram_line import Line
from colab_magics.magics.vram_show import owners_grid, removing
from colab_magics.memory.allocator import CONTEXT, cuda
from colab_magics.memory.owners import FAILED, UNNAMED, Owner, Survey, few
from colab_magics.memory.release import Released, owned, release
from colab_magics.sizes import size

_LEAST = 2**20  # bytes that are worth a word
_FREED = 3  # names in a line that is proposed


def free(asked: Line, shell: Any) -> Page:
    """Release what the line asks for.

    Raises
    ------
    ColabMagicsError
        A name that there is not; nothing is removed then.
    """
    listed, names = owned(shell) if asked.all else ([], list(asked.words))
    done = release(shell, names)
    return page_of(done, listed, everything=asked.all)


def page_of(done: Released, listed: Sequence[Owner] = (), *, everything: bool = False) -> Page:
    """What a release has done, in words."""
    grids = [owners_grid(listed, "Removed", every=True)] if listed else []
    left = [owner for owner in done.left.owners if owner.bytes >= _LEAST]
    if left:
        grids.append(owners_grid(left, "Still held"))
    return Page(_title(done), list(_lines(done, everything)), grids, list(_foot(done, left)))


def _title(done: Released) -> str:
    before, after = done.before, done.after
    if before.reserved is None:
        came, to = before.rss - after.rss, "to the machine"
    else:
        came, to = before.reserved - (after.reserved or 0), "to the GPU"
    return f"{size(came)} came back {to}" if came >= _LEAST else f"Nothing came back {to}"


def _lines(done: Released, everything: bool) -> list[str]:
    lines = []
    if done.forgotten:
        lines.append("Let go: the traceback of the failed cell (%debug and %tb have nothing to show any more).")
    lines += [f"Let go: {name}. The next line that needs it loads it again." for name in done.ours]
    if done.removed and not everything:
        lines.append(f"Removed: {', '.join(done.removed)}.")
    if everything and not done.removed:
        lines.append("No variable and no output holds tensors; there was nothing to remove.")
    after = done.after
    if after.reserved is not None:
        cached = max(0, after.reserved - after.allocated)
        held = f"{size(after.allocated)} in tensors, {size(cached)} cached"
        lines.append(f"This process now holds {size(after.reserved)}: {held}.")
    else:
        lines.append(f"This process now holds {size(after.rss)} of the machine's memory.")
    return lines


def _of_nobody(found: Survey, threads: Sequence[str]) -> str:
    graphs = [name for name in found.graphs if name not in found.read]
    if threads:
        return f"What no variable leads to is likely held by {few(threads)}."
    if not graphs:
        return "What no variable leads to is held by a library or a thread: restart the kernel if you need it."
    whose = f"the graph{'s' if len(graphs) > 1 else ''} of {few(graphs)}"
    return f"What no variable leads to is likely held by {whose}: try %vram free {' '.join(graphs[:_FREED])} first."


def _still(left: Survey) -> str:
    """Who else holds what was removed."""
    names = [name if name != UNNAMED else "a library or a thread" for name in left.still_by]
    told = f"Of what was removed, {size(left.still)} is still held by {', '.join(names)}"
    return f"{told}: %vram free {' '.join(left.removable)} removes that too." if left.removable else f"{told}."


def _of_module(name: str) -> str:
    return f"{name} is a module that was imported, and stays: del {name}.NAME takes out what holds memory there."


def _foot(done: Released, left: Sequence[Owner]) -> list[str]:
    told = list(done.stuck)
    if done.left.cut:
        told.append(done.left.cut)
    if done.left.still >= _LEAST:
        told.append(_still(done.left))
    kept = [owner for owner in left if owner.variable]
    of_modules = [owner.name for owner in left if not owner.variable and not owner.name.startswith((FAILED, UNNAMED))]
    modules = dict.fromkeys(name.partition(".")[0] for name in of_modules)
    failures = [owner for owner in kept if "() in " in owner.name]
    if failures:
        named = failures[0].variable
        told.append(
            f"{named} is an error that your own code keeps, with all its frames: %vram free {named} removes it."
        )
    elif kept and done.left.still < _LEAST:
        told.append(f"{removing(kept)} removes what holds the most of it.")
    told += [_of_module(name) for name in modules]
    if any(owner.name == UNNAMED for owner in left):
        told.append(_of_nobody(done.left, done.threads))
    if cuda() is not None:
        told.append(f"The CUDA context (about {size(CONTEXT)} on a T4) stays until the kernel is restarted.")
    return told
