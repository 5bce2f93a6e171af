"""When the session ends, as the worker knows it: given, set while it trains, from the table, or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.session.deadline import Deadline
from colab_magics.session.here import Session
from colab_magics.session.settings import user_file
from colab_magics.session.table import Platform

pytestmark = pytest.mark.colab

KAGGLE = Platform("kaggle", "Kaggle", "2026-10-01", limit=12 * 3600)
HOUR = 3600.0


class PretendedClock:
    """Seconds that pass when they are told to; the session's age with them."""

    def __init__(self) -> None:
        self.seconds = 500.0

    def now(self) -> float:
        return self.seconds

    def started(self) -> float:
        return 0.0

    def boot(self) -> str:
        return "boot"

    def wall(self) -> datetime:
        return datetime(2026, 11, 21, tzinfo=timezone.utc)


class PretendedSession:
    """A session that somebody changes while the worker trains."""

    def __init__(self, clock: PretendedClock, age: float, limit: float | None = 12 * HOUR) -> None:
        self.clock, self.began, self.asked = clock, clock.seconds - age, 0
        self.now = Session(KAGGLE, limit=limit)
        self.broken = False

    def __call__(self) -> Session:
        self.asked += 1
        if self.broken:
            raise ColabMagicsError("line 2: limit = '10 hous' is no time.", "It stands in session.toml.")
        return replace(self.now, age=self.clock.seconds - self.began)

    def limit(self, hours: float) -> None:
        self.now = replace(self.now, limit=hours * HOUR, limit_from="set")


@pytest.fixture
def clock() -> PretendedClock:
    return PretendedClock()


def deadline_of(session: PretendedSession, given: float | None = None, tell=lambda _: None) -> Deadline:
    return Deadline(given, session=session, clock=session.clock, tell=tell)


def test_the_tables_limit_counts_where_nobody_says_anything(clock):
    deadline = deadline_of(PretendedSession(clock, 11 * HOUR))
    assert deadline.left() == HOUR
    clock.seconds += 600
    assert deadline.left() == HOUR - 600
    assert deadline.origin == "table"


def test_what_the_line_says_wins_and_the_session_is_not_even_asked(clock):
    session = PretendedSession(clock, 11 * HOUR)
    deadline = deadline_of(session, given=100.0)
    clock.seconds += 40
    assert (deadline.left(), deadline.origin, session.asked) == (60.0, "given", 0)
    clock.seconds += 70
    assert deadline.left() == 0.0


def test_a_limit_that_is_set_while_it_trains_counts_within_a_second(clock):
    session = PretendedSession(clock, 11 * HOUR)
    deadline = deadline_of(session)
    assert deadline.left() == HOUR
    session.limit(20)
    assert deadline.left() == HOUR
    clock.seconds += 1
    assert deadline.left() == 9 * HOUR - 1
    assert deadline.origin == "set"


def test_a_limit_that_is_taken_back_while_it_trains_leaves_no_end_behind(clock):
    session = PretendedSession(clock, 11 * HOUR)
    session.limit(11.5)
    deadline = deadline_of(session)
    assert deadline.left() == 0.5 * HOUR
    session.now = Session(KAGGLE, limit=None)
    clock.seconds += 1
    assert (deadline.left(), deadline.origin) == (None, None)


def test_between_two_looks_time_passes_and_the_session_is_not_asked(clock):
    session = PretendedSession(clock, 11 * HOUR)
    deadline = deadline_of(session)
    for _ in range(100):
        deadline.left()
        clock.seconds += 0.009
    assert session.asked == 1
    assert deadline.left() == pytest.approx(HOUR - 0.9)


def test_where_the_table_was_wrong_or_has_no_limit_no_end_is_made_up(clock):
    outlived = PretendedSession(clock, 13 * HOUR)
    outlived.now = replace(outlived.now, limit_from="passed")
    endless = PretendedSession(clock, 13 * HOUR, limit=None)
    for session in (outlived, endless):
        deadline = deadline_of(session)
        assert deadline.left() is None
        assert deadline.warning() is None
    assert deadline.origin is None


def test_a_file_that_somebody_is_breaking_stops_no_training_and_is_told_once(clock):
    said: list[str] = []
    session = PretendedSession(clock, 11 * HOUR)
    deadline = deadline_of(session, tell=said.append)
    assert deadline.left() == HOUR
    session.broken = True
    for _ in range(3):
        clock.seconds += 1
        assert deadline.left() is not None
    assert said == [
        "line 2: limit = '10 hous' is no time. It stands in session.toml. What was known of the session before counts."
    ]
    session.broken = False
    session.limit(11.5)
    clock.seconds += 1
    assert deadline.left() == pytest.approx(0.5 * HOUR - 4)


KAGGLES = "(Kaggle: 12 h, an estimate as of 2026-10-01)"
SET = "If yours lives longer: %session set limit 24h."


@pytest.mark.parametrize(
    ("left", "when"),
    [
        (12, "in about 7 min"),
        (3, "after its first step"),
    ],
)
def test_too_little_time_is_told_before_anything_is_trained(clock, left, when):
    said = f"This session ends in about {left} min {KAGGLES}. The training will be stopped {when}, in good order. {SET}"
    assert deadline_of(PretendedSession(clock, 12 * HOUR - left * 60)).warning() == said


def test_where_there_is_time_nothing_is_told(clock):
    assert deadline_of(PretendedSession(clock, 11.7 * HOUR)).warning() is None


def test_who_has_said_the_end_on_the_line_is_not_told_how_to(clock):
    said = "This session ends in about 12 min. The training will be stopped in about 7 min, in good order."
    assert deadline_of(PretendedSession(clock, HOUR), given=720.0).warning() == said


@pytest.mark.parametrize(("limit", "ends", "when"), [(1.2, "ends in about 12 min", "in about 7 min"),
                                                     (0.5, "is past its limit", "after its first step")])  # fmt: skip
def test_an_end_that_was_set_is_told_with_the_file_and_how_it_is_forgotten(clock, limit, ends, when):
    session = PretendedSession(clock, HOUR)
    session.limit(limit)
    assert deadline_of(session).warning() == (
        f"This session {ends}. The training will be stopped {when}, in good order. "
        f"{user_file()} says so; %session unset limit forgets it."
    )
