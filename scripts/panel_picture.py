"""Draw docs/panel.png and docs/panel-dark.png: a run's panel as its cell showed it at one step.

    python scripts/panel_picture.py runs/pirate 36

The events of the run are real; those after the step are left out. Needs chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from colab_magics.panel.html import html
from colab_magics.panel.state import PanelState
from colab_magics.run import Run

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 792, 430
PAGE = """<!doctype html><html theme="{theme}"><meta charset="utf-8">
<style>body {{ margin: 16px; overflow: hidden; background: {background}; color: {color}; }}</style>{panel}</html>"""
THEMES = {"panel": ("light", "#ffffff", "#1f2328"), "panel-dark": ("dark", "#0d1117", "#e6edf3")}


def panel_at(folder: Path, step: int) -> str:
    """Return the panel's HTML when `step` had just ended."""
    events = Run(folder).history()
    last = next(place for place, event in enumerate(events) if event["kind"] == "step" and event["step"] == step)
    return html(PanelState(name=folder.name).fold_all(events[: last + 1]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, help="the run's folder")
    options.add_argument("step", type=int)
    chosen = options.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("chromium is not installed")
    panel = panel_at(chosen.folder, chosen.step)
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (theme, background, color) in THEMES.items():
            page = Path(scratch) / f"{name}.html"
            page.write_text(PAGE.format(theme=theme, background=background, color=color, panel=panel), encoding="utf-8")
            subprocess.run(
                [
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--force-device-scale-factor=2",
                    f"--window-size={WIDTH},{HEIGHT}",
                    f"--screenshot={DOCS / f'{name}.png'}",
                    page.as_uri(),
                ],
                check=True,
                capture_output=True,
            )


if __name__ == "__main__":
    main()
