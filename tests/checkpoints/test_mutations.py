"""An altered byte is found, whichever it is, and nothing is called altered that is not."""

from __future__ import annotations

from pathlib import Path

from checkpoints.mutations import MUTATIONS, Scene, mutated, survey
from checkpoints.scenes import is_as_saved

COUNT = 2_000  # and 10,000 in `make soak`


def test_every_alteration_is_found_and_what_is_whole_is_never_called_broken(tmp_path: Path) -> None:
    found = survey(tmp_path, range(COUNT))
    assert found.missed == []
    assert (found.clean, found.false_alarms) == (COUNT // 5, 0)
    assert found.unchanged < COUNT / 100, "nearly every one must alter something"
    assert set(found.done) == {mutation.__name__ for mutation, _ in MUTATIONS}


def test_an_alteration_is_undone_afterwards(tmp_path: Path) -> None:
    scene = Scene.make(tmp_path)
    for seed in range(100):
        with mutated(scene, seed):
            pass
        assert is_as_saved(scene.newest, 2, numbers=2000)
