"""A report as a person opens it: a file in a browser, light or dark, that asks nobody for anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from magics.checkpointed import Left
from magics.reported import CASES, facts

from colab_magics.magics.report_html import html
from colab_magics.magics.report_sections import report_of

from .conftest import PICTURES, Server
from .test_lab import lab

__all__ = ["lab"]

pytestmark = pytest.mark.xdist_group("lab")

CONTRAST = """
() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => {
            const part = one / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const style = getComputedStyle(document.body);
    const both = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_legible_in_light_and_dark_and_asks_nobody(browser: Any, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(report_of(facts(CASES["finished"](tmp_path / "runs")))), encoding="utf-8")
    context = browser.new_context(color_scheme=scheme, viewport={"width": 960, "height": 1200})
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: said.append(one.text))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()]
    assert said == []
    assert page.evaluate(CONTRAST) > 10
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    chart = page.locator(".cm-chart svg")
    assert chart.bounding_box()["height"] > 100
    for width in (960, 420):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), "nothing sticks out"
    page.locator("nav a", has_text="Recipe").click()
    assert page.url.endswith("#recipe")
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"report-{scheme}.png"))
    context.close()


def test_an_archive_is_downloaded_by_its_link_in_jupyterlab(lab: Server, page: Any, home: Any) -> None:
    left = Left(home.runs, "delivered")
    left.save(20)
    lab.write("delivery", "%export delivered --checkpoint 20")
    page.goto(f"{lab.url}lab/tree/delivery.ipynb?token={lab.token}&reset")
    page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    link = page.locator("a", has_text=re.compile(r"Download delivered-step-20-adapter\.zip \("))
    with page.expect_download() as waited:
        link.click()
    saved = Path(waited.value.path())
    assert saved.read_bytes() == (home.folder / "delivered-step-20-adapter.zip").read_bytes()
