"""The panel is legible on what notebooks have behind it, and small, whatever a run's log holds."""

from __future__ import annotations

import re

import pytest

from colab_magics.panel.style import STYLE

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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_dots_and_bands_have_a_contrast_of_3(theme: str) -> None:
    found = re.findall(
        r"--cm-([a-z]):(#[0-9a-f]{6})", STYLE.partition("prefers-color-scheme")[(theme == "dark" and 2) or 0]
    )
    colours = dict(found[:4] if theme == "dark" else found)
    assert set(colours) >= {"a", "w", "r", "k"}
    for behind, _ in (LIGHT if theme == "light" else DARK).values():
        for name, colour in colours.items():
            assert contrast(rgb(colour), rgb(behind)) >= 3, (name, colour, behind)


def test_no_text_has_a_colour_of_its_own() -> None:
    """A theme that nobody could tell would make it illegible: text takes the colour that is there."""
    assert set(re.findall(r"[;{]color:([^;}]+)", STYLE)) == {"inherit"}
