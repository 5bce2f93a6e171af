"""Events as a worker writes them, at chosen times."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

BEGIN = datetime(2026, 11, 21, 6, tzinfo=timezone.utc)


def event(kind: str, at: float = 0.0, **fields: Any) -> dict[str, Any]:
    time = (BEGIN + timedelta(seconds=at)).isoformat(timespec="milliseconds")
    return {"time": time, "kind": kind, "attempt": 1, **fields}
