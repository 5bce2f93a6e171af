"""The same cells on Kaggle, Lightning, Paperspace and a plain machine: folders made, data found, a run trained."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROWS, Home, Kernel

pytestmark = [pytest.mark.xdist_group("same-notebook"), pytest.mark.colab]

SETUP = "%session setup --out paths"
TRAIN = "%%finetune {name} --out run\nmodel: demo\ndata: my_rows.jsonl\nmax_steps: 2\neffective_batch_size: 1"


@pytest.fixture(scope="module")
def home(home: Home) -> Home:
    home.environment["COLAB_MAGICS_SESSION"] = str(home.folder / "session.toml")
    home.environment.pop("COLAB_MAGICS_ROOT", None)
    home.environment.pop("COLAB_MAGICS_REPLICA", None)
    return home


@pytest.fixture(scope="module")
def kernel(warm: Any, kernel: Kernel) -> Kernel:
    kernel.run(warm.cell)
    return kernel


def arrives(kernel: Kernel, home: Home, platform: str, working: Path, persistent: Path | None) -> None:
    """The notebook is opened on another platform, whose folders are the test's."""
    working.mkdir(parents=True, exist_ok=True)
    # a young session, however old the machine of the tests is
    own = f"[session]\nstart = {datetime.now(timezone.utc).isoformat()}\n"
    if persistent is not None:
        persistent.mkdir(parents=True, exist_ok=True)
        own += f'[platforms.{platform}]\npersistent = "{persistent}"\n'
    (home.folder / "session.toml").write_text(own)
    kernel.run(f"%cd {working}\n%env COLAB_MAGICS_PLATFORM={platform}")


@pytest.mark.parametrize(
    ("platform", "working", "persistent", "root"),
    [
        ("kaggle", "kaggle/working", "kaggle/working", "kaggle/working"),
        ("lightning", "studio", "studio", "studio"),
        ("paperspace", "notebooks", "storage", "storage/colab_magics"),
        ("plain", "mine", None, "mine"),
    ],
)
def test_the_same_cells_work_on_each(
    kernel: Kernel, home: Home, platform: str, working: str, persistent: str | None, root: str
) -> None:
    top = home.folder / platform
    arrives(kernel, home, platform, top / working, top / persistent if persistent else None)

    ready = kernel.run(SETUP)
    assert ready.status == "ok", ready.traceback
    assert kernel.value("str(paths.root)") == repr(str(top / root))
    assert kernel.value("paths.datasets.is_dir() and paths.outputs.is_dir()") == "True"
    shutil.copyfile(ROWS, top / root / "datasets" / "my_rows.jsonl")

    trained = kernel.run(TRAIN.format(name=platform))
    assert trained.status == "ok", trained.traceback
    found = top / root / "datasets" / "my_rows.jsonl"
    assert f"my_rows.jsonl is not beside the notebook; it was found in the datasets folder: {found}." in trained.text
    assert kernel.value("run.state") == "'finished'"

    # a second time: the folders are there, and the run is shown
    assert kernel.run(SETUP).text == ready.text
    again = kernel.run(TRAIN.format(name=platform))
    assert again.status == "ok"
    assert kernel.value("run.attempts") == "1"


def test_data_that_is_nowhere_is_told_with_where_it_was_looked_for(kernel: Kernel, home: Home) -> None:
    arrives(kernel, home, "plain", home.folder / "empty", None)
    (home.folder / "empty" / "datasets").mkdir()
    reply = kernel.run(TRAIN.format(name="lost"))
    assert reply.error == "ColabMagicsError"
    here = home.folder / "empty"
    assert reply.traceback == [
        "my_rows.jsonl does not exist.",
        f"No readable file is in {here}; it was looked for in {here / 'datasets'} too.",
        "→ Check the path, or upload the file first.",
    ]
