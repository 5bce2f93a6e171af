"""What is about a model or a recipe says of a loop of one's own what it is, and a report tells what there is."""

from __future__ import annotations

import re

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.subject import of_run
from colab_magics.magics import commands, export, export_line, report, report_line

from .conftest import Died, Root


@pytest.fixture
def two_phases(root: Root) -> Root:
    with root.track(unit="tokens", total=400) as run:
        for name in ("fixed point", "prediction"):
            with run.phase(name, total=200, unit="tokens"):
                for number in range(20):
                    figures = {"loss" if name == "prediction" else "delta": 1 / (1 + number)}
                    run.log(**figures, accuracy=number / 20, tokens=10)
    return root


def test_its_report_tells_phase_by_phase_and_asks_for_nothing_that_a_loop_does_not_have(two_phases: Root) -> None:
    target = two_phases.folder / "loop.md"
    report.perform(report_line.read(["loop", "--to", str(target)]), two_phases.folder)
    told = target.read_text()
    for phase, figure in (("fixed point", "delta"), ("prediction", "loss")):
        line = rf"\| {phase} \| 20 \| 200 of 200 tokens \| {figure} 1\.0000 → 0\.0500 \| [^|]*accuracy 0\.9500"
        assert re.search(line, told), "each phase by its own figure, with the others beside it"
    assert "## Learning" in told
    for word in ("eval_data", "eval\\_data", "%compare", "%export", "not measured", "per trained token"):
        assert word not in told


def test_one_that_is_run_again_with_nothing_left_to_do_is_listed_and_reported_as_before(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for _ in range(2):
        with root.track(total=4, panel="text", save_every="1 steps") as run:
            for number in run.rest(range(4)):
                run.log(loss=1 / (1 + number))
        report.perform(report_line.read(["loop", "--to", str(root.folder / "loop.md")]), root.folder)
        page = (root.folder / "loop.md").read_text()
        told.append((commands.listing(root.folder), page.partition("## What it did")[2].partition("## Memory")[0]))
    assert told[1] == told[0]
    assert re.search(r"loop  finished  4/4   0\.2500", told[0][0])
    assert "| 4 | 4 of 4 steps | loss 1.0000 → 0.2500 |" in told[1][1]
    assert "Loss by step: 1.0000 at step 1" in told[1][1]
    said = capsys.readouterr().out
    assert "there was nothing left to do. again=True begins anew." in said
    assert "Goes on from" not in said


def test_an_attempt_that_fails_before_its_first_step_is_listed_where_the_run_stands(root: Root) -> None:
    for died_at in (3, 0):
        with pytest.raises(Died), root.track(total=9, save_every="1 steps") as run:
            for number in run.rest(range(9)):
                if run.step >= died_at:
                    raise Died
                run.log(loss=number)
    assert re.search(r"loop  failed  3/9   2\.0000", commands.listing(root.folder))


def test_it_is_not_asked_and_not_exported_and_its_modules_are_pointed_at(two_phases: Root) -> None:
    for name in (None, "loop"):
        with pytest.raises(ColabMagicsError, match="loop is a loop of your own: only its code can ask it"):
            of_run(name, two_phases.folder)
        with pytest.raises(ColabMagicsError, match="hold modules that only your code knows"):
            export.perform(export_line.read([name] if name else []), two_phases.folder)


def test_of_one_that_failed_its_report_says_why_and_what_no_checkpoint_has(root: Root) -> None:
    with pytest.raises(ValueError, match="by hand"), root.track(total=20) as run:
        for _ in range(14):
            run.log(loss=1.0)
        raise ValueError("broken by hand")
    target = root.folder / "loop.md"
    report.perform(report_line.read(["--run", "loop", "--to", str(target)]), root.folder)
    told = target.read_text()
    assert "broken by hand" in told
    assert "None of its 14 steps was saved." in told
    assert "14 of 14" not in told


def test_trials_have_no_report_in_common_and_it_says_which_there_is(root: Root) -> None:
    for number in (1, 2):
        with root.track(f"t-trial-{number}") as run:
            run.log(loss=1.0)
    with pytest.raises(ColabMagicsError, match="t has 2 trials") as raised:
        report.perform(report_line.read(["t"]), root.folder)
    assert raised.value.next_steps[0].startswith("%finetune best t ")
