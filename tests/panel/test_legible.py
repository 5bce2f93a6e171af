"""The panel is legible on what notebooks have behind it, and small, whatever a run's log holds."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from colab_magics.panel.details import details
from colab_magics.panel.html import MOST_BYTES, html
from colab_magics.panel.style import STYLE

from .cases import CASES, fifty_points

pytestmark = pytest.mark.face

# what stands behind a cell's output, and the colour of its text
LIGHT = {
    "JupyterLab": ("#ffffff", "#212121"), "Colab": ("#ffffff", "#212121"), "VS Code": ("#ffffff", "#3b3b3b"),
    "GitHub": ("#ffffff", "#1f2328"),
}  # fmt: skip
DARK = {
    "JupyterLab": ("#111111", "#ffffff"), "Colab": ("#383838", "#d5d5d5"), "VS Code": ("#1f1f1f", "#cccccc"),
    "GitHub": ("#0d1117", "#e6edf3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield started
        started.close()


def rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))  # type: ignore[return-value]


def luminance(colour: tuple[float, float, float]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def dimmed(ink: str, behind: str, opacity: float) -> tuple[float, float, float]:
    mixed = [opacity * a + (1 - opacity) * b for a, b in zip(rgb(ink), rgb(behind), strict=True)]
    return mixed[0], mixed[1], mixed[2]


@pytest.mark.parametrize(
    ("behind", "ink"), [*LIGHT.values(), *DARK.values()], ids=[*LIGHT, *(f"{a} dark" for a in DARK)]
)
def test_the_dimmest_text_has_a_contrast_of_4_5(behind: str, ink: str) -> None:
    rules = [rule for rule in re.findall(r"[^{}]+\{[^{}]*\}", STYLE) if "font-size" in rule]
    dimmest = min(float(found) for rule in rules for found in re.findall(r"opacity:([.\d]+)", rule))
    assert contrast(dimmed(ink, behind, dimmest), rgb(behind)) >= 4.5


@pytest.mark.parametrize("theme", ["any", "light", "dark"])
def test_lines_dots_and_bands_have_a_contrast_of_3(theme: str) -> None:
    palettes = re.findall(r"--cm-a:#[^};]+;--cm-w:#[^};]+;--cm-r:#[^};]+;--cm-k:#[0-9a-f]{6}", STYLE)
    palette = dict(zip(("any", "dark", "light"), palettes, strict=True))[theme]
    backgrounds = {"any": {**LIGHT, "GitHub": DARK["GitHub"], "Colab": DARK["Colab"]}, "light": LIGHT, "dark": DARK}[
        theme
    ]
    for name, colour in re.findall(r"--cm-([a-z]):(#[0-9a-f]{6})", palette):
        for behind, _ in backgrounds.values():
            assert contrast(rgb(colour), rgb(behind)) >= 3, (name, colour, behind)


@pytest.mark.parametrize(
    ("page", "accent"),
    [
        ("<html theme=dark>", "96, 165, 250"), ("<html theme=light>", "37, 99, 235"),
        ("<body data-jp-theme-light=false>", "96, 165, 250"), ("<body data-jp-theme-light=true>", "37, 99, 235"),
        ("<body class=vscode-dark>", "96, 165, 250"), ("<body class=vscode-light>", "37, 99, 235"),
        ("<body>", "59, 130, 246"),
    ],
)  # fmt: skip
def test_the_theme_is_the_notebooks_and_not_the_browsers(chromium: Any, page: str, accent: str) -> None:
    for scheme in ("light", "dark"):
        tab = chromium.new_page(color_scheme=scheme)
        tab.set_content(f"<!doctype html>{page}{html(*fifty_points())}")
        colour = "getComputedStyle(document.querySelector('.cm-track>div')).backgroundColor"
        assert tab.evaluate(colour) == f"rgb({accent})"
        tab.close()


def test_no_text_has_a_colour_of_its_own() -> None:
    """A theme that nobody could tell would make it illegible: text takes the colour that is there."""
    assert set(re.findall(r"[;{]color:([^;}]+)", STYLE)) == {"inherit"}


class Bare(HTMLParser):
    """What is left of a frame where a viewer drops style, SVG and every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._dropped = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self._dropped += tag in ("style", "svg")
        if tag in ("div", "br"):
            self.text += "\n"

    def handle_endtag(self, tag: str) -> None:
        self._dropped -= tag in ("style", "svg")

    def handle_data(self, data: str) -> None:
        if not self._dropped:
            self.text += data


def test_where_style_and_chart_are_dropped_the_numbers_are_there_in_reading_order() -> None:
    bare = Bare()
    bare.feed(html(*fifty_points()))
    lines = [" ".join(line.split()) for line in bare.text.splitlines() if line.strip()]
    assert lines[0] == "kwanzaa training"
    place = [lines.index(label) for label in ("Loss", "GPU memory", "Time", "Safety")]
    assert place == sorted(place)
    after = [lines[at + 1] for at in place]
    assert after == ["0.7049, from 2.5971", "5.7 of 14.6 GiB", "about 7 min left", "saved 30 s ago, step 50"]
    assert "allocated 4.4 cached 0.9 others + CUDA 0.4" in lines
    assert not [line for line in lines if re.fullmatch(r"[\d.,\s]+", line)]  # no loose figures of an axis


def test_charts_and_bars_have_a_name_with_their_numbers() -> None:
    labels = re.findall(r'role="[a-z]+" aria-label="([^"]+)"', html(*fifty_points()))
    assert labels == [
        "step 55 of 120, epoch 4.12",
        "Training loss by step: 2.5971 at step 1, 0.7049 at step 55; evaluation 0.8061 at step 50",
        "GPU memory: 5.7 of 14.6 GiB; allocated 4.4, cached 0.9, others + CUDA 0.4, peak 4.9, estimate 5.2",
    ]


@pytest.mark.parametrize("name", [name for name in CASES if name != "crowded"])
def test_a_frame_is_about_8_kb(name: str) -> None:
    assert len(html(*CASES[name]()).encode()) < 10_000


def test_the_readmes_picture_is_drawn_from_an_example_that_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(__file__).parents[2] / "scripts" / "panel_picture.py"
    spec = importlib.util.spec_from_file_location("panel_picture", file)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # a dataclass looks itself up there
    spec.loader.exec_module(script)
    assert "Nothing in it was measured" in script.EXAMPLE.read_text(encoding="utf-8").splitlines()[0]
    panel = script.panel_at(script.read_events(script.EXAMPLE), None)
    assert "finishes " in panel
    assert len(panel.encode()) < MOST_BYTES


@pytest.mark.parametrize("width", [320, 1000])
def test_no_panel_is_wider_than_its_cell_in_a_browser(chromium: Any, width: int) -> None:
    panels = "".join(html(*case()) + details(case()[0]) for case in CASES.values())
    page = chromium.new_page(viewport={"width": width, "height": 800})
    page.set_content(f'<!doctype html><body style="margin:0">{panels}')
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tops = page.evaluate(
        "[...document.querySelectorAll('.cm-chart')].map(c => "
        "Math.abs(c.querySelector('.cm-y i:last-child').getBoundingClientRect().top + 7"
        " - c.querySelector('svg').getBoundingClientRect().top))"
    )
    assert max(tops) < 1.5  # the axis' highest figure stands at its line
