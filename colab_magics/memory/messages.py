"""What an error says of memory that ran out, whoever wrote it: PyTorch in its three wordings, CUDA, Metal, the host.

PyTorch's own has changed twice. Up to 2.0 the figures stand in brackets; 2.1 names processes and writes "capacty";
since 2.2 parts come and go (a limit, private pools, other processes), and 2.9 renamed the variable that it advises.
A figure has two decimals, so `requested` is only known to within `slack`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from colab_magics.sizes import size

Kind = Literal["cuda", "cuda error", "driver", "cublas", "cudnn", "nccl", "library", "mps", "cpu", "host", "retried"]
"""`cuda`: PyTorch's allocator on a GPU, of any maker. `cuda error`, `driver`, `cublas`, `cudnn`, `nccl`, `library`
(cuFFT, cuSOLVER, cuSPARSE): a library that asked the driver itself. `mps`: Metal. `cpu`: PyTorch's allocator of the
host. `host`: Python, NumPy, the system. `retried`: accelerate, which tried ever smaller batches."""

_GIB = 2**30
_CONTEXT = 2 * _GIB  # at most: CUDA's context, cuBLAS' and cuDNN's workspaces (0.11 to 0.15 GiB on a T4)
_USUAL_CONTEXT = _GIB // 2
_ROUNDING = _GIB // 64  # of three figures with two decimals each

# A RuntimeError with one of these says that memory ran out. Where another library's error is meant, nothing but its
# name for that: a wrong answer here makes the worker repeat a step that would fail again.
_RUNTIME_TEXTS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "can't allocate memory",
    "annot allocate memory",
    "not enough memory",
    "std::bad_alloc",
)
# said by errors of other types, or only worth a diagnosis
_OTHER_TEXTS = (
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
    "Invalid buffer size",
    "No executable batch size found",
    "would exceed allowed memory",
    "can NOT allocate memory block",
    "Unable to allocate",
    "std::bad_alloc",
    "MemoryError",
)
_LIBRARIES = {"CUFFT": "cuFFT", "CUSOLVER": "cuSOLVER", "CUSPARSE": "cuSPARSE", "CUBLAS": "cuBLAS", "CUDNN": "cuDNN"}
# After these the context is lost: every later call fails with the same words, and only a new process helps.
_STICKY = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "unspecified launch failure",
    "an illegal instruction was encountered",
    "misaligned address",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "uncorrectable ECC error",
)

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_SIZE = r"(\d+(?:\.\d*)?) ?(bytes|[KMGT]iB|[KMG]B)"
EVERYTHING = 2**60  # more than any card: what a message means that names no number


@dataclass(frozen=True)
class Told:
    """What one message says. Sizes in bytes; None is what it does not say.

    Attributes
    ----------
    kind : which of the closed set of messages
    generation : of PyTorch's CUDA message, "2.0", "2.1" or "2.2" (and all that came after them); "async" is the one
        of CUDA's own pool; empty for other kinds
    backend : "CUDA", "HIP", "XPU", "MPS", or "CPU"
    requested : what was asked of the driver
    slack : by how much `requested` may be off, for the message rounds
    device : the GPU's number
    total, free : of the GPU
    used : bytes of this very process on the GPU, with all that is not PyTorch's; found among `processes` where the
        message cannot tell them apart (in a container it never can)
    others : (process, bytes) of everybody else
    limit : what this process may take, where a limit was set
    allocated : in tensors
    private_pools : of these, in CUDA graphs' own pools
    unallocated : reserved by PyTorch, in no tensor
    array : (shape, dtype) that NumPy could not make
    library : that asked for its own working memory
    unsure : whether another mistake says the same
    """

    kind: Kind
    generation: str = ""
    backend: str = "CUDA"
    requested: int | None = None
    slack: int = 0
    device: int | None = None
    total: int | None = None
    free: int | None = None
    used: int | None = None
    others: tuple[tuple[int, int], ...] = ()
    limit: int | None = None
    allocated: int | None = None
    private_pools: int | None = None
    unallocated: int | None = None
    array: tuple[tuple[int, ...], str] | None = None
    library: str = ""
    unsure: bool = False

    @property
    def fragmented(self) -> bool:
        """Whether PyTorch held enough for what it asked, in pieces. Small tensors have segments of their own."""
        if self.requested is None or self.unallocated is None or self.requested <= 2 * 2**20:
            return False
        rounding = _GIB // 100 if self.generation == "2.0" else 0  # there it is a difference of two figures
        return (
            self.unallocated - rounding >= self.requested + self.slack and (self.private_pools or 0) < self.unallocated
        )

    @property
    def reserved(self) -> int | None:
        """All that PyTorch holds."""
        if self.allocated is None or self.unallocated is None:
            return None
        return self.allocated + self.unallocated

    @property
    def elsewhere(self) -> int:
        """Bytes that are neither free nor this process's nor a named one's; of the old wordings, a context less."""
        if self.total is None or self.free is None or self.backend == "MPS":
            return 0
        own = self.used if self.used is not None else None if self.reserved is None else self.reserved + _USUAL_CONTEXT
        if own is None:
            return 0
        rest = self.total - self.free - own - sum(size for _, size in self.others)
        return rest if rest > _ROUNDING else 0

    @property
    def by_others(self) -> int:
        """Bytes that other processes hold."""
        return sum(size for _, size in self.others) + self.elsewhere

    @property
    def on_host(self) -> bool:
        """Whether it is the machine's own memory that ran out."""
        return self.kind in ("cpu", "host")


def tells_of_memory(text: str) -> bool:
    """Whether a RuntimeError of this text says that memory ran out. A lost context is not that."""
    return any(word in text for word in _RUNTIME_TEXTS)


def in_words(line: str) -> str:
    """The line for a person: PyTorch's own of a CPU is one of its source code."""
    told = _cpu(line)
    if told is None or told.requested is None:
        return line
    return f"PyTorch found no room for {size(told.requested)} more in this process's memory"


def is_sticky(text: str) -> bool:
    """Whether the error has lost the CUDA context: no memory will help, only a new process."""
    return any(word in text for word in _STICKY) and not tells_of_memory(text)


def read(text: str) -> Told | None:
    """What the message says; None if it is not one of memory."""
    text = " ".join(text.split())
    if not (tells_of_memory(text) or any(word in text for word in _OTHER_TEXTS)):
        return None
    for reader in (_pytorch, _async, _mps, _cpu, _numpy):
        if (told := reader(text)) is not None:
            return told
    if "No executable batch size found" in text:
        return Told("retried", backend="")
    library = next((name for word, name in _LIBRARIES.items() if word in text), "NCCL" if "NCCL" in text else "")
    backend = "CPU" if _kind(text) == "host" else "CUDA"
    return Told(_kind(text), backend=backend, library=library, unsure="CUDNN_STATUS_NOT_SUPPORTED" in text)


def _kind(text: str) -> Kind:
    if "CUBLAS" in text:
        return "cublas"
    if "CUDNN" in text:
        return "cudnn"
    if "NCCL" in text:
        return "nccl"
    if re.search(r"CUFFT|CUSOLVER|CUSPARSE", text):
        return "library"
    if re.search(r"driver error|CUDA_ERROR_OUT_OF_MEMORY", text):
        return "driver"
    if re.search(r"CUDA|cuda runtime|HIP|cudaErrorMemoryAllocation|hipErrorOutOfMemory", text):
        return "cuda error"
    return "host"


def _pytorch(text: str) -> Told | None:
    found = re.search(r"\b(CUDA|HIP|XPU) out of memory\.|can NOT allocate memory block", text)
    if found is None:
        return None
    backend = found[1] or "XPU"
    if "more than 1EB" in text:
        return Told("cuda", backend=backend, requested=EVERYTHING)
    requested, slack = _size(text, rf"Tried to allocate {_SIZE}")
    allocated = _size(text, rf"{_SIZE} (?:is )?(?:already )?allocated(?: by PyTorch|;)")[0]
    unallocated = _size(text, rf"{_SIZE} is reserved by PyTorch but unallocated")[0]
    reserved = _size(text, rf"{_SIZE} reserved in total by PyTorch")[0]
    if reserved is not None and allocated is not None:
        unallocated = max(0, reserved - allocated)
    elif unallocated is None:
        unallocated = _size(text, rf"{_SIZE} cached")[0]  # up to 1.3, beside what is allocated
    device = re.search(r"\bGPU +(\d+)", text)
    used, others = _processes(text, allocated, unallocated)
    return Told(
        "cuda",
        _generation(text),
        backend,
        requested,
        slack,
        int(device[1]) if device else None,
        total=_size(text, rf"{_SIZE} total capacity|total capaci?ty of {_SIZE}")[0],
        free=_size(text, rf"{_SIZE} (?:is )?free")[0],
        used=used,
        others=others,
        limit=_size(text, rf"{_SIZE} allowed")[0],
        allocated=allocated,
        private_pools=_size(text, rf"with {_SIZE} allocated in private pools")[0],
        unallocated=unallocated,
    )


def _generation(text: str) -> str:
    if "total capacty" in text:
        return "2.1"
    if re.search(r"\(GPU +\d+;", text):
        return "2.0"
    return "2.2" if "has a total capacity of" in text else ""


def _processes(
    text: str, allocated: int | None, unallocated: int | None
) -> tuple[int | None, tuple[tuple[int, int], ...]]:
    """(bytes of this process, everybody else's).

    In a container the driver numbers processes as the host does, so the message calls this one by a number that
    it does not know itself by. It is the one that holds what PyTorch holds here, and a CUDA context more.
    """
    own, _ = _size(text, rf"this process has {_SIZE} memory in use")
    named = {int(one[1]): _bytes(one[2], one[3])[0] for one in re.finditer(rf"Process (\d+) has {_SIZE}", text)}
    if own is None and named:
        if allocated is not None and unallocated is not None:
            held = allocated + unallocated
            beyond = {pid: size - held for pid, size in named.items() if -_ROUNDING <= size - held <= _CONTEXT}
            mine = min(beyond, key=lambda pid: beyond[pid], default=None)
        else:  # a message that was cut off
            mine = max(named, key=lambda pid: named[pid])
        own = named.pop(mine) if mine is not None else None
    return own, tuple(named.items())


def _async(text: str) -> Told | None:
    """Of the backend that is CUDA's own pool."""
    if "would exceed allowed memory" not in text:
        return None
    requested, slack = _size(text, rf"Requested *: {_SIZE}")
    limit = _size(text, rf"memory fraction\) *: {_SIZE}")[0]
    total = _size(text, rf"Device limit *: {_SIZE}")[0]
    device = re.search(r"on device (\d+)", text)
    return Told(
        "cuda",
        "async",
        requested=requested,
        slack=slack,
        device=int(device[1]) if device else None,
        total=total,
        free=_size(text, rf"according to CUDA\) *: {_SIZE}")[0],
        limit=limit if limit is not None and total is not None and limit < total else None,
        allocated=_size(text, rf"Currently allocated *: {_SIZE}")[0],
    )


def _mps(text: str) -> Told | None:
    if "Invalid buffer size" in text:  # Metal's answer to one piece that is larger than it makes any
        requested, slack = _size(text, rf"Invalid buffer size: {_SIZE}")
        return Told("mps", backend="MPS", requested=requested, slack=slack)
    if "MPS backend out of memory" not in text:
        return None
    requested, slack = _size(text, rf"Tried to allocate {_SIZE}")
    other = _size(text, rf"other allocations: {_SIZE}")[0]
    return Told(
        "mps",
        backend="MPS",
        requested=requested,
        slack=slack,
        limit=_size(text, rf"max allowed: {_SIZE}")[0],
        allocated=_size(text, rf"MPS allocated: {_SIZE}")[0],
        others=() if other is None else ((0, other),),
    )


def _cpu(text: str) -> Told | None:
    if "DefaultCPUAllocator" not in text:
        return None
    return Told("cpu", backend="CPU", requested=_size(text, rf"tried to allocate {_SIZE}")[0])


def _numpy(text: str) -> Told | None:
    found = re.search(r"Unable to allocate", text)
    if found is None:
        return None
    requested, slack = _size(text, rf"Unable to allocate {_SIZE}")
    array = re.search(r"shape \(([\d, ]*)\) and data type (\w+)", text)
    shape = tuple(int(one) for one in re.findall(r"\d+", array[1])) if array else ()
    made = (shape, array[2]) if array else None
    return Told("host", backend="CPU", requested=requested, slack=slack, array=made)


def _size(text: str, pattern: str) -> tuple[int | None, int]:
    """(bytes, by how much they may be off) of the first size that the pattern finds."""
    found = re.search(pattern, text)
    if found is None:
        return None, 0
    number, unit = (one for one in found.groups() if one is not None)
    return _bytes(number, unit)


def _bytes(number: str, unit: str) -> tuple[int, int]:
    decimals = len(number.partition(".")[2])
    size = _UNITS[unit]
    # half of the last decimal that is written; a byte more, for the product is a float
    return round(float(number) * size), 0 if size == 1 else int(0.5 * size / 10**decimals) + 1
