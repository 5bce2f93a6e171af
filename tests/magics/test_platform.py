"""Real kernels on pretended platforms: the worker is told where it is, and a broken table is told before all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import ROWS, Home, Kernel

pytestmark = pytest.mark.xdist_group("cell")

BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 1\neffective_batch_size: 2\nmax_train_samples: 8"
PRETEND_COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"


@pytest.fixture(scope="module")
def kernel(kernel: Kernel, warm: Any) -> Kernel:
    kernel.run(warm.cell)
    return kernel


@pytest.fixture
def own_table(kernel: Kernel, tmp_path: Path) -> Path:
    """The user's own table, as the kernel and its workers find it."""
    path = tmp_path / "session.toml"
    kernel.run(f"import os; os.environ['COLAB_MAGICS_SESSION'] = {str(path)!r}")
    return path


def started(home: Home, run: str) -> dict[str, Any]:
    return next(event for event in home.events(run) if event["kind"] == "started")


def test_the_worker_knows_colab_although_only_the_kernel_can_see_it(
    kernel: Kernel, home: Home, own_table: Path
) -> None:
    kernel.run(PRETEND_COLAB)
    reply = kernel.run(f"%%finetune colab --replica none\n{BODY}")
    kernel.run("del sys.modules['google.colab']")
    assert reply.status == "ok", reply.traceback
    event = started(home, "colab")
    assert (event["platform"], event["session_limit"]) == ("colab-local", None)
    assert event["session_age"] > 0


def test_the_worker_is_told_the_users_own_limit(kernel: Kernel, home: Home, own_table: Path) -> None:
    own_table.write_text('[session]\nplatform = "kaggle"\n\n[platforms.kaggle]\nlimit = "900 days"\n')
    assert kernel.run(f"%%finetune kaggle\n{BODY}").status == "ok"
    event = started(home, "kaggle")
    assert (event["platform"], event["session_limit"]) == ("kaggle", 900 * 86400)


def test_a_mistake_in_the_users_table_is_told_with_its_line_before_anything_is_begun(
    kernel: Kernel, home: Home, own_table: Path
) -> None:
    own_table.write_text('# mine\n[session]\nlimit = "10 hous"\n')
    reply = kernel.run(f"%%finetune broken\n{BODY}")
    assert reply.status == "error"
    assert reply.traceback[0] == "line 3: limit = '10 hous' is no time."
    assert str(own_table) in reply.traceback[1]
    assert not (home.runs / "broken").exists()
