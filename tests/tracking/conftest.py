"""A root for the runs of one test, and the shortest way to a tracked loop there."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import colab_magics

# The environment of the notebook's face has no torch.
collect_ignore = [] if find_spec("torch") else ["test_state.py", "test_kills.py", "test_values.py", "test_kernel.py"]


class Root:
    """Where the runs of a test are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def track(self, name: str = "loop", state: dict[str, Any] | None = None, **options: Any) -> Any:
        given = {"panel": "off", "replica": "none", "root": self.folder, "unit": "steps", **options}
        return colab_magics.track(name, state, **given)

    def run(self, name: str = "loop") -> colab_magics.Run:
        return colab_magics.Run(self.folder / name)

    def events(self, name: str = "loop", kind: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / name / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind or not kind]

    def checkpoints(self, name: str = "loop") -> list[str]:
        return sorted(path.name for path in (self.folder / name / "checkpoints").iterdir())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    return Root(tmp_path / "runs")


class Died(Exception):
    """What a loop is ended by in a test, in the middle of a step."""


@pytest.fixture
def broken_off(root: Root) -> Callable[..., None]:
    """Counts to `at` and breaks off, having saved every second step."""

    def count(at: int, state: dict[str, Any] | None = None, **options: Any) -> None:
        with pytest.raises(Died), root.track(state=state, save_every="2 steps", **options) as run:
            for number in run.rest(range(100)):
                run.log(loss=1 / (1 + number))
                if run.step == at:
                    raise Died

    return count
