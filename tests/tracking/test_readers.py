"""What is about a model or a recipe says of a loop of one's own what it is, and a report tells what there is."""

from __future__ import annotations

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.subject import of_run
from colab_magics.magics import export, export_line, report, report_line

from .conftest import Root


@pytest.fixture
def two_phases(root: Root) -> Root:
    with root.track(unit="tokens", total=400) as run:
        for name in ("fixed point", "prediction"):
            with run.phase(name, total=200, unit="tokens"):
                for number in range(20):
                    run.log(loss=1 / (1 + number), tokens=10)
    return root


def test_its_report_tells_phase_by_phase_and_asks_for_nothing_that_a_loop_does_not_have(two_phases: Root) -> None:
    target = two_phases.folder / "loop.md"
    report.perform(report_line.read(["loop", "--to", str(target)]), two_phases.folder)
    told = target.read_text()
    for phase in ("fixed point", "prediction"):
        assert f"| {phase} | 20 | 200 of 200 tokens | 1.0000 → 0.0500 |" in told
    assert "## Learning" in told
    for word in ("eval_data", "eval\\_data", "%compare", "%export", "not measured", "per trained token"):
        assert word not in told


def test_it_is_not_asked_and_not_exported_and_its_modules_are_pointed_at(two_phases: Root) -> None:
    for name in (None, "loop"):
        with pytest.raises(ColabMagicsError, match="loop is a loop of your own: only its code can ask it"):
            of_run(name, two_phases.folder)
        with pytest.raises(ColabMagicsError, match="hold modules that only your code knows"):
            export.perform(export_line.read([name] if name else []), two_phases.folder)
