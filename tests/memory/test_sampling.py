"""What a run tells of memory while it goes on: when it has moved, and never at the training's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from memory.pretended import GIB, absent, lost_in_mid_run, mig, one_t4, two_gpus, unified_memory

from colab_magics.events import EventLog, read_events
from colab_magics.memory import sampling
from colab_magics.memory.host import Host
from colab_magics.memory.nvml import Cards, Reading
from colab_magics.memory.sampling import Sampler

pytestmark = pytest.mark.face


class Told:
    """Keeps what it is told, from whichever thread."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def memory(self) -> list[dict[str, Any]]:
        return self.of("memory")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def still_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which nothing else moves."""
    monkeypatch.setattr(sampling, "host_memory", lambda: Host(2**50, 2**49))


def test_a_t4_in_a_run_is_told_with_all_its_figures(told: Told) -> None:
    allocator = {"allocated": 3 * GIB, "reserved": 4 * GIB, "peak": 5 * GIB}
    Sampler(told, Cards(one_t4(), {}).read, lambda: allocator).sample()
    (event,) = told.memory
    assert event["devices"] == [
        {
            "index": 0,
            "name": "Tesla T4",
            "total": 15 * GIB,
            "used": 2 * GIB,
            "utilisation": 97.0,
            "temperature": 61.0,
            "power": 68.5,
        }
    ]
    assert (event["allocated"], event["reserved"], event["peak"]) == (3 * GIB, 4 * GIB, 5 * GIB)
    assert 0 < event["host"]["used"] < event["host"]["total"]
    assert 0 < event["rss"] < event["host"]["total"]


def test_beside_a_gpu_the_processor_is_told_too(told: Told) -> None:
    sampler = Sampler(told, Cards(one_t4(), {}).read)
    sampler.sample()
    sampler.sample(last=True)
    assert told.memory[0]["cpu"] is None, "no time has passed in which it could have worked"
    assert told.memory[1]["cpu"] >= 0


def test_without_a_gpu_it_is_the_host_and_the_processor(told: Told) -> None:
    sampler = Sampler(told, Cards(absent(), {}).read)
    sampler.sample()
    sampler.sample(last=True)
    for event in told.memory:
        assert event["devices"] == []
        assert (event["allocated"], event["reserved"], event["peak"]) == (None, None, None)
        assert event["host"]["used"] > 0
    assert told.memory[0]["cpu"] is None, "no time has passed in which it could have worked"
    assert told.memory[1]["cpu"] >= 0


@pytest.mark.parametrize(("driver", "total"), [(mig, 20 * GIB), (unified_memory, None)])
def test_mig_and_unified_memory_are_sampled(told: Told, driver: Callable[[], Any], total: int | None) -> None:
    Sampler(told, Cards(driver(), {}).read).sample()
    (device,) = told.memory[0]["devices"]
    assert device["total"] == (total or told.memory[0]["host"]["total"])


def test_every_visible_gpu_is_told(told: Told) -> None:
    Sampler(told, Cards(two_gpus(), {}).read).sample()
    assert [device["name"] for device in told.memory[0]["devices"]] == ["NVIDIA A100-SXM4-40GB", "Tesla T4"]


@pytest.mark.usefixtures("still_host")
def test_what_has_not_moved_is_not_told_for_half_a_minute(told: Told) -> None:
    now = 0.0
    card = Reading(0, "Tesla T4", 1000, 500, 50.0, 61.0, 68.5)
    sampler = Sampler(told, lambda: [card], clock=lambda: now)
    for second in range(61):
        now = float(second)
        card = replace(card, used=500 + second % 2, utilisation=float(second), temperature=60.0 + second)
        sampler.sample()
    assert len(told.memory) == 3
    # the mean of all looks since the event before, not the one that fell on the event
    assert [event["devices"][0]["utilisation"] for event in told.memory] == [0.0, 15.5, 45.5]


@pytest.mark.usefixtures("still_host")
@pytest.mark.parametrize(
    ("before", "after", "is_told"),
    [
        ((500, {}), (509, {}), False),
        ((500, {}), (510, {}), True),
        ((500, {}), (490, {}), True),
        ((500, {"reserved": 300}), (500, {"reserved": 309}), False),
        ((500, {"reserved": 300}), (500, {"reserved": 310}), True),
        ((500, {}), (500, {"peak": 3}), True),
        ((500, {}), (None, {}), True),
        ((None, {}), (None, {}), False),
    ],
)
def test_a_hundredth_of_its_total_is_told_at_once(told: Told, before: Any, after: Any, is_told: bool) -> None:
    used, allocator = before
    sampler = Sampler(told, lambda: [Reading(0, "Tesla T4", 1000, used)], lambda: allocator, clock=lambda: 0.0)
    sampler.sample()
    used, allocator = after
    sampler.sample()
    assert len(told.memory) == (2 if is_told else 1)


def test_a_gpu_lost_in_mid_run_is_nulls_and_one_warning(told: Told) -> None:
    sampler = Sampler(told, Cards(lost_in_mid_run(readings=2), {}).read)
    for _ in range(5):
        sampler.sample()
    assert told.memory[-1]["devices"][0]["used"] is None
    assert told.memory[-1]["devices"][0]["total"] is None
    (warning,) = told.of("warning")
    assert warning["message"] == "GPU 0 (Tesla T4) no longer answers its driver; its memory cannot be shown"


def test_starting_and_stopping_twice_is_starting_and_stopping(told: Told) -> None:
    sampler = Sampler(told, Cards(one_t4(), {}).read)
    before = threading.active_count()
    sampler.start()
    sampler.start()
    assert threading.active_count() == before + 1
    sampler.stop()
    sampler.stop()
    assert threading.active_count() == before
    assert len(told.memory) == 2, "the first look and the last"
    assert told.of("warning") == []


def test_stopping_what_was_never_started_does_nothing(told: Told) -> None:
    Sampler(told).stop()
    assert told.events == []


def test_a_driver_that_hangs_is_left_and_tells_nothing_after_the_end(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LEAVING", 0.05)
    answers = threading.Event()

    def hanging() -> list[Reading]:
        answers.wait(30)
        return []

    sampler = Sampler(told, hanging)
    sampler.start()
    sampler.stop()
    answers.set()
    assert sampler._thread is not None
    sampler._thread.join(30)
    assert told.events == []


def test_a_look_that_fails_ends_the_watching_with_one_warning_and_nothing_else(told: Told) -> None:
    def failing() -> list[Reading]:
        raise RuntimeError("the allocator is gone")

    sampler = Sampler(told, failing)
    sampler.start()
    sampler.stop()
    assert [event["kind"] for event in told.events] == ["warning"]
    assert "the allocator is gone" in told.events[0]["message"]


def test_the_thread_looks_every_second_until_it_is_stopped(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    looks = 0

    def counted() -> list[Reading]:
        nonlocal looks
        looks += 1
        return []

    sampler = Sampler(told, counted)
    sampler.start()
    deadline = time.monotonic() + 30
    while looks < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    sampler.stop()
    assert looks >= 4
    assert 0 < sampler.own_seconds < 5


def test_the_log_keeps_what_was_sampled(tmp_path: Any) -> None:
    log = EventLog(tmp_path / "events.jsonl", 1)
    Sampler(log.append, Cards(two_gpus(), {}).read).sample()
    (event,) = read_events(tmp_path / "events.jsonl")
    assert len(event["devices"]) == 2
