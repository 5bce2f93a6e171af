"""Times as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.errors import ColabMagicsError
from colab_magics.session.times import AS_DURATION, AS_END, LONGEST, dated, duration, end, moment_of, seconds_of

pytestmark = pytest.mark.face

NOW = datetime(2026, 11, 20, 8, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("10h", 36000),
        ("90 min", 5400),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("1.5h", 5400),
        ("3600", 3600),
        ("45s", 45),
        ("2 days", 172800),
        ("1 hour", 3600),
        ("  11H  ", 39600),
        ("1d12h", 129600),
    ],
)
def test_a_duration_is_read_as_it_is_written(written: str, seconds: float) -> None:
    assert duration(written, "limit") == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "10 hous",
        "1h30",
        "30m1h",
        "-5m",
        "0",
        "0h",
        "1h1h",
        "h",
        "1e9",
        "inf",
        "nan",
        "99999d",
        "1:30",
        "١٠h",
    ],
)
def test_anything_else_is_no_time_and_the_error_says_what_is(written: str) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        duration(written, "limit")
    assert raised.value.lines() == [
        f"limit {written} is no time.",
        "It is how long something lasts.",
        f"→ {AS_DURATION}",
    ]


@given(st.integers(0, 999), st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_units_add_up_in_whatever_spelling(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    expected = float(total) if 0 < total <= LONGEST else None
    assert seconds_of(f"{days}d{hours}h{minutes}m{seconds}s") == expected
    assert seconds_of(f"{days} days {hours} hrs {minutes} minutes {seconds} secs") == expected


@given(st.text(max_size=40))
def test_no_text_whatever_is_misread_or_breaks_the_reading(text: str) -> None:
    found = seconds_of(text)
    assert found is None or 0 < found <= LONGEST
    moment = moment_of(text)
    assert moment is None or moment.tzinfo is not None


@settings(max_examples=50)
@given(st.integers(1, int(LONGEST)), st.sampled_from([-11, -5, 0, 1, 9]))
def test_an_end_is_the_same_moment_in_every_offset(seconds: int, offset: int) -> None:
    zone = timezone(timedelta(hours=offset))
    written = (NOW + timedelta(seconds=seconds)).astimezone(zone).isoformat()
    assert end(written, "--deadline", NOW) == seconds
    assert end(str(seconds), "--deadline", NOW) == seconds


@pytest.fixture
def in_rome(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Rome")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_rome")
def test_a_date_without_an_offset_is_of_this_machines_clock() -> None:
    assert end("2026-11-20T10:00", "--deadline", NOW) == 3600, "in November Rome is an hour ahead"
    assert end("2026-11-20 10:00", "--deadline", NOW) == 3600
    assert end("2026-11-20T10:00Z", "--deadline", NOW) == 7200
    assert end("2027-07-01T12:00", "--deadline", NOW) == timedelta(days=223, hours=2).total_seconds(), "two in summer"


def test_a_date_that_is_past_is_said_to_be_past() -> None:
    with pytest.raises(ColabMagicsError) as raised:
        end("2026-11-20T08:00+00:00", "--deadline", NOW)
    assert raised.value.what == "--deadline 2026-11-20T08:00+00:00 is past."


@pytest.mark.parametrize("written", ["tomorrow", "2026-11-31T10:00", "2026-11-20T25:00", "24:00", "9999-99-99"])
def test_what_is_neither_a_duration_nor_a_date_is_explained(written: str) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        end(written, "--deadline", NOW)
    assert raised.value.what == f"--deadline {written} is no time."
    assert raised.value.next_steps == (AS_END,)


@pytest.mark.parametrize(
    ("written", "past", "advised"),
    [
        ("22:00", False, "For 22:00 write 2026-11-20T22:00."),
        ("7:30", False, "For 7:30 write 2026-11-21T07:30."),
        ("22:00", True, "For 22:00 write 2026-11-19T22:00."),
        ("7:30", True, "For 7:30 write 2026-11-20T07:30."),
        ("24:00", False, ""),
        ("22", False, ""),
    ],
)
def test_a_time_of_day_is_answered_with_its_date(written: str, past: bool, advised: str) -> None:
    assert dated(written, NOW, past=past) == advised


def test_an_end_that_is_a_time_of_day_is_answered_with_its_date() -> None:
    with pytest.raises(ColabMagicsError) as raised:
        end("22:00", "--deadline", NOW)
    assert raised.value.next_steps == ("For 22:00 write 2026-11-20T22:00.",)


def test_digits_alone_are_seconds_and_never_a_date() -> None:
    assert end("20261120", "--deadline", NOW) == 20261120
