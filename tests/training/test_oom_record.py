"""What is kept of an out-of-memory on a GPU: enough to name it, little enough to cost nothing."""

from __future__ import annotations

import json
import time

import pytest
import torch
from pretended_cuda import MIB, PretendedAllocator, pretend

from colab_magics.training import cap
from colab_magics.training.oom import OutOfMemory, attempt
from colab_magics.training.oom_record import SECONDS, Observer, observe, taken

GPU = torch.device("cuda:0")


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> PretendedAllocator:
    """30 sizes of blocks: the smallest are the most, and one size takes more than all others."""
    return pretend(monkeypatch, [(MIB * (1 + size) + 10, 31 - size) for size in range(30)] + [(500 * MIB, 4)])


def test_the_record_has_the_counters_and_the_sizes_that_take_the_most(allocator: PretendedAllocator) -> None:
    observe(GPU)
    failure = attempt(lambda: allocator.fail(700 * MIB))
    assert isinstance(failure, OutOfMemory)
    record = failure.record
    assert record is not None
    assert (record["requested"], record["total"], record["free"]) == (700 * MIB, 15 * 2**30, 100 * MIB)
    assert record["reserved"] - record["allocated"] == 64 * MIB
    assert (record["inactive_split"], record["num_alloc_retries"]) == (3 * MIB, 2)
    assert record["blocks"][0] == {"bytes": 500 * MIB, "count": 4}
    takes = [block["bytes"] * block["count"] for block in record["blocks"]]
    assert takes == sorted(takes, reverse=True)
    assert len(takes) == 20, "bounded"
    assert "incomplete" not in record
    assert len(json.dumps(record)) < 2000


def test_a_record_belongs_to_one_out_of_memory(allocator: PretendedAllocator) -> None:
    observe(GPU)
    attempt(lambda: allocator.fail(MIB))
    assert taken() is None
    host = attempt(lambda: (_ for _ in ()).throw(MemoryError()))
    assert isinstance(host, OutOfMemory)
    assert host.record is None


def test_torch_is_given_one_observer_however_often_it_is_asked_for(allocator: PretendedAllocator) -> None:
    for _ in range(3):
        observe(GPU)
    assert len(allocator.observers) == 1


def test_a_cpu_is_not_observed(allocator: PretendedAllocator) -> None:
    observe(torch.device("cpu"))
    assert not allocator.observers


def test_a_storm_is_not_looked_at_again_and_again(allocator: PretendedAllocator) -> None:
    now = [0.0]
    observer = Observer(clock=lambda: now[0])
    for _ in range(50):
        observer(0, MIB, 1, 1)
        now[0] += 0.5
    assert allocator.snapshots == 4, "in 25 seconds"
    record = observer.take()
    assert record is not None
    assert "several times" in record["incomplete"]
    assert record["allocated"], "the counters are told each time"
    now[0] += 60
    observer(0, MIB, 1, 1)
    assert allocator.snapshots == 5


def test_what_cannot_be_told_costs_the_rest_nothing(
    allocator: PretendedAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a torch that is not as we know it")

    monkeypatch.setattr(torch.cuda, "memory_snapshot", broken)
    observe(GPU)
    failure = attempt(lambda: allocator.fail(MIB))
    assert isinstance(failure, OutOfMemory), "what an observer raises would replace the out-of-memory"
    assert "not as we know it" in failure.record["incomplete"]
    assert failure.record["allocated"]


def test_fifty_thousand_blocks_are_counted_in_fifty_milliseconds(allocator: PretendedAllocator) -> None:
    allocator.sizes = [(512 * (1 + number % 4000), 1) for number in range(50_000)]
    segments = allocator.snapshot()
    torch.cuda.memory_snapshot = lambda: segments  # monkeypatched by the fixture, which puts it back
    observer = Observer(clock=lambda: 0.0)  # none is left out, however long it takes
    begin = time.process_time()
    observer(0, MIB, 1, 1)
    assert time.process_time() - begin < 0.05
    record = observer.take()
    assert record is not None
    assert "incomplete" not in record
    assert record["blocks"][0] == {"bytes": 4000 * 512, "count": 12}
    assert len(record["blocks"]) == 20


def test_of_a_gpus_blocks_those_in_use_are_counted_and_no_others(allocator: PretendedAllocator) -> None:
    allocator.sizes = [(1000, 3), (MIB, 1)]  # beside them, 900 MiB that are free, and a block of another GPU
    observer = Observer()
    observer(0, MIB, 1, 1)
    record = observer.take()
    assert record is not None
    assert record["blocks"] == [{"bytes": MIB, "count": 1}, {"bytes": 1000, "count": 3}]


def test_blocks_that_were_all_counted_before_the_time_was_up_are_called_so(allocator: PretendedAllocator) -> None:
    allocator.sizes = [(512, 1023)]  # with the free one as many as are counted between two looks at the clock
    ticks = iter((0.0, 2 * SECONDS))
    observer = Observer(clock=lambda: next(ticks))
    observer(0, MIB, 1, 1)
    record = observer.take()
    assert record is not None
    assert "incomplete" not in record
    assert record["blocks"] == [{"bytes": 512, "count": 1023}]


def test_a_slow_look_ends_in_time_and_says_so(allocator: PretendedAllocator) -> None:
    allocator.sizes = [(512, 50_000)]
    ticks = iter(range(10**6))
    observer = Observer(clock=lambda: next(ticks) * SECONDS / 10)
    observer(0, MIB, 1, 1)
    record = observer.take()
    assert record is not None
    assert "in time" in record["incomplete"]
    assert 0 < record["blocks"][0]["count"] < 20_000


def test_more_blocks_than_can_be_listed_are_not_asked_for(allocator: PretendedAllocator) -> None:
    allocator.sizes = [(512, 100_001)]
    observer = Observer()
    observer(0, MIB, 1, 1)
    assert not allocator.snapshots
    assert "100,001" in observer.take()["incomplete"]  # type: ignore[index]


def test_max_memory_is_a_share_of_what_cuda_calls_the_total(allocator: PretendedAllocator) -> None:
    cap.cap_gpu(7 * 2**30, GPU)
    assert allocator.fractions == [0.5], "of 14 GiB; the driver says 15"


def test_a_max_memory_beyond_the_card_is_no_limit(allocator: PretendedAllocator) -> None:
    cap.cap_gpu(20 * 2**30, GPU)
    assert not allocator.fractions
