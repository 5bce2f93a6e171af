"""Which of the trials is the best, and the table that says so."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from colab_magics.magics.trials_shown import Told, bundle
from colab_magics.panel.curve import Curve
from colab_magics.panel.parts import Eval
from colab_magics.panel.state import PanelState
from colab_magics.panel.trials import Trial, best_of


def trial(
    name: str, ys: list[float], standing: str = "finished", evaluation: float | None = None, **values: Any
) -> Trial:
    curve = Curve()
    for step, y in enumerate(ys, start=1):
        curve = curve.add(step, y)
    evals = () if evaluation is None else (Eval(len(ys), evaluation, None, None),)
    state = PanelState(name=name, step=len(ys), total_steps=8, first_loss=ys[0], loss=ys[-1], curve=curve, evals=evals)
    return Trial(name, values, state, standing)  # type: ignore[arg-type]


def test_without_evaluation_the_best_has_the_lowest_mean_of_its_last_quarter() -> None:
    lucky = trial("a", [4, 3, 3, 3, 3, 3, 3, 1.5], r=8)  # one easy step at the end
    steady = trial("b", [4, 3, 3, 3, 3, 2, 2, 2], r=16)
    assert best_of([lucky, steady], "loss") == 1
    assert best_of([trial("a", [1], "stopped", r=8), steady], "loss") == 1
    assert best_of([trial("a", [4, float("nan")], evaluation=float("nan"), r=8)], "eval_loss") is None
    assert best_of([], "loss") is None


def test_a_trial_counts_by_its_last_evaluation_and_only_when_it_is_finished() -> None:
    begun, ended = trial("a", [4, 3], evaluation=1.0), trial("b", [4, 3], evaluation=2.0)
    assert begun.state is not None
    worse = replace(begun.state, evals=(*begun.state.evals, Eval(4, 3.0, None, None)))
    assert best_of([replace(begun, state=worse), ended], "eval_loss") == 1
    assert best_of([replace(begun, standing="training"), ended], "eval_loss") == 1
    assert best_of([begun, ended], "eval_loss") == 0


TOLD = Told("kwanzaa", "loss", "3 trials of 8 steps (trial_steps says so).", 120)


def test_the_table_says_of_each_trial_where_it_is_and_what_to_do_next() -> None:
    trials = [
        trial("t-1", [4, 3, 2], r=8),
        Trial("t-2", {"r": 16}, standing="failed", reason="Out of memory at step 1."),
        Trial("t-3", {"r": 32}),
    ]
    text = bundle(TOLD, trials, 90.0)["text/plain"]
    assert re.search(r"t-1 +8 +4\.0000 +2\.0000 .* best", text)
    assert re.search(r"t-2 +16 +failed: Out of memory at step 1\.", text)
    assert re.search(r"t-3 +32 +waiting", text)
    assert "1 to go: about 2 min." in text
    assert "Interrupt this cell" in text
    after = bundle(TOLD, trials, closed=True)["text/plain"]
    assert "Interrupt this cell" not in after
    assert "The same cell again goes on with the trials that are missing." in after
    assert "%finetune best kwanzaa trains r 8 for 120 steps" in after


@pytest.mark.parametrize(
    ("best", "says"),
    [(0, "The best r is the smallest that was tried"), (1, ""), (2, "The best r is the largest that was tried")],
)
def test_a_best_value_at_the_end_of_what_was_tried_is_said_to_be_there(best: int, says: str) -> None:
    trials = [trial(f"t-{n}", [4, 1 if n == best else 2], r=8 * 2**n) for n in range(3)]
    text = bundle(TOLD, trials, closed=True)["text/plain"]
    assert says in text
    assert says or "that was tried" not in text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.append(tag)


def test_a_hostile_name_and_reason_are_escaped() -> None:
    bad = "<script>alert(1)</script>\x1b[31m"
    frame = bundle(
        Told(bad, "loss", "", 9),
        [trial(bad, [4, 3], optim=bad), Trial(bad, {"optim": bad}, standing="failed", reason=bad)],
        closed=True,
    )
    parser = Tags()
    parser.feed(frame["text/html"])
    assert "script" not in parser.tags
    assert "svg" in parser.tags
    assert "\x1b" not in frame["text/html"] + frame["text/plain"]
