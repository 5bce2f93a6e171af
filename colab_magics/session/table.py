"""What is known of the platforms and their accelerators: one dated table, every value of which can be overridden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Accelerator:
    """A device that a platform offers. Bytes; operations a second; `share` is the part of them that training gets.

    Attributes
    ----------
    capability : tuple of int, optional
        CUDA compute capability; None for a CPU.
    flops : Mapping
        Peak operations a second by precision (`fp16`, `bf16`, `fp32`).
    share : Mapping
        By precision, the part of the peak that fine-tuning has been seen to reach.
    """

    key: str
    title: str
    memory: int
    capability: tuple[int, int] | None
    flops: Mapping[str, float]
    share: Mapping[str, float]


@dataclass(frozen=True)
class Platform:
    """A kind of session. Seconds, bytes, dollars; None where nothing is known or nothing applies.

    Attributes
    ----------
    limit, idle : float, optional
        The session's longest life, and how long it may be idle. Both are estimates unless `certain`.
    activity : str
        What counts as activity, in a sentence.
    weekly : float, optional
        GPU seconds a week.
    accelerators : tuple of str
        Keys of the accelerators that it offers.
    count : Mapping
        How many of an accelerator a session has, where that is not one.
    dollars, units : Mapping
        By accelerator, what an hour costs: dollars, compute units.
    unit_price : float, optional
        Dollars a compute unit.
    persistent : str, optional
        The folder that outlives the session.
    sources : tuple of str
    as_of : str
        The date of the facts, ISO.
    """

    key: str
    title: str
    as_of: str
    limit: float | None = None
    idle: float | None = None
    activity: str = ""
    weekly: float | None = None
    disk: int | None = None
    ram: int | None = None
    accelerators: tuple[str, ...] = ()
    count: Mapping[str, int] = field(default_factory=dict)
    dollars: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)
    unit_price: float | None = None
    persistent: str | None = None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
