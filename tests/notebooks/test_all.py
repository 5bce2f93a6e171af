"""What every notebook in notebooks/ keeps to, as a reader on GitHub, Colab or Kaggle meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
HOME = "colab-magics/colab-magics/blob/main/notebooks"
MOST_CELLS, MOST_BYTES = 14, 400_000
MACHINE = re.compile(r"(?<![\w.])/(work|tmp|home|root)/")
INSTALL = 'if find_spec("colab_magics") is None:\n    %pip install -q git+https://github.com/colab-magics/colab-magics'

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_it_is_a_valid_notebook_of_few_cells(path: Path) -> None:
    nbformat.validate(read(path))
    assert len(code(path)) <= MOST_CELLS
    assert path.stat().st_size <= MOST_BYTES
    ids = [cell["id"] for cell in read(path).cells]
    assert len(ids) == len(set(ids))


def test_it_opens_with_a_title_and_both_badges_to_itself(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    for badge, opens in (
        ("https://colab.research.google.com/assets/colab-badge.svg", "https://colab.research.google.com/github/"),
        (
            "https://kaggle.com/static/images/open-in-kaggle.svg",
            "https://kaggle.com/kernels/welcome?src=https://github.com/",
        ),
    ):
        assert f"({badge})]({opens}{HOME}/{path.name})" in first.source


def test_its_first_cell_installs_what_is_not_there(path: Path) -> None:
    source = code(path)[0].source
    assert INSTALL in source
    assert "%load_ext colab_magics" in source


def test_it_was_saved_after_it_had_run_from_top_to_bottom(path: Path) -> None:
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))
    silent = [cell.source for cell in code(path) if shows(cell) and not cell.outputs]
    assert not silent


def shows(cell: Any) -> bool:
    """Whether a cell is there to show something: it has a magic that does, prints, or ends in a value."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    magic = any(re.match(r"(\w+ = )?%%?(?!load_ext|pip|config|env)\w(?!.* --quiet)", line) for line in lines)
    return magic or lines[-1].startswith("print(") or re.fullmatch(r"[\w.]+", lines[-1]) is not None


def test_its_outputs_have_no_error_that_is_not_meant(path: Path) -> None:
    for cell in code(path):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == ("raises-exception" in cell.metadata.get("tags", [])), cell.source
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.text
            assert "Traceback (most recent call last)" not in output.get("text", "")


def test_it_names_no_path_of_a_machine_and_no_token(path: Path) -> None:
    for cell in read(path).cells:
        for text in [cell.source, *map(json.dumps, cell.get("outputs", []))]:
            found = MACHINE.search(text)
            assert found is None, text[max(0, found.start() - 80) : found.end() + 80]
            assert not re.search(r"\bhf_[A-Za-z0-9]{8,}", text)


def test_no_output_is_a_widget_without_its_kernel(path: Path) -> None:
    for cell in code(path):
        for output in cell.outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    assert "widgets" not in read(path).metadata
