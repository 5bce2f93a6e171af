"""Real runs of real workers, and how they end when nobody disturbs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# the driver is also a benchmark of its own, with more trials: `make soak`
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

# The environment of the notebook's face has no torch, and what trains is not asked there.
collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session")
def course_of(warm: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Trains a recipe undisturbed; those that were asked for before are there already."""
    from kills import SHORT, Course, Workers

    made: dict[str, Course] = {}

    def course(**changes: Any) -> Course:
        key = repr(sorted(changes.items()))
        if key not in made:
            workers = Workers(str(warm.python), warm.environment)
            made[key] = Course.run(tmp_path_factory.mktemp("course"), workers, {**SHORT, **changes})
        return made[key]

    return course
