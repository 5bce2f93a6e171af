"""How a report says times and how often."""

from __future__ import annotations

from colab_magics.panel import words


def seconds(value: float) -> str:
    """A duration; a short one to the hundredth."""
    return f"{value:.2f} s" if value < 10 else words.duration(value)


def times(number: int) -> str:
    """How often."""
    return "once" if number == 1 else f"{number:,} times"
