"""The panel as HTML and as text: complete, escaped, small, and the same for the same state."""

from __future__ import annotations

import os
import re
import statistics
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from colab_magics.panel import words
from colab_magics.panel.chart import ticks, ticks_written
from colab_magics.panel.details import details, details_text
from colab_magics.panel.html import html
from colab_magics.panel.state import PanelState
from colab_magics.panel.style import STYLE
from colab_magics.panel.text import line, sparkline, text
from colab_magics.session.table import Platform

from .cases import (
    CASES,
    at,
    cpu,
    crowded,
    evaluations,
    fifty_points,
    fifty_thousand_points,
    finished,
    gpu,
    hostile,
    no_finite_loss,
    one_point,
    prepared,
    sampled,
    spiked,
    steps,
)
from .events_of import event

pytestmark = pytest.mark.face

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("draw", "ending"), [(html, "html"), (text, "txt")])
def test_frames_are_as_they_were_looked_at(name: str, draw: Any, ending: str) -> None:
    """Golden files; after a change that was looked at in a browser, write them with GOLDEN=write."""
    frame = draw(*CASES[name]())
    path = GOLDEN / f"{name}.{ending}"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(frame + "\n", encoding="utf-8")
    assert frame + "\n" == path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Which tags a piece of HTML opens, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("br", "path", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline"):
            assert self.open.pop() == tag


ATTRIBUTES = (
    "aria-hidden aria-label aria-valuemax aria-valuemin aria-valuenow class d data-v preserveaspectratio role "
    "stroke-dasharray style viewbox"
).split()


def test_nothing_in_a_log_a_machine_or_a_table_becomes_a_tag_an_attribute_or_a_terminal_command() -> None:
    state, moment = hostile()
    for frame in (html(state, moment), details(state)):
        tags = Tags()
        tags.feed(frame)
        assert tags.open == []
        assert not {"script", "img", "iframe"} & set(tags.seen)
        assert set(tags.attributes) <= set(ATTRIBUTES)
        assert "\x1b" not in frame
    for drawn in (text(state, moment), line(state, moment), details_text(state)):
        assert "\x1b" not in drawn


@pytest.mark.parametrize("name", CASES)
def test_html_holds_no_script_and_nothing_from_the_network(name: str) -> None:
    frame = html(*CASES[name]()) + details(CASES[name]()[0])
    assert not re.search(r"<script|href=|src=|url\(|@import", frame)


def test_the_largest_frame_is_below_20_kb() -> None:
    long = "&ä" * 5000
    events = [
        *prepared(name=long, source=long, model=long, device=long),
        event("plan", choices={f"{number}{long}": {"value": long, "reason": long} for number in range(40)}),
        *[event("warning", message=f"{number}{long}") for number in range(20)],
        event("data", split="train", source=long, sample=[[long, True]] * 9, documents=1, tokens=1,
              dropped=[{"reason": f"{number}{long}", "count": 1} for number in range(50)]),
        *steps(1, 2000, total=5000),
        *evaluations(*range(200), total=5000),
        sampled(1, *(gpu(index, name=long) for index in range(64))),
        event("failed", error={"what": long, "why": long, "next": [long] * 9}),
    ]  # fmt: skip
    state, moment = PanelState().fold_all(events), at(9, platform=Platform(long, long, long, limit=9.0), flags=(long,))
    assert len(html(state, moment).encode()) < 20_000
    assert len(details(state).encode()) < 20_000


def test_what_there_is_no_room_for_is_left_out_and_counted() -> None:
    state, moment = crowded()
    frame = html(state, moment)
    assert 16_000 < len(frame.encode()) < 20_000
    assert [number for number in range(8) if f"Warning {number}:" in frame] == [6, 7]
    assert "6 earlier warnings are in the event log." in frame
    assert [number for number in range(8) if f"Warning {number}:" in text(state, moment)] == list(range(2, 8))


def test_a_run_that_failed_says_when_and_where_on_the_chart() -> None:
    state, moment = no_finite_loss()
    assert "failed after step 55" in text(state, moment).splitlines()[0]
    frame = html(state, moment)
    assert "failed after step 55" in frame
    assert '<path class="cm-f" d="M1000 0v500"/>' in frame


def test_a_spike_is_marked_and_its_height_told() -> None:
    frame = html(*spiked())
    assert 'class="cm-c"' in frame
    assert "1 cut off, up to 244.70" in frame
    assert 'data-v="3"' in frame
    assert 'data-v="200"' not in frame


def test_a_frame_of_50_000_steps_takes_little_of_the_processor() -> None:
    """Of which `benchmarks/panel_kernel.py` has the figures; here a bar that no machine misses for its load."""
    state, moment = fifty_thousand_points()
    took = []
    for _ in range(7):
        before = time.process_time()
        seen = replace(state)  # what it has worked out goes
        html(seen, moment), text(seen, moment)
        took.append(time.process_time() - before)
    assert statistics.median(took) < 0.05


def test_plan_and_data_are_apart_from_the_live_frame() -> None:
    for told in ("Plan: what was chosen", "Data: what is trained on"):
        assert told not in html(*finished())
        assert told in details(finished()[0])
    assert "bf16 would be emulated" in details_text(finished()[0])
    assert "What is Umoja?" in details_text(finished()[0])
    assert details(PanelState()) == ""
    assert details_text(PanelState()) == ""


def test_no_curve_is_drawn_below_two_points_and_a_flat_one_is_a_line() -> None:
    one, moment = one_point()
    assert "<svg" not in html(one, moment)
    assert sparkline(one) == ""
    flat = PanelState().fold_all(event("step", step=step, total_steps=9, loss=1.0) for step in range(1, 5))
    assert 'class="cm-l"' in html(flat)
    assert sparkline(flat) == "▁▁▁▁"


@pytest.mark.parametrize(
    ("low", "high", "figures"),
    [
        (0.45, 2.6, ["0", "1", "2", "3"]), (0.07, 0.85, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1.7, 2.9, ["1.5", "2.0", "2.5", "3.0"]), (1e-4, 3e-4, ["0.00010", "0.00015", "0.00020", "0.00025", "0.00030"]),
        (2.0, 2.0, ["1.50", "1.75", "2.00", "2.25", "2.50"]),
        (-1.0, 1.0, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]), (0.0, 0.0, ["-0.50", "-0.25", "0.00"]),
        (0.0, 5e-324, ["-0.50", "-0.25", "0.00"]), (0.0, 8e-6, ["0", "2e-06", "4e-06", "6e-06", "8e-06"]),
        (2.0, 2.0000008, ["2.0000000", "2.0000002", "2.0000004", "2.0000006", "2.0000008"]),
        (1_000_000.0, 1_000_004.0, ["1.000000e+06", "1.000001e+06", "1.000002e+06"]),
    ],
)  # fmt: skip
def test_the_figures_of_an_axis_are_round_and_few(low: float, high: float, figures: list[str]) -> None:
    values = ticks(low, high, 4)
    assert ticks_written(values)[: len(figures)] == figures
    assert len(set(ticks_written(values))) == len(values)
    assert values[0] <= low
    assert values[-1] >= high
    assert len(values) <= 6


def test_the_footer_says_how_to_stop_while_it_trains_and_where_the_result_is_afterwards() -> None:
    assert "Interrupt this cell" in text(*fifty_points())
    assert "detach kwanzaa" in text(*fifty_points())
    assert "Interrupt" not in text(*finished())
    assert "/content/runs/kwanzaa/adapter" in text(*finished())


def test_without_a_gpu_the_panel_says_cpu_and_nothing_of_a_gpu() -> None:
    for frame in (text(*cpu()), html(*cpu()).replace(STYLE, "")):
        assert "GPU" not in frame
        assert "CPU" in frame


@pytest.mark.parametrize(
    ("written", "as_shown"),
    [
        (words.rate(2e-4), "2e-4"), (words.rate(1.25e-5), "1.25e-5"), (words.rate(0.0), "0"),
        (words.duration(42), "42 s"), (words.duration(252), "4:12 min"), (words.duration(3720), "1:02 h"),
        (words.count(9999), "9,999"), (words.count(48_211), "48.2K"), (words.count(1_235_814_400), "1.24B"),
        (words.count(999_900), "1M"), (words.size(5.1 * 2**30), "5.1 GiB"), (words.number(None), "n/a"),
        (words.number(0.0001234567), "0.0001235"), (words.number(3.2e-7), "3.2e-07"), (words.number(0.0), "0.0000"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_have_their_unit(written: str, as_shown: str) -> None:
    assert written == as_shown
