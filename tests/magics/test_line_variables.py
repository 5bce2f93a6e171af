"""A notebook's variable in braces, on the line of a magic, is its value: `%report --to {paths.outputs}/report.md`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.demo.shapes import shape_of
from colab_magics.errors import ColabMagicsError

from .reported import finished, written

pytestmark = [pytest.mark.face, pytest.mark.colab]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An IPython with the extension, in an empty folder that holds one finished run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    written(tmp_path / "runs", finished())
    made = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    made.run_line_magic("load_ext", "colab_magics")
    yield made
    made.run_line_magic("unload_ext", "colab_magics")


def test_a_report_goes_to_the_folder_that_a_variable_names(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    shell.user_ns["outputs"] = tmp_path / "outputs"
    shell.run_line_magic("report", "kwanzaa --to {outputs}/r.md")
    assert "# kwanzaa: report" in (tmp_path / "outputs" / "r.md").read_text()


@pytest.mark.parametrize("line", ["export nothing-{which}", "compare --run nothing-{which}"])
def test_a_name_may_come_from_a_variable(shell: Any, line: str) -> None:
    shell.user_ns["which"] = "seven"
    magic, _, rest = line.partition(" ")
    with pytest.raises(ColabMagicsError, match="nothing-seven"):
        shell.run_line_magic(magic, rest)


def test_the_model_of_an_estimate_may_be_a_variable(shell: Any) -> None:
    shell.user_ns["MODEL"] = shape_of("Qwen3-4B")
    shell.run_cell("made = get_ipython().run_line_magic('vram', 'estimate --model {MODEL} --gpu T4 --quick')")
    text = shell.user_ns["made"]._repr_mimebundle_()["text/plain"]
    assert "Qwen3-4B: " in text
    assert "of a Tesla T4 16 GB" in text


def test_an_unknown_variable_is_named(shell: Any) -> None:
    with pytest.raises(ColabMagicsError, match="this notebook has no variable MODLE"):
        shell.run_line_magic("vram", "estimate --model {MODLE} --gpu T4 --quick")


def test_only_shapes_that_are_written_down_can_be_had() -> None:
    with pytest.raises(ColabMagicsError, match="Did you mean Qwen3-4B"):
        shape_of("Qwen3-4")
