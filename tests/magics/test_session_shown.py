"""What `%session` shows of each platform, in both forms."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from colab_magics.magics.session_show import Known, html, rows, text
from colab_magics.session.flags import Facts, Usage, flags
from colab_magics.session.here import Session
from colab_magics.session.table import load_table

pytestmark = pytest.mark.face

HOUR, GIB, GB = 3600.0, 2.0**30, 1e9
NOW = datetime(2026, 11, 21, 14, 5, tzinfo=timezone.utc)
TABLE = load_table()
FACTS = Facts(
    memory=(Usage("Tesla T4", 5.2 * GIB, 14.56 * GIB),),
    ram=Usage("RAM", 4 * GIB, 12.7 * GIB),
    disk=Usage("/content", 40 * GB, 78 * GB),
    drive=Usage("Drive", 4 * GB, 15 * GB),
)


def known(key: str, *, age: float = 3 * HOUR, facts: Facts = FACTS, **changes: Any) -> Known:
    """What would be shown on a platform; `changes` are of the session, or of what is known."""
    platform = TABLE.platforms[key]
    own = {name: changes.pop(name) for name in ("limit", "limit_from") if name in changes}
    here = Session(platform, "a mark", age, **{"limit": platform.limit, **own})
    facts = replace(facts, session=here)
    fields: dict[str, Any] = {
        "session": here,
        "table": TABLE,
        "facts": facts,
        "flags": flags(facts, TABLE.thresholds),
        "start_is_set": False,
        "since_last": 720.0,
        "devices": tuple(one.name for one in facts.memory),
        "drive": "mounted",
        "cwd": Path("/content"),
        "now": NOW,
    }
    return Known(**{**fields, **changes})


def shown(key: str, **changes: Any) -> dict[str, str]:
    """Value and note of each row, by its label."""
    return {label: f"{value} {note}".strip() for label, value, note in rows(known(key, **changes))}


def test_time_is_told_with_what_it_rests_on() -> None:
    told = shown("colab-free")
    assert told["running for"] == "3 h since 11:05 UTC, when this machine was started"
    assert told["time limit"] == "12 h estimate, as of 2026-10-01"
    assert told["left"] == "9 h until about 23:05 UTC; a run saves 15 min and stops 5 min before"
    assert told["idle limit"] == "90 min estimate, as of 2026-10-01"
    assert told["activity is"] == "A running cell, or what you do in the open page."
    assert told["last cell"] == "12 min ago before this one, in this kernel"


def test_a_limit_that_you_set_is_no_estimate_and_one_that_is_past_is_believed_no_more() -> None:
    assert shown("colab-free", limit=20 * HOUR, limit_from="set")["time limit"] == "20 h as you set it"
    outlived = shown("colab-free", age=13 * HOUR, limit_from="passed")
    assert outlived["time limit"] == "12 h, and it is past that was an estimate; it may end at any time"
    assert "left" not in outlived
    assert "may end at any time" in text(known("colab-free", age=13 * HOUR, limit_from="passed")).splitlines()[1]
    assert shown("plain")["time limit"] == shown("runpod")["time limit"] == "none is known"


def test_a_limit_of_yours_that_is_past_is_told_with_since_when_and_how_it_is_forgotten() -> None:
    for age, limit in ((5 * HOUR, 4 * HOUR), (HOUR, 0.0)):
        told = shown("colab-free", age=age, limit=limit, limit_from="set")
        assert told["time limit"] == "past since 13:05 UTC as you set it; a run stops after its first step"
        assert "left" not in told
    flagged = text(known("colab-free", age=age, limit=limit, limit_from="set")).splitlines()[1]
    assert flagged.endswith("%session unset limit forgets it; %session set left 2h sets another.")


def test_what_the_platform_itself_publishes_is_no_estimate() -> None:
    assert shown("colab-enterprise")["idle limit"] == "3 h as of 2026-10-01"


def test_the_weeks_gpu_time_is_told_with_what_this_session_took_of_it() -> None:
    assert shown("kaggle")["GPU a week"] == "30 h estimate, as of 2026-09-23; this session has used 3 h of it"
    assert "used" not in shown("kaggle", facts=Facts())["GPU a week"]


def test_the_machine_and_what_stays() -> None:
    told = shown("colab-free")
    assert told["GPU"] == "Tesla T4 5.2 of 14.6 GiB used"
    assert told["disk"] == "40.0 of 78.0 GB used of /content"
    assert told["what stays"] == "/content/drive/MyDrive/colab_magics"
    assert told["Drive"] == "4.0 of 15.0 GB used of the account, trash included"
    assert "%session setup" in shown("colab-free", drive="not mounted")["what stays"]
    assert "does not answer" in shown("colab-free", drive="silent")["what stays"]
    assert "has not answered yet" in shown("colab-free", drive="waiting")["what stays"]
    assert shown("kaggle", cwd=Path("/kaggle/working"))["what stays"].startswith(
        "/kaggle/working only if Persistence is on"
    )
    volume = replace(FACTS, storage=Usage("/storage", 4.5 * GB, 5 * GB))
    assert shown("paperspace", facts=volume)["storage"] == "4.5 of 5.0 GB used of /storage"
    assert shown("paperspace", cwd=Path("/notebooks"))["what stays"] == "/storage our folders in /storage/colab_magics"
    assert shown("plain", facts=Facts())["GPU"] == "none a run trains on the CPU"


def test_the_rate_is_that_of_the_device_that_is_there() -> None:
    assert shown("colab-pro")["an hour costs"].startswith("1.07 compute units ($0.11) T4; estimate")
    assert "an hour costs" not in shown("colab-free")
    l4 = replace(FACTS, memory=(Usage("NVIDIA L4", 1 * GIB, 22 * GIB),))
    assert shown("colab-pro", facts=l4)["an hour costs"].startswith("1.7 compute units")


@pytest.mark.parametrize("key", list(TABLE.platforms))
@pytest.mark.parametrize("facts", [FACTS, Facts()], ids=["all", "nothing"])
def test_every_platform_has_a_picture_and_the_same_facts_as_text(key: str, facts: Facts) -> None:
    found = known(key, facts=facts)
    as_text, as_html = text(found), html(found)
    for label, value, _ in rows(found):
        assert f"{label} " in as_text
        assert value in as_text
    assert TABLE.platforms[key].title in as_text
    assert as_html.count("<div") == as_html.count("</div>")
    assert len(as_html) < 20_000


def test_red_flags_stand_above_all_else_and_the_bar_turns() -> None:
    near = known("colab-pro", age=23.5 * HOUR)
    assert text(near).splitlines()[1].startswith("! 30 min of this session are left, by an estimate.")
    assert html(near).index("cm-flag") < html(near).index("<table>")
    assert 'class="cm-near"' in html(near)
    assert 'aria-label="23.5 h of 24 h are over"' in html(near)
    assert '<div class="cm-bar"' not in html(known("plain"))


def test_nothing_that_a_file_or_a_driver_says_is_markup() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    here = known("colab-free", facts=replace(FACTS, memory=(Usage(evil, 1, 2),), disk=Usage(evil, 1, 2)))
    here = replace(here, session=replace(here.session, evidence=evil))
    assert "<script" not in html(here)
    assert "\x1b" not in html(here) + text(here)
