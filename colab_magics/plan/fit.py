"""From a run's peak to what its device must hold, and whether it does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from colab_magics.plan.facts import GIB, Device

Colour = Literal["green", "amber", "red"]

# Shares of what the driver says there is. Below the first the estimate's error and the holes between tensors do not
# matter; above the second nothing is left for them.
GREEN, RED = 0.88, 0.97
# Of the peak: holes between tensors, with expandable segments, as the worker has them.
_HOLES = 0.05
# CUDA itself, with modules loaded lazily: 0.107 to 0.150 GiB in nine messages of T4s. Nothing was found for newer cards
# but that it is more (PyTorch pull request 86509: 287 MB).
_CONTEXT, _CONTEXT_SINCE_8 = round(0.13 * GIB), round(0.45 * GIB)
# Of a process that has imported torch, transformers and peft, before it has a model.
_LIBRARIES = round(0.6 * GIB)


@dataclass(frozen=True)
class Fit:
    """A peak on a device. Bytes.

    Attributes
    ----------
    peak : int
        What the allocator hands out at the highest point.
    holes, context : int
        What comes on top: fragmentation, and CUDA itself (on a CPU: the libraries).
    held : int
        What others hold there already.
    total : int
        What there is.
    cap : int, optional
        What the run may take of it, if the recipe says so.
    """

    peak: int
    holes: int
    context: int
    held: int
    total: int
    cap: int | None = None

    @property
    def need(self) -> int:
        """All that the run takes of the device."""
        return self.peak + self.holes + self.context

    @property
    def room(self) -> int:
        """All that it can have."""
        left = self.total - self.held
        return left if self.cap is None else min(left, self.cap + self.context)

    @property
    def capped(self) -> bool:
        """Whether it is `max_memory` that says how much it can have."""
        return self.cap is not None and self.room < self.total - self.held

    @property
    def colour(self) -> Colour:
        """`green`: it fits; `amber`: it should; `red`: it does not."""
        for name, share in (("green", GREEN), ("amber", RED)):
            if self.need <= _usable(share, self.total, self.held, self.cap, self.context):
                return name  # type: ignore[return-value]
        return "red"

    def cannot(self, error: float) -> bool:
        """Whether it is out of the question, even if the estimate is too high by that share."""
        return self.peak * (1 - error) + self.context > self.room


def fit(peak: int, device: Device, *, cap: int | None = None) -> Fit:
    """That peak on that device.

    Parameters
    ----------
    cap : bytes that torch's allocator may take there (`max_memory`)
    """
    return Fit(peak, int(_HOLES * peak), context_of(device), max(0, device.total - device.free), device.total, cap)


def context_of(device: Device) -> int:
    """Bytes that are taken before the first tensor."""
    if device.kind == "cpu":
        return _LIBRARIES
    return _CONTEXT if device.capability is not None and device.capability < (8, 0) else _CONTEXT_SINCE_8


def budget(device: Device, *, cap: int | None = None) -> int:
    """The highest peak that is green there."""
    context = context_of(device)
    usable = _usable(GREEN, device.total, max(0, device.total - device.free), cap, context)
    return max(0, int((usable - context) / (1 + _HOLES)))


def cap_for(peak: int) -> str:
    """The least `max_memory`, as a recipe writes it, under which that peak is green."""
    wanted = (peak + int(_HOLES * peak)) / GREEN
    if wanted < GIB:
        return f"{math.ceil(wanted / 2**20)} MiB"
    return f"{math.ceil(10 * wanted / GIB) / 10:.1f} GiB"


def _usable(share: float, total: int, held: int, cap: int | None, context: int) -> float:
    left = share * total - held
    return left if cap is None else min(left, share * cap + context)
