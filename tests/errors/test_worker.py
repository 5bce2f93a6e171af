"""What can be wrong with the machine: libraries that break the worker, or are too old, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from colab_magics.run import Run

from .conftest import ROWS, SHORT, OpenNotebook

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("worker-errors")]

Plant = Callable[[dict[str, str]], Path]
CELL = f"%%finetune run\nmodel: demo\ndata: {ROWS}\n{SHORT}method: lora"

# As stock Colab has it: the metadata say 0.10.0, peft then raises an ImportError, and importing it fails as well.
OLD_TORCHAO = {
    "torchao-0.10.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n",
    "torchao-0.10.0.dist-info/RECORD": "",
    "torchao/__init__.py": "raise ImportError('torchao 0.10.0 does not work with this torch')\n",
}


def test_an_old_torchao_changes_nothing(open_notebook: OpenNotebook, planted: Plant, tmp_path: Path) -> None:
    planted(OLD_TORCHAO)
    notebook = open_notebook(tmp_path / "notebook")
    said = notebook.run(CELL)
    assert said.error is None, said.error
    run = Run(notebook.folder / "runs" / "run")
    assert run.state == "finished"
    assert run.adapter_path is not None
    assert not [event for event in run.events() if "torchao 0.10" in str(event)]
    assert "torchao" not in (run.folder / "worker-01.log").read_text()


def test_a_library_that_cannot_be_imported_is_named(
    open_notebook: OpenNotebook, planted: Plant, tmp_path: Path
) -> None:
    planted({"transformers/__init__.py": "raise ImportError('libcublas.so.12: cannot open shared object file')\n"})
    notebook = open_notebook(tmp_path / "notebook")
    notebook.refuses(CELL, "The worker failed while", "ImportError", "libcublas.so.12", "--traceback")


def test_a_worker_that_cannot_even_begin_ends_the_cell_with_the_end_of_its_log(
    open_notebook: OpenNotebook, planted: Plant, tmp_path: Path
) -> None:
    """Nothing of ours has run by then, so that nothing of ours can say why."""
    planted({"colab_magics/__init__.py": "raise RuntimeError('half an installation')\n"})
    notebook = open_notebook(tmp_path / "notebook")
    notebook.refuses(CELL, "ended without a word before its first step", "half an installation", "code 1")


@pytest.mark.parametrize(
    ("planted_file", "text", "facts"),
    [
        # an allocation that no machine can give
        ("transformers/__init__.py", "bytearray(1 << 60)\n", ["memory ran out", "smaller model"]),
        # a limit, as containers and shared machines set it
        (
            "sitecustomize.py",
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n",
            ["signal", "end of its log"],
        ),
    ],
    ids=["MemoryError", "limit"],
)
def test_host_memory_that_runs_out_ends_the_cell_in_a_few_lines(
    open_notebook: OpenNotebook, planted: Plant, tmp_path: Path, planted_file: str, text: str, facts: list[str]
) -> None:
    planted({planted_file: text})
    notebook = open_notebook(tmp_path / "notebook")
    notebook.refuses(CELL, *facts)
