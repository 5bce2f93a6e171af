"""A run goes on exactly where its data file, its cache and the day on which it began are gone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from kills import ROWS, SHORT, Course, Moment, Workers, begun_and_killed

from colab_magics.run import Run

# what a template does that greets with the hour
TELLS_TIME = "{{ strftime_now('%A %d %B %Y %H:%M:%S') }}\n"
TOMORROW = """
import datetime, time

DAY = 86_400 + 3600
_datetime, _date, _time = datetime.datetime, datetime.date, time.time


class Tomorrow(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=DAY)

    @classmethod
    def utcnow(cls):
        return _datetime.utcnow() + datetime.timedelta(seconds=DAY)


datetime.datetime = Tomorrow
time.time = lambda: _time() + DAY
"""


@pytest.fixture
def workers(warm: Any) -> Workers:
    return Workers(str(warm.python), warm.environment)


def test_the_data_file_and_the_cache_are_gone(workers, tmp_path):
    rows = tmp_path / "rows.jsonl"
    shutil.copy(ROWS, rows)
    (tmp_path / "course").mkdir()
    course = Course.run(tmp_path / "course", workers, SHORT, rows)
    run = begun_and_killed(course, "killed", Moment(6, 0))
    rows.unlink()
    shutil.rmtree(course.folder / "cache")
    assert course.start(run).wait(120) == 0, _last(run)
    assert course.difference(run) == ""
    [resumed] = [event for event in Run(run).events() if event["kind"] == "resumed"]
    assert resumed["exact"] is True


def test_without_them_and_without_what_was_prepared_it_says_what_is_gone(workers, tmp_path):
    rows = tmp_path / "rows.jsonl"
    shutil.copy(ROWS, rows)
    (tmp_path / "course").mkdir()
    course = Course.run(tmp_path / "course", workers, SHORT, rows)
    run = begun_and_killed(course, "killed", Moment(6, 0))
    rows.unlink()
    shutil.rmtree(course.folder / "cache")
    tokens = run / "prepared" / "train" / "tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-1])  # altered: it is not trained on
    before = sorted(os.listdir(run / "checkpoints"))
    assert course.start(run).wait(120) == 1
    assert "is gone" in _last(run)
    assert sorted(os.listdir(run / "checkpoints")) == before


def test_tomorrow_a_template_that_prints_the_hour_still_prints_the_first_one(workers, warm_under, tmp_path):
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(TOMORROW)
    (tmp_path / "course").mkdir()
    kept = {**SHORT, "save_total_limit": 99}
    course = Course.run(tmp_path / "course", workers, kept, template_begins=TELLS_TIME, once=True)

    # the undisturbed run, as a death after step 6 would have left it; what was prepared of its data is lost as well
    run = course.folder / "torn"
    shutil.copytree(course.undisturbed.folder, run)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "prepared")
    for checkpoint in (run / "checkpoints").iterdir():
        if int(checkpoint.name[:8]) > 6:
            shutil.rmtree(checkpoint)
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines) if json.loads(line).get("step") == 7)
    (run / "events.jsonl").write_text("".join(lines[:end]))
    shutil.rmtree(course.folder / "cache")

    path = os.pathsep.join([str(tmp_path / "planted"), *_paths()])
    warm = warm_under({"PYTHONPATH": path})
    environment = {**course.workers.environment, **warm.environment, "PYTHONPATH": path}
    later = Course(course.folder, Workers(str(warm.python), environment), course.recipe)
    assert later.start(run).wait(120) == 0, _last(run)
    assert later.difference(run) == ""
    events = Run(run).events()
    days = {event["time"][:10] for event in events}
    assert len(days) == 2, "the date was to be another one"
    [resumed] = [event for event in events if event["kind"] == "resumed"]
    assert (resumed["step"], resumed["exact"]) == (6, True)

    # and the template does print it: a run that begins tomorrow trains on other tokens
    fresh = later.fresh("tomorrow")
    assert later.start(fresh).wait(120) == 0, _last(fresh)
    assert Run(fresh).losses != course.undisturbed.losses


def _paths() -> list[str]:
    here = str(Path(__file__).resolve().parents[2])
    return [here, *filter(None, [os.environ.get("PYTHONPATH")])]


def _last(run: Path) -> str:
    return json.dumps([event for event in Run(run).events() if event["kind"] == "failed"][-1:])
