"""The curves of several runs are on one grid, small, escaped, and told apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from colab_magics.panel.curve import Curve
from colab_magics.panel.curves import TONES, Line, curves_html, curves_text
from colab_magics.panel.style import MOST_BYTES
from colab_magics.recipe.search import MOST

from .test_legible import DARK, LIGHT, contrast, rgb

pytestmark = pytest.mark.face


def line(label: str, ys: list[float], *, best: bool = False) -> Line:
    curve = Curve()
    for step, y in enumerate(ys, start=1):
        curve = curve.add(step, y)
    return Line(label, curve, best)


def falling(end: float, steps: int = 30) -> list[float]:
    return [4 - (4 - end) * step / steps for step in range(steps + 1)]


class Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.append(tag)


def test_each_run_has_a_line_of_its_own_colour_and_the_best_lies_above_the_others() -> None:
    drawn = curves_html([line("r 8", falling(1), best=True), line("r 16", falling(2)), line("r 32", falling(3))])
    assert re.findall(r'<path stroke="(#\w+)" stroke-width="([\d.]+)"', drawn) == [
        (TONES[1], "1.5"), (TONES[2], "1.5"), (TONES[0], "3"),
    ]  # fmt: skip
    assert "r 8 (best): 4.0000 at step 1, 1.0000 at the last" in drawn
    assert drawn.count("cm-keys") == 1


def test_a_ninth_line_is_dashed() -> None:
    drawn = curves_html([line(f"r {place}", falling(place / 9)) for place in range(9)])
    assert drawn.count("stroke-dasharray") == 1


def test_what_diverges_does_not_flatten_what_learns() -> None:
    drawn = curves_text([line("good", falling(1)), line("bad", [4, *(40 + step for step in range(30))])])
    good, bad = (text.split()[-1] for text in drawn)
    assert len(set(good)) > 5
    assert set(bad[2:]) == {"█"}


def test_a_run_of_one_step_has_no_line_and_none_is_drawn_without_any() -> None:
    assert curves_html([line("r 8", [1.0])]) == ""
    assert curves_text([line("r 8", [])]) == []
    assert "r 8" not in "".join(curves_text([line("r 8", [1.0]), line("r 16", falling(1))]))


def test_labels_are_escaped() -> None:
    drawn = curves_html([line('<script>alert("1")</script>', falling(1))])
    parser = Parser()
    parser.feed(drawn)
    assert "script" not in parser.tags


def test_as_many_long_runs_as_may_be_tried_are_small_enough_for_an_output() -> None:
    drawn = curves_html(
        [line(f"learning_rate {n}e-4", [4 + n / 20 + (step % 7) / 9 for step in range(5000)]) for n in range(MOST)]
    )
    assert len(drawn.encode()) < 0.8 * MOST_BYTES


@pytest.mark.parametrize("tone", TONES)
def test_lines_have_a_contrast_of_3_on_light_and_dark(tone: str) -> None:
    backgrounds = {LIGHT["JupyterLab"][0], DARK["JupyterLab"][0], DARK["VS Code"][0], DARK["GitHub"][0]}
    assert all(contrast(rgb(tone), rgb(behind)) >= 3 for behind in backgrounds)
