"""What an attempt takes over from the one before it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

from colab_magics.training.preflight import first_start


def test_templates_are_rendered_under_the_clock_of_the_first_attempt(tmp_path: Path) -> None:
    times = ["2026-01-31T23:59:59+00:00", "2026-02-01T08:00:00+00:00"]
    started = [{"time": time, "kind": "started", "attempt": attempt} for attempt, time in enumerate(times, 1)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in started))
    assert first_start(tmp_path) == datetime(2026, 1, 31, 23, 59, 59, tzinfo=timezone.utc)
