"""What torch tells of memory, and what a real worker's log then holds."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretended_cuda import pretend

from colab_magics.training import watch as watch_module
from colab_magics.training.watch import allocator, forget_peak, watch

GIB = 2**30
GPU = torch.device("cuda:0")


def allocated_and_reserved() -> dict[str, Any]:
    """Pretends to be the counters of a CUDA allocator in use."""
    return {
        "allocated_bytes": {"all": {"current": 3 * GIB, "peak": 5 * GIB}, "small_pool": {"current": 1}},
        "reserved_bytes": {"all": {"current": 4 * GIB, "peak": 6 * GIB}},
    }


@pytest.fixture
def cuda_in_use(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A torch whose CUDA is in use; returns the devices that it was asked for."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.cuda.memory,
        "memory_stats_as_nested_dict",
        lambda device: asked.append(device) or allocated_and_reserved(),
    )
    return asked


def test_the_allocator_is_asked_once(cuda_in_use: list[Any]) -> None:
    assert allocator(GPU) == {"allocated": 3 * GIB, "reserved": 4 * GIB, "peak": 5 * GIB}
    assert cuda_in_use == [GPU]


def test_without_cuda_in_use_nothing_is_asked_and_nothing_told() -> None:
    assert not torch.cuda.is_initialized()
    assert allocator(torch.device("cpu")) == {}
    assert allocator(GPU) == {}
    assert not torch.cuda.is_initialized(), "asking must not make a context"


def test_the_peak_can_be_counted_from_now_on_with_the_cache_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = pretend(monkeypatch, [])
    forget_peak(GPU)
    assert (allocator.emptied, allocator.peaks_forgotten) == (1, 1)
    forget_peak(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    forget_peak(GPU)
    assert (allocator.emptied, allocator.peaks_forgotten) == (1, 1), "no context is made for it"


def test_after_an_out_of_memory_the_peak_is_that_of_what_then_fits(
    tiny_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from colab_magics.training import loop

    forgotten: list[Any] = []
    monkeypatch.setattr(loop, "forget_peak", forgotten.append)
    run = tiny_run(max_steps=2, effective_batch_size=4)
    loss, failures = run.task.loss, [torch.OutOfMemoryError("CUDA out of memory.")]

    def cramped(batch: Any) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return loss(batch)

    cramped.chunk, cramped.chunked = loss.chunk, loss.chunked  # type: ignore[attr-defined]
    object.__setattr__(run.task, "loss", cramped)
    run.run()
    assert len(forgotten) == 1


def test_a_step_on_a_cpu_tells_no_allocator_s_figures(tiny_run: Callable[..., Any]) -> None:
    run = tiny_run(max_steps=2).run()
    assert not {"allocated", "reserved", "peak"} & set(run.told("step")[0])


def test_a_step_tells_what_the_allocator_holds_at_its_end(
    tiny_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from colab_magics.training import loop

    monkeypatch.setattr(loop, "allocator", lambda _device: {"allocated": 1, "reserved": 2, "peak": 3})
    step = tiny_run(max_steps=2).run().told("step")[-1]
    assert (step["allocated"], step["reserved"], step["peak"]) == (1, 2, 3)


def test_an_evaluation_tells_its_seconds(tiny_run: Callable[..., Any]) -> None:
    from conftest import documents

    (score, *_) = tiny_run(max_steps=2, eval_docs=documents(4, seed=1)).run().told("eval")
    assert score["seconds"] > 0


def test_an_amd_card_is_told_as_far_as_torch_knows_it(monkeypatch: pytest.MonkeyPatch, cuda_in_use: list[Any]) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "AMD Instinct MI300X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (100 * GIB, 192 * GIB))
    (event,) = _sampled(GPU)
    (card,) = event["devices"]
    assert (card["name"], card["total"], card["used"]) == ("AMD Instinct MI300X", 192 * GIB, 92 * GIB)
    assert (card["utilisation"], card["temperature"], card["power"]) == (None, None, None)
    assert event["peak"] == 5 * GIB


def test_an_amd_card_before_its_first_use_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert _sampled(GPU)[0]["devices"] == []


def test_an_apple_gpu_is_told_as_far_as_torch_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = SimpleNamespace(
        current_allocated_memory=lambda: GIB,
        driver_allocated_memory=lambda: 2 * GIB,
        recommended_max_memory=lambda: 12 * GIB,
    )
    monkeypatch.setattr(torch, "mps", metal)
    (event,) = _sampled(torch.device("mps"))
    (card,) = event["devices"]
    assert (card["total"], card["used"]) == (12 * GIB, 2 * GIB)
    assert (event["allocated"], event["reserved"], event["peak"]) == (GIB, 2 * GIB, None)


def test_an_nvidia_card_is_read_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    from memory.pretended import two_gpus

    from colab_magics.memory.nvml import Cards

    monkeypatch.setattr(watch_module, "Cards", lambda: Cards(two_gpus(), {}))
    assert [card["index"] for card in _sampled(GPU)[0]["devices"]] == [0, 1]


def _sampled(device: torch.device) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    watch(device, lambda _kind, **fields: told.append(fields)).sample()
    return told
