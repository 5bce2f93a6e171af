"""Fixtures that every room's tests share."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

import pytest

from colab_magics import worker

# What whoever runs the tests has set for his own sessions is not theirs; theirs is young, however old his machine is.
_own = Path(tempfile.gettempdir(), f"colab_magics-tests-{os.getpid()}.toml")
_own.write_text(f"[session]\nstart = {datetime.now(timezone.utc).isoformat()}\n")
atexit.register(_own.unlink, missing_ok=True)
os.environ["COLAB_MAGICS_SESSION"] = str(_own)
os.environ.pop("COLAB_MAGICS_PLATFORM", None)

# The environment of the notebook's face has no torch, and what trains is not asked there.
collect_ignore = [] if find_spec("torch") else ["training", "inference"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real rows, tokenizers and chat templates; they live beside the repository, not in it."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Workers that start in a moment: forked from a process that has done the importing.

    A test that must start one the slow way (for another environment, or to time it) just does not use this.
    """
    with _warm_workers(tmp_path_factory.mktemp("warm"), {}) as workers:
        yield workers


@pytest.fixture(scope="session")
def warm_under(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, str]], Warm]]:
    """Makes warm workers whose libraries were imported under other variables, for those that are read only then."""
    with ExitStack() as running:
        yield lambda variables: running.enter_context(_warm_workers(tmp_path_factory.mktemp("warm"), variables))


@contextmanager
def _warm_workers(folder: Path, variables: dict[str, str]) -> Iterator[Warm]:
    here = Path(__file__).parent / "warm"
    path = folder / "socket"
    environment = {**os.environ, **worker.importable(), "OMP_NUM_THREADS": "1", **variables}
    with subprocess.Popen(
        [sys.executable, str(here / "zygote.py"), str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as zygote:
        assert zygote.stdout is not None
        assert zygote.stdout.readline() == "ready\n", "the zygote could not import the worker"
        yield Warm(here / "python", {"WARM_SOCKET": str(path), "WARM_REAL_PYTHON": sys.executable})
        zygote.kill()


@dataclass(frozen=True)
class Warm:
    """How a process starts warm workers: `sys.executable = python`, and these variables."""

    python: Path
    environment: dict[str, str]

    @property
    def cell(self) -> str:
        """What a kernel runs once, so that its `%%finetune` cells start warm workers."""
        return f"import os, sys\nsys.executable = {str(self.python)!r}\nos.environ.update({self.environment!r})"
