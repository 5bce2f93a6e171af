"""The event log is append-only, readable while it is written, and never torn for a reader."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from colab_magics.events import EventLog, EventReader, read_events

pytestmark = [pytest.mark.colab, pytest.mark.face]


def test_an_event_has_a_utc_time_its_kind_and_its_attempt(tmp_path: Path) -> None:
    EventLog(tmp_path / "events.jsonl", attempt=2).append("step", step=1, loss=0.5)
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert event.pop("time").endswith("+00:00")
    assert event == {"kind": "step", "attempt": 2, "step": 1, "loss": 0.5}


def test_a_kind_that_nobody_knows_is_refused_when_written_and_skipped_when_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, 1)
    with pytest.raises(ValueError, match="unknown event kind"):
        log.append("stepp")
    path.write_text('{"kind": "hologram"}\n{"kind": "step", "step": 1}\n[1]\nnot json\n')
    assert [event["kind"] for event in read_events(path)] == ["step"]


def test_a_torn_last_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    reader = EventReader(path)
    assert [event["step"] for event in reader.read()] == [1]
    with path.open("a") as log:
        log.write('ep", "step": 2}\n')
    assert [event["step"] for event in reader.read()] == [2]
    assert reader.read() == []
    reader.close()


def test_writer_and_reader_do_not_notice_that_the_folder_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    log = EventLog(tmp_path / "a" / "events.jsonl", 1)
    reader = EventReader(tmp_path / "a" / "events.jsonl")
    log.append("step", step=1)
    assert len(reader.read()) == 1
    (tmp_path / "a").rename(tmp_path / "b")
    log.append("step", step=2)
    assert [event["step"] for event in reader.read()] == [2]
    reader.close()


def test_nan_and_infinity_become_null_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path, 1).append("step", loss=float("nan"), deep={"list": [1.0, float("inf")]})
    (event,) = read_events(path)
    assert event["loss"] is None
    assert event["deep"] == {"list": [1.0, None]}


def test_no_token_reaches_the_log(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path, 1).append("warning", message="401 for hf_" + "A" * 34)
    assert "AAAA" not in path.read_text()


def _write_many(path: Path, attempt: int) -> None:
    log = EventLog(path, attempt)
    for step in range(300):
        log.append("step", step=step, message="x" * 2000)


def test_two_writers_never_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, attempt)) for attempt in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events = read_events(path)
    assert [event["step"] for event in events if event["attempt"] == 1] == list(range(300))
    assert [event["step"] for event in events if event["attempt"] == 2] == list(range(300))


def test_an_attempt_begins_on_a_line_of_its_own_after_one_that_was_killed_in_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1, "attempt": 1}\n{"kind": "step", "st')
    log = EventLog(path, 2)
    log.append("started", name="mine")
    log.close()
    assert [event["kind"] for event in read_events(path)] == ["step", "started"]
