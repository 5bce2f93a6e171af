"""Red flags: one for each threshold, none below it, and none where nothing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from colab_magics.session.flags import Facts, Usage, flags
from colab_magics.session.here import Session
from colab_magics.session.table import Platform, load_table

pytestmark = pytest.mark.face

GIB, GB, HOUR = 2.0**30, 1e9, 3600.0
OURS = load_table().thresholds
FREE = Platform("colab-free", "Colab Free", "2026-10-01", limit=12 * HOUR, idle=1.5 * HOUR, activity="A running cell.")
KAGGLE = Platform("kaggle", "Kaggle", "2026-10-01", limit=12 * HOUR, weekly=30 * HOUR)
CALM = Facts(
    memory=(Usage("Tesla T4", 9 * GIB, 14.56 * GIB),),
    ram=Usage("RAM", 5 * GIB, 12.7 * GIB),
    disk=Usage("/content", 40 * GB, 78 * GB),
    drive=Usage("Drive", 4 * GB, 15 * GB),
    run=("kwanzaa", HOUR),
    session=Session(FREE, age=2 * HOUR, limit=12 * HOUR),
    idle=10 * 60,
)


def raised(facts: Facts, **thresholds: float) -> list[str]:
    return [flag.key for flag in flags(facts, {**OURS, **thresholds})]


def said(facts: Facts) -> str:
    (flag,) = flags(facts, OURS)
    return str(flag)


def test_on_a_calm_machine_and_where_nothing_is_known_there_is_none() -> None:
    assert raised(CALM) == []
    assert raised(Facts()) == []
    assert flags(replace(CALM, idle=80 * 60), {}) == ()


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({"memory": (Usage("Tesla T4", 14 * GIB, 14.56 * GIB),)}, "memory", "Tesla T4: 14.0 of 14.6 GiB are used."),
        ({"ram": Usage("RAM", 12 * GIB, 12.7 * GIB)}, "ram", "RAM: 12.0 of 12.7 GiB are used."),
        ({"disk": Usage("/content", 75 * GB, 78 * GB)}, "disk", "The disk of /content: 75.0 of 78.0 GB are used."),
        ({"drive": Usage("Drive", 10.4 * GB, 15 * GB)}, "drive", "Drive: 10.4 of 15.0 GB are used."),
        ({"run": ("kwanzaa", 8.25 * HOUR)}, "run", "kwanzaa has been training for 8.2 h."),
        ({"idle": 80.0 * 60}, "idle",
         "No cell was run for 80 min; Colab Free ends an idle session after about 90 min."),
        ({"session": Session(FREE, age=11.5 * HOUR, limit=12 * HOUR)}, "left",
         "30 min of this session are left, by an estimate."),
        ({"session": Session(FREE, age=9.5 * HOUR, limit=10 * HOUR, limit_from="set")}, "left",
         "30 min of this session are left, as you set it."),
        ({"session": Session(FREE, age=13 * HOUR, limit=12 * HOUR, limit_from="passed")}, "left",
         "This session is 13 h old, past the usual 12 h: it may end at any time."),
        ({"session": Session(FREE, age=13 * HOUR, limit=10 * HOUR, limit_from="set", limit_key="kaggle.limit")}, "left",
         "The limit that you set passed 3 h ago: a run stops after its first step. %session unset kaggle.limit"),
        ({"storage": Usage("/storage", 4.9 * GB, 5 * GB)}, "disk", "The disk of /storage: 4.9 of 5.0 GB are used. A"),
        ({"session": Session(replace(KAGGLE, weekly=4 * HOUR), age=3.5 * HOUR, limit=12 * HOUR)}, "weekly",
         "This session has used 3.5 h of the week's 4 h of GPU."),
    ],
)  # fmt: skip
def test_each_threshold_raises_its_own_flag_and_says_what_to_do(
    changed: dict[str, object], key: str, words: str
) -> None:
    facts = replace(CALM, **changed)  # type: ignore[arg-type]
    assert raised(facts) == [key]
    assert said(facts).startswith(words)
    assert len(said(facts)) < 240, "the panel cuts what is longer"


def test_what_you_set_counts() -> None:
    assert raised(CALM, memory=8 * GIB) == ["memory"]
    assert raised(CALM, run=0.5 * HOUR) == ["run"]
    assert raised(CALM, drive=3 * GB) == ["drive"]
    assert raised(replace(CALM, drive=Usage("Drive", 11 * GB, 15 * GB)), drive=12 * GB) == []


def test_a_paid_drive_is_flagged_when_it_is_nearly_full_or_past_what_you_set() -> None:
    paid = replace(CALM, drive=Usage("Drive", 43 * GB, 102 * GB))
    assert raised(paid) == []
    assert raised(replace(CALM, drive=Usage("Drive", 99 * GB, 102 * GB))) == ["drive"]
    assert [flag.key for flag in flags(paid, {**OURS, "drive": 40 * GB}, frozenset({"drive"}))] == ["drive"]


def test_a_session_without_a_limit_is_not_called_ending() -> None:
    assert raised(replace(CALM, session=Session(replace(FREE, limit=None), age=100 * HOUR))) == []


def test_a_week_without_a_gpu_is_not_used_up() -> None:
    here = Session(replace(KAGGLE, weekly=4 * HOUR), age=3.5 * HOUR, limit=12 * HOUR)
    assert raised(replace(CALM, session=here, memory=())) == []


def test_the_most_urgent_comes_first() -> None:
    facts = replace(
        CALM,
        disk=Usage("/content", 77 * GB, 78 * GB),
        run=("kwanzaa", 11 * HOUR),
        session=Session(FREE, age=11.5 * HOUR, limit=12 * HOUR),
    )
    assert raised(facts) == ["left", "disk", "run"]
