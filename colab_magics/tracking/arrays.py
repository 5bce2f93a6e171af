"""Tensors of torch and arrays of numpy, as bytes and back. Neither library is imported: only what is there is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from colab_magics.checkpoints.tensors import SIZES, Tensor

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def is_torch(value: Any) -> bool:
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def is_numpy(value: Any) -> bool:
    """Whether it is an array, or one number of numpy's."""
    numpy = sys.modules.get("numpy")
    kinds = (getattr(numpy, "ndarray", None), getattr(numpy, "generic", None))
    return None not in kinds and isinstance(value, kinds)  # type: ignore[arg-type]


def is_array(value: Any) -> bool:
    return is_torch(value) or is_numpy(value)


def why_not(value: Any) -> str:
    """Why its bytes cannot be written; empty where they can."""
    if is_torch(value):
        return _why_not_torch(value)
    if type(value).__module__ != "numpy":
        return f"It is a {type(value).__name__}, a kind of array of its own."
    if value.dtype.hasobject or value.dtype.names or value.dtype.kind not in "biufcM":
        return f"It is an array of {value.dtype}, which holds Python's objects or fields, and no numbers."
    if not value.dtype.isnative:
        return f"It is an array of {value.dtype}, in the order of bytes of another machine; astype makes it this one's."
    return ""


def _why_not_torch(value: Any) -> str:
    torch: Any = sys.modules["torch"]
    if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
        return "It is a lazy parameter, whose shape is not known before its first batch."
    if value.device.type == "meta":
        return "It is on the device meta: it has a shape, and no numbers."
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        return f"It is a tensor of layout {value.layout}, and not of plain numbers; to_dense() makes it one."
    try:
        held = value.numel() == 0 or value.untyped_storage().nbytes() > 0
    except (RuntimeError, NotImplementedError):
        held = False
    return "" if held else f"It is a {type(value).__name__}, which is put together of other tensors."


def described(value: Any) -> dict[str, Any]:
    """What tells one tensor from another kind of it: library, dtype and shape."""
    if is_torch(value):
        return {"library": "torch", "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    numpy: Any = sys.modules["numpy"]
    scalar = {"scalar": True} if isinstance(value, numpy.generic) else {}
    return {"library": "numpy", "dtype": str(value.dtype), "shape": list(value.shape), **scalar}


def spoken(told: Mapping[str, Any]) -> str:
    """A description in words: `float32 (10, 4)`."""
    return f"{told['dtype']} {tuple(told['shape'])}"


def place(value: Any) -> tuple[Any, ...] | None:
    """Equal for two names of the same numbers; None where that says nothing."""
    if is_torch(value):
        if not value.numel():
            return None
        return ("torch", value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
    if not value.shape or not value.size:
        return None
    return ("numpy", value.__array_interface__["data"][0], str(value.dtype), value.shape, value.strides)


class HostCopies:
    """Memory on the host into which tensors are copied, kept from one snapshot to the next.

    New memory costs more than the copy itself: each page of it is faulted in at its first touch.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def of(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of `tensors`; those of the call before are overwritten."""
        copies, on_gpu = {}, False
        for name, one in tensors.items():
            if is_torch(one):
                copies[name] = self._of_torch(name, one)
                on_gpu |= one.is_cuda
            else:
                copies[name] = one.copy()
        if on_gpu:
            sys.modules["torch"].cuda.synchronize()
        self._kept = copies
        return copies

    def _of_torch(self, name: str, one: Any) -> Any:
        torch: Any = sys.modules["torch"]
        kept: Any = self._kept.get(name)
        if not is_torch(kept) or kept.shape != one.shape or kept.dtype != one.dtype:
            kept = torch.empty(one.shape, dtype=one.dtype, pin_memory=one.is_cuda)
        with torch.no_grad():
            kept.copy_(one.detach(), non_blocking=one.is_cuda)
        return kept


def buffer(value: Any) -> Tensor:
    """The bytes of a tensor on the host, or an array. A dtype that the files do not know is written as bytes."""
    told = described(value)
    dtype = _DTYPES.get(told["dtype"])
    if is_torch(value):
        torch: Any = sys.modules["torch"]
        data = memoryview(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    else:
        numpy: Any = sys.modules["numpy"]
        data = memoryview(numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8))
    if dtype is None:
        return Tensor("U8", (data.nbytes,), data)
    return Tensor(dtype, tuple(told["shape"]), data)


def size(value: Any) -> int:
    """Bytes of a tensor or an array."""
    return int(value.nbytes)


def made(read: Tensor, told: Mapping[str, Any]) -> Any:
    """The tensor or array that was described so, with the bytes that were read, and memory of its own.

    Raises
    ------
    ValueError
        Its library is not imported, or the bytes are of another dtype or shape.
    """
    dtype, shape = told["dtype"], tuple(told["shape"])
    known = _DTYPES.get(dtype)
    if (known or "U8") != read.dtype or (known and shape != read.shape):
        raise ValueError(f"the file holds {read.dtype} {read.shape}, and not {spoken(told)}")
    assert read.dtype in SIZES
    if told["library"] == "torch":
        torch: Any = sys.modules.get("torch")
        if torch is None:
            raise ValueError("it holds tensors of torch, which is not imported here")
        if not read.data.nbytes:
            return torch.empty(shape, dtype=getattr(torch, dtype))
        return torch.frombuffer(read.data, dtype=torch.uint8).clone().view(getattr(torch, dtype)).reshape(shape)
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        raise ValueError("it holds arrays of numpy, which is not imported here")
    array = numpy.frombuffer(bytearray(read.data), dtype=numpy.dtype(dtype)).reshape(shape)
    return array[()] if told.get("scalar") else array


def on_host(value: Any) -> Any:
    """The tensor or array where its bytes can be read."""
    return value.detach().cpu() if is_torch(value) else value
