"""Runs the notebooks as rehearsals, each once for all of its tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "notebooks"))


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Runs a notebook in an empty folder; gives the text of each tagged cell by its tag, and the folder as `folder`."""
    from rehearse import rehearse, tagged

    done: dict[str, dict[str, str]] = {}

    def run(name: str) -> dict[str, str]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
            notebook = rehearse(name, folder, PYTHONPATH=path, OMP_NUM_THREADS="1")
            done[name] = {**tagged(notebook), "folder": str(folder)}
        return done[name]

    return run
