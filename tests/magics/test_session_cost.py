"""`%session cost`: what a run has used, attempt by attempt, and what is to come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.session_cost import cost, page_of, rest, spent
from colab_magics.session.table import Accelerator, Platform, Table

from .checkpointed import Left

pytestmark = [pytest.mark.face, pytest.mark.colab]

HOUR = 3600.0
BEGAN = datetime(2026, 10, 1, 8, tzinfo=timezone.utc)
T4 = Accelerator("T4", "Tesla T4", 15 * 2**30, (7, 5), {"fp16": 65e12}, {"fp16": 0.15}, ("T4",))
TABLE = Table(
    {
        "free": Platform(
            "free", "Free", "2026-09-01", weekly=30 * HOUR, accelerators=("T4",), dollars={"T4": 0}
        ),
        "units": Platform(
            "units", "Units", "2026-10-01", accelerators=("T4",), units={"T4": 2.0}, unit_price=0.1
        ),
    },
    {"T4": T4}, {}, "2026-10-01", {},
)  # fmt: skip


def events(attempt: int, platform: str, begin: float, first: int, last: int, total: int = 100) -> list[dict[str, Any]]:
    """An attempt that begins `begin` hours after the first, and takes a step in six minutes; device T4."""

    def at(hours: float) -> str:
        return (BEGAN + timedelta(hours=hours)).isoformat()

    duration = {"low": 4 * HOUR, "mid": 8 * HOUR, "high": 16 * HOUR}
    told: list[dict[str, Any]] = [
        {"kind": "started", "platform": platform, "time": at(begin)},
        {
            "kind": "plan", "time": at(begin), "device": "Tesla T4, 14.6 GiB", "duration": duration,
            "choices": {"total_steps": {"value": total, "reason": ""}},
        },
    ]  # fmt: skip
    for number, step in enumerate(range(first, last + 1), 1):
        told.append(
            {"kind": "step", "step": step, "total_steps": total, "seconds": 360.0, "time": at(begin + number / 10)}
        )
    return [{**event, "attempt": attempt} for event in told]


def test_each_attempt_counts_with_the_rate_of_its_platform_and_device() -> None:
    both = [*events(1, "free", 0, 1, 30), *events(2, "units", 10, 31, 60)]
    first, second = spent(both, TABLE)
    assert (first.seconds, first.dollars, first.units) == (3 * HOUR, 0, None)
    assert first.quota == (pytest.approx(0.1), "week")
    assert (second.seconds, second.first, second.last) == (3 * HOUR, 31, 60)
    assert (second.units, second.dollars) == (pytest.approx(6), pytest.approx(0.6))
    text = page_of("kwanzaa", both, TABLE, state="unfinished", now=0).text()
    (total,) = (line for line in text.splitlines() if line.startswith("all"))
    assert "6 h" in total
    assert "$0.60" in total
    assert "10% of a week" in text
    assert "Rates as of 2026-09-01 to 2026-10-01: estimates." in text


def test_what_was_expected_stands_beside_what_it_took() -> None:
    half = page_of("k", events(1, "units", 0, 1, 50), TABLE, state="failed", now=0).text()
    assert "Expected at its start on Tesla T4, 14.6 GiB: 8 h (4 to 16) of training" in half
    assert "at the speed of its 50 steps it is 10 h" in half
    whole = page_of("k", events(1, "units", 0, 1, 100), TABLE, state="finished", now=0).text()
    assert "it took 10 h." in whole
    assert "To come" not in whole
    slow = events(1, "units", 0, 1, 200, total=200)
    assert "it took 20 h, outside of what was expected." in page_of("k", slow, TABLE, state="finished", now=0).text()


def test_what_is_to_come_has_a_time_and_a_price() -> None:
    text = page_of("k", events(1, "units", 0, 1, 40), TABLE, state="unfinished", now=0, kept=40).text()
    (line,) = (line for line in text.splitlines() if line.startswith("To come"))
    assert "6 h" in line
    assert "12 units, $1.20 there" in line
    early = page_of("k", events(1, "units", 0, 1, 1), TABLE, state="running", now=BEGAN.timestamp()).text()
    assert "known after two steps" in early


def test_steps_that_no_checkpoint_holds_are_to_come_again(left: Left) -> None:
    text = page_of("k", events(1, "units", 0, 1, 40), TABLE, state="unfinished", now=0, kept=30).text()
    assert "To come: 7 h" in text
    assert "10 steps that no checkpoint holds among it" in text
    for event in events(1, "units", 0, 1, 40):
        left.tell(**{key: value for key, value in event.items() if key not in ("time", "attempt")})
    left.save(20)
    assert "To come: 8 h" in cost([left.name], left.root)["text/plain"]


def test_evaluations_and_saves_are_counted_in_what_is_to_come() -> None:
    bare = events(1, "units", 0, 1, 50)
    bare[1]["choices"]["eval_every"] = {"value": 10, "reason": ""}
    slow = [*bare, *({"kind": "eval", "attempt": 1, "step": step, "seconds": 3600.0} for step in (10, 20, 30, 40, 50))]
    slow += [{"kind": "checkpoint", "attempt": 1, "action": "saved", "stall": 50.0}]
    without, with_them = rest(bare, 1, 50), rest(slow, 1, 50)
    assert without is not None
    assert with_them is not None
    assert with_them.p50 - without.p50 == pytest.approx(5 * HOUR + 50)


def test_an_evaluation_that_nobody_has_seen_yet_is_a_third_of_training_on_its_tokens() -> None:
    told = events(1, "units", 0, 1, 90, total=250)
    told[1] |= {"eval_tokens": 3600}
    told[1]["choices"]["eval_every"] = {"value": 100, "reason": ""}
    told[-1]["tokens_per_second"] = 1.0
    made = rest(told, 1, 90)
    assert made is not None
    assert made.p50 == pytest.approx(160 * 360 + 3 * 1200)


def test_a_run_at_work_counts_up_to_now() -> None:
    running = events(1, "units", 0, 1, 10)
    now = BEGAN.timestamp() + 5 * HOUR
    assert spent(running, TABLE, now=now)[0].seconds == 5 * HOUR
    assert spent(running, TABLE)[0].seconds == HOUR


def test_what_nobody_knows_is_said_and_not_counted() -> None:
    elsewhere = events(1, "nowhere", 0, 1, 10)
    older = [{key: value for key, value in event.items() if key != "platform"} for event in elsewhere]
    for told in (elsewhere, older):
        text = page_of("k", told, TABLE, state="failed", now=0).text()
        assert "not known" in text
        assert "$" not in text
        assert "Rates" not in text
    known = [*events(1, "units", 0, 1, 10), *events(2, "nowhere", 5, 11, 20)]
    assert "$0.20, and what is not known" in page_of("k", known, TABLE, state="failed", now=0).text()


def test_a_log_that_is_torn_or_of_an_older_version_is_read() -> None:
    assert "used nothing" in page_of("k", [], TABLE, state="unfinished", now=0).text()
    bare = [{"kind": "started", "time": "not a time", "attempt": 1}, {"kind": "plan", "attempt": 1, "choices": {}}]
    text = page_of("k", bare, TABLE, state="unfinished", now=0).text()
    assert "was not estimated" in text
    assert "none" in text


def test_the_magic_reads_the_run_s_own_log(left: Left) -> None:
    left.tell("step", step=1, total_steps=10, loss=1.0, seconds=2.0)
    shown = cost([left.name], left.root)
    assert shown["text/plain"].startswith(f"{left.name}: what it has used")
    assert "<table>" in shown["text/html"]
    assert cost([], left.root)["text/plain"].startswith(left.name)
    assert cost(["--root", str(left.root)], left.root / "elsewhere") == cost([left.name], left.root)
    assert "what a run has used" in cost(["--help"], left.root)["text/plain"]


@pytest.fixture
def left(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Left:
    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(tmp_path / "session.toml"))
    return Left(tmp_path / "runs")


@pytest.mark.parametrize("words", [["--all"], ["one", "two"]])
def test_a_line_that_cannot_be_read_is_explained(words: list[str], left: Left) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        cost(words, left.root)
    assert "%session cost [RUN] [--root DIR]" in "\n".join(raised.value.lines())
