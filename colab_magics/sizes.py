"""How bytes are written, everywhere."""

from __future__ import annotations

_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def size(value: float | None) -> str:
    """Bytes, in the unit that suits them: `2.5 GiB`."""
    if value is None:
        return "n/a"
    for amount, unit in _UNITS:
        if value >= amount:
            return f"{value / amount:.1f} {unit}"
    return "1 byte" if round(value) == 1 else f"{value:.0f} bytes"
