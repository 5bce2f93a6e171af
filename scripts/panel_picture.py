"""Draw docs/panel.png and docs/panel-dark.png: a run's panel as its cell shows it at one step.

    python scripts/panel_picture.py                              the example of docs/panel.md
    python scripts/panel_picture.py runs/pirate --step 36        a run of yours

The example, scripts/panel_example.jsonl, is a log written by hand in the shape of a run on a free T4: nothing in it was
measured. The run's folder is read as it is; events after the step are left out. The session is the one that the log
tells of. Needs playwright and a chromium.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.events import read_events
from colab_magics.panel.fields import amount, clock
from colab_magics.panel.html import html
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.run import Run
from colab_magics.session.here import Session
from colab_magics.session.table import load_table

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = Path(__file__).parent / "panel_example.jsonl"
PAGE = """<!doctype html><html theme="{theme}"><meta charset="utf-8">
<style>body {{ margin: 16px; background: {behind}; color: {ink}; }}</style>{panel}</html>"""


@dataclass(frozen=True)
class Picture:
    """How a picture is taken; the width is the page's."""

    name: str
    theme: str
    behind: str
    ink: str
    width: int


PICTURES = (
    Picture("panel", "light", "#ffffff", "#1f2328", 892),
    Picture("panel-dark", "dark", "#0d1117", "#e6edf3", 892),
)


def panel_at(events: list[dict[str, Any]], step: int | None) -> str:
    """Return the panel's HTML when `step`, or the last one, had just ended."""
    ends = [place for place, event in enumerate(events) if event["kind"] == "step" and step in (None, event["step"])]
    if not ends:
        raise SystemExit(f"The log has no step {step}." if step is not None else "The log has no step yet.")
    seen = events[: ends[-1] + 1] if step is not None else events
    return html(PanelState().fold_all(seen), moment_of(seen))


def moment_of(events: list[dict[str, Any]]) -> Moment:
    """A second after the last event, in the session that the log tells of."""
    now = max(filter(None, map(clock, events)))
    started = [event for event in events if event["kind"] == "started"][-1]
    platform = load_table().platforms.get(str(started.get("platform")))
    age, began = amount(started, "session_age"), clock(started)
    if platform is None or age is None or began is None:
        return Moment(now + 1)
    return Moment(now + 1, Session(platform, age=age + now - began, limit=amount(started, "session_limit")))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, nargs="?", help="the run's folder; without one, the example")
    options.add_argument("--step", type=int, help="without one, the last")
    chosen = options.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("chromium is not installed")
    from playwright.sync_api import sync_playwright

    events = read_events(EXAMPLE) if chosen.folder is None else Run(chosen.folder).history()
    panel = panel_at(events, chosen.step)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for one in PICTURES:
            page = chromium.new_page(viewport={"width": one.width, "height": 200}, device_scale_factor=2)
            page.set_content(PAGE.format(theme=one.theme, behind=one.behind, ink=one.ink, panel=panel))
            page.screenshot(path=DOCS / f"{one.name}.png", full_page=True)
            print(DOCS / f"{one.name}.png")
        chromium.close()


if __name__ == "__main__":
    main()
