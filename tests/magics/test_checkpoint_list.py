"""`%checkpoint list`: what there is, how far its copies are, and what a resume would use."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_line import read_line
from colab_magics.magics.checkpoint_survey import survey
from colab_magics.magics.checkpoint_table import age, bundle

from .checkpointed import Left, truncate

pytestmark = [pytest.mark.colab, pytest.mark.face]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path)


def shown(left: Left, line: str = "list") -> list[str]:
    return perform(read_line(line), left.root)["text/plain"].splitlines()


def test_the_newest_is_first_and_newest_best_and_pinned_are_marked(left: Left) -> None:
    left.save(20, eval_loss=2.0, minutes_ago=60)
    left.save(40, eval_loss=1.5, minutes_ago=30)
    left.save(60, eval_loss=1.7)
    (left.folder / "pins").mkdir()
    (left.folder / "pins" / "00000020-a1").touch()
    assert shown(left)[:4] == [
        "step     age    loss  eval loss     size  copy        marks",
        "  60   3 min  0.0167     1.7000  1.4 KiB  no replica  newest",
        "  40  30 min  0.0250     1.5000  1.4 KiB  no replica  best",
        "  20  60 min  0.0500     2.0000  1.4 KiB  no replica  pinned",
    ]


def test_a_later_attempt_is_newer_whatever_its_step(left: Left) -> None:
    left.save(80)
    left.save(60, attempt=2)
    rows = survey(left.run).rows
    assert [(row.entry.step, row.marks) for row in rows] == [(60, ("newest",)), (80, ())]


def test_the_state_of_a_copy_is_the_newest_that_its_replica_told(left: Left) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        left.save(step)
    for state in ("copying", "handed over", "confirmed"):
        left.copied(10, state)
    left.copied(20, "handed over")
    left.copied(30, "copying", bytes_done=25, bytes_total=100)
    left.copied(40, "full")
    left.copied(50, "local")
    left.tell("replica", log="replica.jsonl", state="done", where="/drive", checkpoint="")
    copies = {row.entry.step: row.copy for row in survey(left.run).rows}
    assert copies == {
        10: "confirmed",
        20: "handed over",
        30: "local, copying 25%",
        40: "local, the store is full",
        50: "local",
        60: "local",
    }


def test_the_place_of_the_copies_is_named_and_why_they_do_not_get_there(left: Left) -> None:
    left.save(20)
    left.copied(20, "handed over")
    assert "Replica: /drive" in shown(left)
    left.copied(20, "full", message="it needs 9 bytes and 3 are free")
    assert "Replica: /drive: it needs 9 bytes and 3 are free" in shown(left)
    left.copied(20, "waiting", message="/drive has not answered for 30 s.")
    assert "Replica: /drive has not answered for 30 s." in shown(left)


def test_a_torn_checkpoint_is_listed_with_the_reason_and_is_not_what_a_resume_would_use(left: Left) -> None:
    left.save(20)
    truncate(left.save(40) / "optimizer.safetensors")
    lines = shown(left)
    assert lines[1].endswith("40  broken: optimizer.safetensors has 428 bytes instead of 856")
    assert lines[-1] == "A resume would use step 20: %checkpoint resume kwanzaa"


def test_the_last_line_counts_the_steps_that_would_be_done_again(left: Left) -> None:
    left.save(20)
    left.tell("step", step=20, loss=1.0)
    left.tell("step", step=27, loss=1.0)
    assert shown(left)[-1] == (
        "A resume would use step 20; 7 steps after it would be done again: %checkpoint resume kwanzaa"
    )


def test_of_a_living_run_the_last_line_says_what_its_death_would_cost(left: Left) -> None:
    left.save(20)
    left.tell("step", step=21, loss=1.0)
    lock = worker.hold_lock(left.folder)
    assert lock is not None
    assert shown(left)[-1] == (
        "kwanzaa is being trained. If it ended now, a resume would use step 20; 1 step after it would be done again."
    )
    os.close(lock)


def test_a_finished_run_has_nothing_to_resume(left: Left) -> None:
    left.save(20)
    left.tell("finished", reason="completed")
    assert shown(left)[-1] == "kwanzaa is finished: there is nothing to resume."


def test_a_run_without_checkpoints_says_that_it_would_start_over(left: Left) -> None:
    assert shown(left) == ["kwanzaa has no checkpoint. It would start over from step 0."]
    assert "<table>" not in bundle(survey(left.run))["text/html"]


def test_what_was_set_aside_is_named(left: Left) -> None:
    folder = left.save(20)
    folder.rename(folder.with_name(".broken-00000020-a1-abcd"))
    assert "Set aside as broken: .broken-00000020-a1-abcd" in shown(left)


def test_checkpoints_of_another_run_of_that_name_are_not_taken_for_its_own(left: Left, tmp_path: Path) -> None:
    other = Left(tmp_path / "other", run_id="f" * 16)
    other.save(40).rename(left.run.checkpoints / "00000040-a1")
    assert shown(left)[1].endswith("broken: it belongs to another run")


def test_facts_that_are_missing_or_of_another_kind_leave_their_cells_empty(left: Left) -> None:
    left.save(20, time=None, metrics={"loss": "low", "eval_loss": None})
    left.save(40, time="yesterday", metrics=7)
    assert [cell.split() for cell in shown(left)[1:3]] == [
        ["40", "1.4", "KiB", "no", "replica", "newest"],
        ["20", "1.4", "KiB", "no", "replica"],
    ]


def test_a_run_is_found_by_name_or_is_the_newest_and_the_nearest_is_named(left: Left) -> None:
    left.save(20)
    Left(left.root, "other").save(30)
    os.utime(left.folder / "events.jsonl", (1, 1))
    assert shown(left)[-1].endswith("resume other")
    assert shown(left, "list kwanzaa")[-1].endswith("resume kwanzaa")
    with pytest.raises(ColabMagicsError, match="Did you mean kwanzaa"):
        shown(left, "list kwanza")


def test_of_two_living_runs_one_must_be_named(left: Left) -> None:
    other = Left(left.root, "other")
    locks = [worker.hold_lock(one.folder) for one in (left, other)]
    with pytest.raises(ColabMagicsError, match=r"Name it: %checkpoint pin STEP (other|kwanzaa)\."):
        shown(left, "pin 20")
    for lock in locks:
        assert lock is not None
        os.close(lock)


def test_listing_changes_nothing_on_the_disk(left: Left) -> None:
    truncate(left.save(20) / "state.json")
    before = {path: path.stat().st_mtime_ns for path in left.root.rglob("*")}
    shown(left)
    assert {path: path.stat().st_mtime_ns for path in left.root.rglob("*")} == before


class Texts(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_says_what_the_text_says_and_draws_nothing_that_a_file_name_says(left: Left) -> None:
    left.save(20, eval_loss=1.5)
    (left.save(40) / "<img src=x>\x1b[31m").touch()
    frame = bundle(survey(left.run))
    page = Texts()
    page.feed(frame["text/html"])
    assert r"broken: '<img src=x>\x1b[31m' does not belong to it" in page.text
    assert page.tags <= {"div", "style", "span", "table", "thead", "tbody", "tr", "th", "td"}
    assert "\x1b" not in frame["text/html"] + frame["text/plain"]
    for cell in ("20", "3 min", "0.0500", "1.5000", "1.4 KiB", "no replica", "newest", "best", "A resume would use"):
        assert cell in page.text
        assert cell in frame["text/plain"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (42, "42 s"), (119, "119 s"), (1200, "20 min"), (5 * 3600, "5 h"), (3 * 86400, "3 days")],
)
def test_an_age_is_short(seconds: float, said: str) -> None:
    assert age(seconds) == said
