"""What tensors and arrays occupy, asked of the libraries that this process has imported anyway.

Nothing is imported here. A tensor may be of a class of the user's own, so its size is read through torch's own
functions, with the hooks for such classes switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from colab_magics.memory.references import bases
from colab_magics.sizes import size

Kind = Literal["tensor", "module", "optimizer", "array", "frame", "graph"]
ARRAY = 2**20  # bytes; smaller arrays and tables are not worth a name
_OF_MORE = 2**20  # bytes that a view must keep beyond what it shows, to be called one


@dataclass(frozen=True)
class Storage:
    """Memory that one or more tensors look at: `key` tells it apart, `device` is `cpu`, `cuda:0`, `mps:0`."""

    key: Hashable
    bytes: int
    device: str


class Libraries:
    """torch, numpy and pandas, as far as they are imported."""

    def __init__(self) -> None:
        torch: Any = sys.modules.get("torch")
        numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
        self._torch: Any = torch if hasattr(torch, "Tensor") else None
        self._array = getattr(numpy, "ndarray", None)
        self._file_array = getattr(numpy, "memmap", None)
        self._tables = [kind for name in ("DataFrame", "Series") if (kind := getattr(pandas, name, None)) is not None]
        self._wanted: list[tuple[type, Kind]] = []
        if self._torch is not None:
            self._wanted.append((torch.Tensor, "tensor"))
            for room, name, kind in (("nn", "Module", "module"), ("optim", "Optimizer", "optimizer")):
                found = getattr(getattr(torch, room, None), name, None)
                self._wanted += [(found, kind)] if isinstance(found, type) else []  # type: ignore[list-item]
        self._wanted += [(kind, "array") for kind in (self._array, *self._tables) if kind is not None]
        self._kinds: dict[type, Kind | None] = {}

    @property
    def any(self) -> bool:
        """Whether there can be something to find at all."""
        return bool(self._wanted)

    def kind(self, one: Any) -> Kind | None:
        """What it is, by its class."""
        cls = type(one)
        if cls not in self._kinds:
            up = bases(cls)
            self._kinds[cls] = next((kind for base, kind in self._wanted if base in up), None)
        return self._kinds[cls]

    def storages(self, tensor: Any) -> list[Storage]:
        """The memory behind a tensor: one piece, or several where it is sparse, or none of its own."""
        with self._plainly():
            return [found for piece in self._pieces(tensor) if (found := self._storage(piece)) is not None]

    def gradient(self, tensor: Any) -> Any:
        """Its `.grad`; None where there is none. Asked of a tensor that is no leaf, torch would warn."""
        base = self._torch._C.TensorBase
        with self._plainly():
            try:
                return base.grad.__get__(tensor) if base.is_leaf.__get__(tensor) else None
            except Exception:
                return None

    def has_graph(self, tensor: Any) -> bool:
        """Whether it comes from a computation that needs gradients; no object is made of that to find out."""
        with self._plainly():
            try:
                return not self._torch._C.TensorBase.is_leaf.__get__(tensor)
            except Exception:
                return False

    def graph(self, tensor: Any) -> Any:
        """The node of the computation it comes from; None where nothing of that needs gradients."""
        with self._plainly():
            try:
                return self._torch._C.TensorBase.grad_fn.__get__(tensor)
            except Exception:
                return None

    def described(self, tensor: Any, held: int = 0) -> str:
        """`float16 [32, 2048]`, and `a view of 1.2 GiB` where the memory behind it, `held`, is more than it shows."""
        base = self._torch._C.TensorBase
        with self._plainly():
            try:
                dtype = str(base.dtype.__get__(tensor)).removeprefix("torch.")
                shown = f"{dtype} {list(map(int, base.shape.__get__(tensor)))}"
                if base.layout.__get__(tensor) is not self._torch.strided:
                    return shown
                return shown + _of_more(base.numel(tensor) * base.element_size(tensor), held)
            except Exception:
                return "tensor"

    def array(self, one: Any) -> tuple[Storage, str] | None:
        """The memory of a numpy array or a pandas table, and what it is; None where it is small, or lies in a file."""
        up = bases(type(one))
        try:
            if self._array is not None and self._array in up:
                whole = one
                while (base := self._array.base.__get__(whole)) is not None and type(base) is self._array:
                    whole = base
                if self._file_array in (*up, *bases(type(base))):
                    return None
                taken = int(self._array.nbytes.__get__(whole))
                dtype, shape = self._array.dtype.__get__(one), list(self._array.shape.__get__(one))
                key, what = ("cpu", int(self._array.ctypes.__get__(whole).data)), f"array {dtype} {shape}"
                what += _of_more(int(self._array.nbytes.__get__(one)), taken)
            else:
                table = next(kind for kind in self._tables if kind in up)
                used = table.memory_usage(one, index=True)  # type: ignore[attr-defined]
                taken, key = int(used if isinstance(used, int) else used.sum()), ("table", id(one))
                what = f"{table.__name__} of {len(one):,} rows"
        except Exception:
            return None
        return (Storage(key, taken, "cpu"), what) if taken >= ARRAY else None

    def _pieces(self, tensor: Any) -> Iterator[Any]:
        base = self._torch._C.TensorBase
        try:
            if base.layout.__get__(tensor) is self._torch.strided:
                yield tensor
            elif base.is_sparse.__get__(tensor):
                yield from (base._indices(tensor), base._values(tensor))
            else:
                rows = base.crow_indices(tensor), base.col_indices(tensor)
                yield from (*rows, base.values(tensor))
        except Exception:
            return

    def _storage(self, tensor: Any) -> Storage | None:
        try:
            held = self._torch._C.TensorBase.untyped_storage(tensor)
            taken, device = int(held.nbytes()), held.device
            if not taken or device.type == "meta":  # as fake tensors are, whatever device they claim
                return None
            if device.type != "cpu":
                return Storage(held._cdata, taken, f"{device.type}:{device.index or 0}")
            # by its address, as an array that shares it has; to ask a lazy copy for it would make the copy
            lazy = self._torch._C._is_cow_tensor(tensor)
            return Storage(("cpu", held._cdata if lazy else held.data_ptr()), taken, "cpu")
        except Exception:
            return None

    def _plainly(self) -> Any:
        return self._torch._C.DisableTorchFunctionSubclass()


def _of_more(shown: int, held: int) -> str:
    return f", a view of {size(held)}" if held - shown >= _OF_MORE else ""
