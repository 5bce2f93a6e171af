"""What can be wrong with the machine: libraries that break the worker, or are too old, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.run import Run

from .conftest import ROWS, SHORT, OpenNotebook

pytestmark = pytest.mark.xdist_group("worker-errors")

Plant = Callable[[dict[str, str]], Path]
CELL = f"%%finetune run\nmodel: demo\ndata: {ROWS}\n{SHORT}method: lora"

# As stock Colab has it: the metadata say 0.10.0, peft then raises an ImportError, and importing it fails as well.
OLD_TORCHAO = {
    "torchao-0.10.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n",
    "torchao-0.10.0.dist-info/RECORD": "",
    "torchao/__init__.py": "raise ImportError('torchao 0.10.0 does not work with this torch')\n",
}


@pytest.mark.colab
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


def test_a_bitsandbytes_without_gpu_code_is_found_before_it_is_used() -> None:
    """The build of a machine without a GPU is such a one."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("the bitsandbytes of this machine has GPU code")
    from colab_magics.training.optim import check_bitsandbytes

    for method, optim in (("qlora", "adamw_torch_fused"), ("lora", "adamw_8bit")):
        with pytest.raises(ColabMagicsError, match="has none") as refused:
            check_bitsandbytes(method, optim, "cuda")
        assert 3 <= len(refused.value.lines()) <= 8
        check_bitsandbytes(method, optim, "cpu")
    check_bitsandbytes("lora", "adamw_torch_fused", "cuda")


_NO_BITSANDBYTES = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bitsandbytes":
            raise ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes")

sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({"sitecustomize.py": _NO_BITSANDBYTES}, ["not installed"]),
        ({"bitsandbytes/__init__.py": "raise OSError('libcusparse.so.11: no such file')"}, ["libcusparse.so.11"]),
    ],
    ids=["missing", "broken"],
)
def test_bitsandbytes_missing_or_broken_is_said_only_to_those_who_need_it(
    open_notebook: OpenNotebook, tmp_path: Path, planted: Plant, files: dict[str, str], facts: list[str]
) -> None:
    planted(files)
    notebook = open_notebook(tmp_path / "notebook")
    cell = CELL.replace("method: lora", "method: qlora")
    notebook.refuses(cell, "method: qlora", *facts, "pip install", "method: lora")
