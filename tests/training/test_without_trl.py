"""Without TRL, or with one that does not work, a comparison is refused in words before anything is read."""

from __future__ import annotations

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe
from colab_magics.training.preferences import library

DPO = Recipe(model="m", data="d", objective="dpo")


def test_a_missing_trl_is_named_with_what_it_drags_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(ColabMagicsError) as raised:
        library.check_trl(DPO)
    said = str(raised.value)
    assert "objective: dpo needs trl, which is not installed" in said
    assert 'pip install "trl>=0.29"' in said
    assert 'pip install "trl<1"' in said
    assert "pyarrow" in said


def test_a_trl_that_cannot_be_imported_is_told_and_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("trl needs datasets>=4.7\nand more")

    monkeypatch.setattr(library, "trainer_of", broken)
    with pytest.raises(ColabMagicsError, match=r"trl needs datasets>=4\.7") as raised:
        library.import_trl(DPO)
    assert "and more" not in str(raised.value)


def test_fine_tuning_on_answers_never_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda _: pytest.fail("it was looked for"))
    monkeypatch.setattr(library, "trainer_of", lambda _: pytest.fail("it was imported"))
    library.check_trl(Recipe(model="m", data="d"))
    library.import_trl(Recipe(model="m", data="d"))
