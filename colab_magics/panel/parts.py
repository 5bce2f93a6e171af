"""What a panel shows is made of these: values that the run's events have told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a preparing phase is; `total` is None where nobody knows."""

    phase: str
    done: float
    total: float | None
    unit: str


@dataclass(frozen=True)
class Data:
    """One split of the data, as the preflight found it.

    Attributes
    ----------
    samples, kind : int, optional, str
        How many there are to train on, and of what: documents, pairs of answers, judged examples.
    truncated : int
        How many texts lose their end; a pair has two.
    """

    split: str
    source: str
    format: str
    samples: int | None
    tokens: int | None
    trained_tokens: int | None
    max_length: int | None
    truncated: int
    dropped: tuple[tuple[str, int], ...]
    lengths: tuple[tuple[str, float], ...]
    mask_method: str
    cached: bool
    notes: tuple[str, ...]
    sample: tuple[tuple[str, bool], ...]
    kind: str = "documents"


@dataclass(frozen=True)
class Model:
    """The model that is trained; counts of parameters, size in bytes."""

    id: str
    method: str
    parameters: int | None
    trainable: int | None


@dataclass(frozen=True)
class Choice:
    """What the plan chose, and why."""

    key: str
    value: str
    reason: str


@dataclass(frozen=True)
class Eval:
    """One evaluation; `margin` where answers are compared, by how much the preferred ones are."""

    step: int
    loss: float
    perplexity: float | None
    accuracy: float | None
    seconds: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something the person should see: a warning, an OOM and what was done about it."""

    kind: str
    text: str


@dataclass(frozen=True)
class Mark:
    """When a step ended (seconds since the epoch), and how long it took, the evaluation before it left out."""

    step: int
    clock: float
    seconds: float | None


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells it. Bytes, degrees Celsius, watts; None where it could not be asked."""

    index: int
    name: str
    total: float | None
    used: float | None
    utilisation: float | None = None
    temperature: float | None = None
    power: float | None = None


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: the cards', torch's on the first of them, and the host's.

    Attributes
    ----------
    allocated, reserved : float, optional
        What torch has given to tensors, and what it holds for that: the difference is its cache.
    peak : float, optional
        The most that was allocated since the attempt began.
    host_total, host_used, resident : float, optional
        Of the machine, and of the worker process alone.
    cores : float, optional
        How many of the machine's cores the worker keeps busy.
    """

    gpus: tuple[Gpu, ...] = ()
    allocated: float | None = None
    reserved: float | None = None
    peak: float | None = None
    host_total: float | None = None
    host_used: float | None = None
    resident: float | None = None
    cores: float | None = None


@dataclass(frozen=True)
class Prior:
    """How long the training would take, guessed before its first step. Seconds."""

    low: float
    mid: float
    high: float


@dataclass(frozen=True)
class Saved:
    """The newest checkpoint of this attempt; bytes, and the seconds that the training waited for it."""

    step: int
    size: int | None
    stall: float | None
    share: float | None
    clock: float | None = None


@dataclass(frozen=True)
class Copied:
    """What the durable copy is at: `state` is one of the replica's words."""

    state: str
    where: str
    step: int | None
    left: int | None
    message: str
