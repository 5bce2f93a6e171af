"""The panel as HTML and as text: complete, escaped, small, and the same for the same state."""

from __future__ import annotations

import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from colab_magics.panel import words
from colab_magics.panel.html import html
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import line, sparkline, text

from .test_state import event

pytestmark = pytest.mark.face

GOLDEN = Path(__file__).parent / "golden"


def prepared(name: str = "kwanzaa", source: str = "train.jsonl", model: str = "org/model") -> list[dict[str, Any]]:
    return [
        event("started", name=name),
        event(
            "data", split="train", source=source, format="messages", documents=105, tokens=48_211,
            trained_tokens=20_111, lengths={"p50": 311, "p99": 1022, "max": 1380}, max_length=1024, truncated=2,
            dropped=[{"reason": "the answer is empty", "count": 2}], mask_method="prefix difference",
            sample=[["What is Umoja?\n", False], ["Unity.", True]],
        ),
        event("model", id=model, method="lora", parameters=1_235_814_400, trainable_parameters=11_272_192),
        event("plan", device="Tesla T4, 14.6 GiB", choices={
            "precision": {"value": "fp16", "reason": "capability 7.5: bf16 would be emulated"},
            "total_steps": {"value": 40, "reason": "3 epochs of 105 documents"},
        }),
    ]  # fmt: skip


def trained(first: int, last: int, total: int = 40) -> list[dict[str, Any]]:
    return [
        event(
            "step",
            at=1.5 * step,
            step=step,
            total_steps=total,
            epoch=step / 13,
            loss=0.4 + 2.4 * math.exp(-step / 9),
            learning_rate=2e-4 * (1 - step / total),
            tokens=1500 * step,
            tokens_per_second=1154.2,
        )
        for step in range(first, last + 1)
    ]


def loading() -> PanelState:
    progress = event("progress", phase="downloading", done=1.3e9, total=2.47e9, unit="bytes")
    return PanelState().fold_all([*prepared(), progress])


def midway() -> PanelState:
    more = [
        event("eval", step=20, loss=1.1, perplexity=3.0, token_accuracy=0.71),
        event("memory", reserved=5.1 * 2**30, peak=6.2 * 2**30, total=14.6 * 2**30),
        event("oom", step=21, micro_batch=2, documents=2),
        event("recovered", step=21, micro_batch=1, gradient_checkpointing=True),
    ]
    return PanelState().fold_all([*prepared(), *trained(1, 20), *more, *trained(21, 25)])


def finished() -> PanelState:
    end = event("finished", step=40, total_steps=40, reason="completed", first_loss=2.55, last_loss=0.43,
                path="/content/runs/kwanzaa/adapter", seconds=331.0, tokens=60_000)  # fmt: skip
    return midway().fold_all([*trained(26, 40), end])


STATES = {"loading": loading, "midway": midway, "finished": finished}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize(("draw", "ending"), [(html, "html"), (text, "txt")])
def test_frames_are_as_they_were_looked_at(name: str, draw: Any, ending: str) -> None:
    """Golden files; after a change that was looked at in a browser, write them with GOLDEN=write."""
    frame = draw(STATES[name]())
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
    "aria-label aria-valuemax aria-valuemin aria-valuenow class d fill points preserveaspectratio role stroke "
    "stroke-linecap stroke-linejoin stroke-width style vector-effect viewbox"
).split()
HOSTILE = "<script>alert(1)</script>\x1b[31m\" onload=x '<img src=x onerror=y>"


def hostile() -> PanelState:
    events = [
        *prepared(name=HOSTILE, source=HOSTILE, model=HOSTILE),
        event("progress", phase=HOSTILE, done=1, total=2, unit=HOSTILE),
        *trained(1, 3),
        event("warning", message=HOSTILE),
        event("oom", step=1, message=HOSTILE),
        event("data", split="eval", source=HOSTILE, format=HOSTILE, dropped=[{"reason": HOSTILE, "count": 1}],
              sample=[[HOSTILE, True], [HOSTILE, False]], documents=1, tokens=3, mask_method=HOSTILE),
        event("plan", choices={HOSTILE: {"value": HOSTILE, "reason": HOSTILE}}),
        event("failed", error={"what": HOSTILE, "why": HOSTILE, "next": [HOSTILE], "details": [HOSTILE]}),
    ]  # fmt: skip
    return PanelState().fold_all(events)


def test_nothing_in_a_log_becomes_a_tag_an_attribute_or_a_terminal_command() -> None:
    tags = Tags()
    tags.feed(html(hostile()))
    assert tags.open == []
    assert not {"script", "img", "iframe"} & set(tags.seen)
    assert set(tags.attributes) <= set(ATTRIBUTES)
    for frame in (html(hostile()), text(hostile()), line(hostile())):
        assert "\x1b" not in frame


def test_html_holds_no_script_and_nothing_from_the_network() -> None:
    for state in (loading(), midway(), finished()):
        frame = html(state)
        assert not re.search(r"<script|href=|src=|url\(|@import", frame)


def test_the_largest_frame_is_below_20_kb() -> None:
    long = "&ä" * 5000
    events = [
        *prepared(name=long, source=long, model=long),
        event("plan", choices={f"{number}{long}": {"value": long, "reason": long} for number in range(40)}),
        *[event("warning", message=f"{number}{long}") for number in range(20)],
        *[event("eval", step=step, loss=1.0) for step in range(200)],
        event("data", split="train", source=long, sample=[[long, True]] * 9, documents=1, tokens=1,
              dropped=[{"reason": f"{number}{long}", "count": 1} for number in range(50)]),
        *trained(1, 2000, total=5000),
    ]  # fmt: skip
    assert len(html(PanelState().fold_all(events)).encode()) < 20_000
    few = [event for event in events if event["kind"] != "plan"]
    assert "Data: what is trained on" in html(PanelState().fold_all(few[:3] + few[-500:]))


def test_no_curve_is_drawn_below_two_points_and_a_flat_one_is_a_line() -> None:
    one = PanelState().fold_all([*prepared(), *trained(1, 1)])
    assert "<svg" not in html(one)
    assert sparkline(one) == ""
    flat = PanelState().fold_all(event("step", step=step, total_steps=9, loss=1.0) for step in range(1, 5))
    assert "<polyline" in html(flat)
    assert sparkline(flat) == "▁▁▁▁"


def test_the_footer_says_how_to_stop_while_it_trains_and_where_the_result_is_afterwards() -> None:
    assert "Interrupt this cell" in text(midway())
    assert "detach kwanzaa" in text(midway())
    assert "Interrupt" not in text(finished())
    assert "/content/runs/kwanzaa/adapter" in text(finished())


def test_without_a_gpu_nothing_is_said_of_its_memory() -> None:
    assert "GPU" not in text(
        PanelState().fold_all([event("plan", device="CPU with 2 cores, 24.0 GiB", choices={}), *trained(1, 3)])
    )


@pytest.mark.parametrize(
    ("written", "as_shown"),
    [
        (words.rate(2e-4), "2e-4"), (words.rate(1.25e-5), "1.25e-5"), (words.rate(0.0), "0"),
        (words.duration(42), "42 s"), (words.duration(252), "4:12 min"), (words.duration(3720), "1:02 h"),
        (words.count(9999), "9,999"), (words.count(48_211), "48.2K"), (words.count(1_235_814_400), "1.24B"),
        (words.count(999_900), "1M"), (words.size(5.1 * 2**30), "5.1 GiB"), (words.number(None), "n/a"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_have_their_unit(written: str, as_shown: str) -> None:
    assert written == as_shown
