"""Who holds how many bytes, from one operation to the next, while code runs on fake tensors.

It counts as the caching allocator hands out: whole storages, in steps of 512 bytes, until the last tensor on one is
gone. What an operation takes and gives back inside of itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

STEP = 512  # bytes

Parts = dict[str, int]


class Ledger(TorchDispatchMode):  # type: ignore[misc]
    """Counts the storages that operations make under it, each under the part that was at work then.

    `moments` holds, of each moment that was named, its parts at the highest point.

    Parameters
    ----------
    scores : shapes of what grows with the square of the length; they are `attention`, whatever was at work
    """

    def __init__(self, scores: Collection[tuple[int, ...]] = ()) -> None:
        super().__init__()
        self.live: Parts = {}
        self.moments: dict[str, Parts] = {}
        self._highest: dict[str, int] = {}
        self._total = 0
        self._held: dict[int, tuple[weakref.ref[Any], str, int]] = {}  # by the storage's address
        self._part = "activations"
        self._moment = "before"
        self._scores = frozenset(scores)
        self.ran: set[str] = set()  # operations, by their names

    @property
    def total(self) -> int:
        """Bytes that are live now."""
        return self._total

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is made in the block under `name`."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def enter(self, part: str) -> None:
        """Count what is made from now on under `part`."""
        self._part = part

    def at(self, moment: str) -> None:
        """From now on it is that moment."""
        self._moment = moment
        self._note()

    def take(self, tensor: torch.Tensor, part: str) -> None:
        """Count a tensor that was made elsewhere; of one that is counted, change its part."""
        self._count(tensor, part)
        self._note()

    def take_gradient(self, parameter: torch.Tensor) -> None:
        """Count the gradient that a parameter has now: a hook for when it is accumulated."""
        assert parameter.grad is not None
        self.take(parameter.grad, "gradients")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.ran.add(func.__name__)
        if func is torch.ops.aten._to_copy.default and self._is_copy(args[0], out):
            self._count(out, "copies")
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf, None)
        self._note()
        return out

    def _is_copy(self, tensor: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether it is a weight in 16 bit: as autocast makes them, and keeps them until it ends."""
        found = self._held.get(tensor.untyped_storage()._cdata)
        wide, narrow = tensor.dtype == torch.float32, out.dtype in (torch.float16, torch.bfloat16)
        return found is not None and found[1] == "weights" and wide and narrow

    def _count(self, tensor: torch.Tensor, part: str | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        found = self._held.get(key)
        if found is not None:
            if part is not None and part != found[1]:
                self._add(found[1], -found[2])
                self._add(part, found[2])
                self._held[key] = (found[0], part, found[2])
            return
        size = -(-storage.nbytes() // STEP) * STEP
        part = part or ("attention" if tuple(tensor.shape) in self._scores else self._part)
        self._held[key] = (weakref.ref(storage, partial(self._gone, key)), part, size)
        self._add(part, size)

    def _gone(self, key: int, _storage: object) -> None:
        _, part, size = self._held.pop(key)
        self._add(part, -size)

    def _add(self, part: str, size: int) -> None:
        self.live[part] = self.live.get(part, 0) + size
        self._total += size

    def _note(self) -> None:
        if self._total > self._highest.get(self._moment, -1):
            self._highest[self._moment] = self._total
            self.moments[self._moment] = dict(self.live)
