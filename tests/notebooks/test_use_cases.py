"""docs/use-cases.md names the cell that serves each want, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "use-cases.md").read_text(encoding="utf-8")
PROJECTS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
# a recipe's key has a colon, and a call a dot
TAG = re.compile(r"`([a-z0-9-]+)`")


def wants(project: str) -> list[tuple[str, str]]:
    """(want, the cells that serve it) of each row."""
    rows = re.findall(r"^\| (.+?) \| ((?:(?!\\\|).)+?) \|$", project, re.MULTILINE)
    return [(want, cells) for want, cells in rows if want != "wanted"]


def test_there_are_the_five_projects_each_with_a_notebook_of_its_own() -> None:
    notebooks = [re.search(r"\]\(\.\./notebooks/(\w+\.ipynb)\)", project) for project in PROJECTS]
    assert [project[:2] for project in PROJECTS] == ["A.", "B.", "C.", "D.", "E."]
    assert len({found[1] for found in notebooks if found}) == 5


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project[0])
def test_every_cell_that_the_table_names_is_in_the_notebook(project: str) -> None:
    (path,) = re.findall(r"\]\(\.\./(notebooks/\w+\.ipynb)\)", project)
    cells = nbformat.read(REPOSITORY / path, as_version=4).cells
    tags = {tag for cell in cells if cell.cell_type == "code" for tag in cell.metadata.get("tags", [])}
    headings = {heading for cell in cells for heading in re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)}
    rows = wants(project)
    assert len(rows) == project.count("\n| ") - 1  # the head's; its rule begins without a space
    for want, served in rows:
        named, under = set(TAG.findall(served)), set(re.findall(r"“(.+?)”", served))
        assert named or under, f"no cell for: {want}"
        assert named <= tags, f"{path} has no cell tagged {named - tags}: {want}"
        assert under <= headings, f"{path} has no heading {under - headings}: {want}"
