"""`%finetune recipe` and `%finetune data` with nothing to report on."""

from __future__ import annotations

from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.cell import Cell
from colab_magics.magics.display import Nowhere
from colab_magics.magics.options import Options
from colab_magics.magics.reports import data_report, recipe_report
from colab_magics.recipe import Recipe

pytestmark = pytest.mark.face


def test_recipe_alone_prints_every_key_with_its_default(tmp_path: Path) -> None:
    printed = recipe_report(Cell(Options(command="recipe"), "", {}, tmp_path, Nowhere()))
    assert all(f"\n{key}:" in f"\n{printed}" for key in Recipe.KEYS)
    assert "seed: 42  # default" in printed


def test_data_alone_says_how_data_is_given(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="names no data") as raised:
        data_report(Cell(Options(command="data"), "", {}, tmp_path, Nowhere()))
    assert "--model and --data" in raised.value.lines()[-1]
