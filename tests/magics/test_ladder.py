"""The session's end is met by a save, a copy and a stop in good order, and the run goes on in the next session.

A real kernel, real workers and real time; the session is pretended, by what the user says of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import small_disk

from colab_magics.session.settings import set_value

from .conftest import ROWS, Home, Kernel, Reply, wait_for

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.colab]

BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1\nsave_every: 3600"


@pytest.fixture(scope="module")
def home(home: Home) -> Home:
    home.environment["COLAB_MAGICS_SESSION"] = str(home.folder / "session.toml")
    home.environment["COLAB_MAGICS_PLATFORM"] = "kaggle"
    return home


@pytest.fixture(scope="module")
def kernel(home: Home, warm: Any, kernel: Kernel) -> Kernel:
    kernel.run(warm.cell)
    return kernel


@pytest.fixture
def session(home: Home) -> Iterator[Session]:
    session = Session(home)
    yield session
    session.own.unlink(missing_ok=True)


class Session:
    """A machine on Kaggle, of the age and the limit that a test says."""

    def __init__(self, home: Home) -> None:
        self.own = Path(home.environment["COLAB_MAGICS_SESSION"])
        self._environ = home.environment

    def began(self, ago: str) -> None:
        set_value("start", ago, environ=self._environ)

    def lives(self, limit: str) -> None:
        set_value("limit", limit, environ=self._environ)


def saved(home: Home, run: str, reason: str) -> list[dict[str, Any]]:
    return [
        event
        for event in home.events(run)
        if event["kind"] == "checkpoint" and event.get("action") == "saved" and event["reason"] == reason
    ]


def last(home: Home, run: str) -> dict[str, Any]:
    return home.events(run)[-1]


def started(kernel: Kernel, home: Home, run: str, options: str = "", body: str = BODY) -> str:
    cell = kernel.send(f"%%finetune {run} {options}\n{body}")
    wait_for(lambda: home.steps(run) > 2)
    return cell


def test_a_limit_that_falls_in_mid_run_brings_a_save_a_copy_a_stop_and_a_resume(
    kernel: Kernel, home: Home, session: Session
) -> None:
    copies = home.folder / "copies"
    session.began("1h")
    session.lives("10h")
    cell = started(kernel, home, "ladder", body=f"{BODY}\nreplica: {copies}")
    assert not saved(home, "ladder", "deadline")

    # the user says, while it trains, that this session ends in 14 minutes: saved, and copied
    session.lives("1h14m")
    wait_for(lambda: saved(home, "ladder", "deadline"))
    early = saved(home, "ladder", "deadline")[0]
    wait_for((copies / "ladder" / "checkpoints" / early["name"] / "MANIFEST.json").exists)
    at_the_copy = home.steps("ladder")
    wait_for(lambda: home.steps("ladder") > at_the_copy)

    # in 4 minutes: it stops after its step, saves, hands over, and the cell ends as if nothing were the matter
    session.lives("1h4m")
    reply = kernel.reply(cell)
    assert (reply.status, reply.error) == ("ok", "")
    end = last(home, "ladder")
    assert (end["kind"], end["reason"], end["limit_from"]) == ("finished", "deadline", "set")
    assert end["step"] == home.steps("ladder")
    assert saved(home, "ladder", "stop")[-1]["step"] == end["step"]
    assert (
        f"stopped in good order before the session's end; in a new one, {_resume('ladder', end['step'])}" in reply.text
    )
    assert "set limit" not in reply.text, "he has said it himself"
    assert (copies / "ladder" / "checkpoints" / end["checkpoint"] / "MANIFEST.json").exists()
    assert len(saved(home, "ladder", "deadline")) == 1

    # the next session has time enough: it goes on from that very step
    session.began("1 min")
    session.lives("10h")
    cell = kernel.send("%checkpoint resume ladder")
    wait_for(lambda: home.steps("ladder", attempt=2) > 2)
    home.terminal("stop", "ladder")
    kernel.reply(cell)
    resumed = next(event for event in home.events("ladder") if event["kind"] == "resumed")
    assert (resumed["step"], resumed["lost_steps"]) == (end["step"], 0)


def _resume(run: str, step: int) -> str:
    return f"%checkpoint resume {run} (or the cell again) goes on from step {step:,}."


def warnings(home: Home, run: str) -> list[str]:
    return [event["message"] for event in home.events(run) if event["kind"] == "warning"]


def test_too_little_time_is_told_before_training_and_the_stop_names_what_to_set(
    kernel: Kernel, home: Home, session: Session
) -> None:
    session.began("11h50m")
    cell = started(kernel, home, "late")
    (told,) = warnings(home, "late")
    assert told.startswith("This session ends in about 10 min (Kaggle, interactive: 12 h, an estimate as of ")
    assert told.endswith(
        "will be stopped in about 5 min, in good order. If yours lives longer: %session set limit 24h."
    )
    kinds = [event["kind"] for event in home.events("late")]
    assert kinds.index("warning") < kinds.index("model") < kinds.index("step")

    session.began("11h56m")
    reply = kernel.reply(cell)
    assert reply.status == "ok"
    assert last(home, "late")["limit_from"] == "table"
    assert "If this session lives longer: %session set limit 24h." in reply.text


def test_where_the_session_has_outlived_the_table_no_end_is_made_up(
    kernel: Kernel, home: Home, session: Session
) -> None:
    session.began("13h")
    reply = kernel.run(f"%%finetune outlived\n{BODY.replace('100000', '8')}")
    assert reply.status == "ok"
    assert (last(home, "outlived")["reason"], last(home, "outlived")["step"]) == ("completed", 8)
    assert not warnings(home, "outlived")


def test_what_the_line_says_wins(kernel: Kernel, home: Home, session: Session) -> None:
    session.began("11h58m")
    reply: Reply = kernel.run(f"%%finetune said --deadline 10h\n{BODY.replace('100000', '8')}")
    assert reply.status == "ok"
    assert last(home, "said")["reason"] == "completed"

    session.began("1h")
    reply = kernel.run(f"%%finetune said-short --deadline 4min\n{BODY}")
    assert reply.status == "ok"
    end = last(home, "said-short")
    assert (end["reason"], end["step"], end["limit_from"]) == ("deadline", 1, "given")
    (told,) = warnings(home, "said-short")
    assert told.endswith("The training will be stopped after its first step, in good order.")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A small disk, too full for a checkpoint."""
    with small_disk(tmp_path / "full", "400k", lazily=True) as place:
        yield place


def test_a_copy_that_cannot_be_made_is_given_up_before_the_session_ends_and_the_cell_ends_in_good_order(
    kernel: Kernel, home: Home, full: Path
) -> None:
    reply = kernel.run(f"%%finetune no-room --deadline 75s\n{BODY}\nreplica: {full}")
    assert (reply.status, reply.error) == ("ok", "")
    end = last(home, "no-room")
    assert (end["kind"], end["reason"]) == ("finished", "deadline")
    assert 0 <= end["session_left"] < 75
    said = [json.loads(line) for line in (home.runs / "no-room" / "replica.jsonl").read_text().splitlines()]
    (given_up,) = (event for event in said if event.get("state") == "given up")
    missing = f"The session ends: the last checkpoint ({end['checkpoint']}) is not copied: {full}."
    assert given_up["message"] == missing
    assert missing in reply.panel[-1]["text/plain"]


def test_a_run_says_where_it_was_begun(kernel: Kernel, home: Home, session: Session) -> None:
    session.began("2h")
    kernel.run(f"%%finetune where\n{BODY.replace('100000', '2')}")
    begun = home.events("where")[0]
    assert (begun["platform"], begun["session_limit"]) == ("kaggle", 12 * 3600)
    assert 7200 <= begun["session_age"] < 7300
