"""The first example of docs/track.md runs as it stands, twice: the second time there is nothing left to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Root

pytest.importorskip("torch")
pytestmark = pytest.mark.colab

PAGE = Path(__file__).resolve().parents[2] / "docs" / "track.md"


def test_the_example_runs_and_has_nothing_left_to_do_when_it_is_run_again(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    monkeypatch.setenv("COLAB_MAGICS_ROOT", str(root.folder))
    monkeypatch.setenv("COLAB_MAGICS_REPLICA", "none")
    for resumed in (False, True):
        namespace: dict[str, object] = {}
        exec(example, namespace)
        run = namespace["run"]
        assert (run.resumed, run.step, run.done) == (resumed, 80, 2560)  # type: ignore[attr-defined]
    assert root.run("phase1").state == "finished"
