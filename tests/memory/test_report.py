"""The report: whose memory is whose on each card, what cannot be told, and that asking costs no CUDA context."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memory import pretended
from memory.pretended_cuda import GIB, PretendedCuda, PretendedDevice, pretended_torch

from colab_magics.memory import report
from colab_magics.memory.allocator import CONTEXT, allocators, held_here
from colab_magics.memory.living import Worker, living
from colab_magics.memory.nvml import Cards
from colab_magics.memory.report import Report, holders, take

pytestmark = [pytest.mark.face, pytest.mark.colab]

NOBODY = Path("/there/are/no/runs")


@pytest.fixture
def torch_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PretendedCuda]:
    """Has this process use such cards through torch."""

    def use(*devices: PretendedDevice, **how: Any) -> PretendedCuda:
        torch = pretended_torch(*devices, **how)
        monkeypatch.setitem(sys.modules, "torch", torch)
        return torch.cuda  # type: ignore[no-any-return]

    return use


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker("kwanzaa", "training, step 12 of 60", allocated=GIB, reserved=GIB, rss=2 * GIB)
    monkeypatch.setattr(report, "living", lambda _: (worker,))
    return worker


def t4(used: float) -> Any:
    return pretended.Nvml(pretended.Gpu("GPU-aaaa1111-0000-0000-0000-000000000001", used=int(used * GIB)))


# --- whose memory it is ----------------------------------------------------------------------------------------------


def test_a_card_is_divided_into_this_process_the_workers_and_others(torch_here: Any, trains: Worker) -> None:
    torch_here(PretendedDevice(allocated=3 * GIB, reserved=4 * GIB, fragmented=GIB // 2))
    [card] = take(NOBODY, nvml=t4(7)).gpus
    assert (card.name, card.total, card.used) == ("Tesla T4", 15 * GIB, 7 * GIB)
    assert (card.allocated, card.cached, card.fragmented) == (3 * GIB, GIB, GIB // 2)
    assert (card.workers, card.others) == (GIB, 2 * GIB)  # the worker's is not the others'


def test_a_process_that_does_not_use_cuda_holds_nothing_and_gets_no_context(torch_here: Any) -> None:
    cuda = torch_here(PretendedDevice(), initialised=False)
    [card] = take(NOBODY, nvml=t4(2)).gpus
    assert (card.allocated, card.cached, card.others) == (0, 0, 2 * GIB)
    assert cuda.contexts == set()
    assert cuda.called == []
    assert held_here() == 0


def test_of_several_cards_none_gets_a_context_that_had_none(torch_here: Any) -> None:
    cuda = torch_here(PretendedDevice(allocated=GIB, reserved=GIB), PretendedDevice())
    taken = take(NOBODY, nvml=pretended.two_gpus())
    assert [(card.name, card.allocated) for card in taken.gpus] == [("NVIDIA A100-SXM4-40GB", GIB), ("Tesla T4", 0)]
    assert cuda.contexts == {0}


def test_without_torch_and_without_a_gpu_the_machines_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    taken = take(NOBODY, nvml=pretended.absent())
    assert taken.gpus == ()
    assert 0 < taken.host.this_process <= taken.host.total
    assert taken.host.others >= 0
    assert "torch" not in sys.modules
    assert allocators() == ()


def test_on_the_host_a_workers_memory_is_the_workers_too(trains: Worker) -> None:
    taken = take(NOBODY, nvml=pretended.absent())
    assert taken.host.workers == 2 * GIB


# --- what cannot be told ---------------------------------------------------------------------------------------------


def test_a_card_that_does_not_answer_is_named_and_spoils_no_other() -> None:
    nvml = pretended.two_gpus()
    pretended.lose(nvml.gpus[0])
    taken = take(NOBODY, nvml=nvml)
    assert [card.total for card in taken.gpus] == [40 * GIB, None]
    assert taken.notes == ("GPU 1 does not answer its driver; its memory cannot be told.",)


def test_a_mig_instance_is_said_to_be_one(torch_here: Any) -> None:
    torch_here(PretendedDevice(allocated=GIB, reserved=GIB))
    taken = take(NOBODY, nvml=pretended.mig())
    assert taken.gpus[0].total == 20 * GIB
    assert "MIG instance" in taken.notes[0]


def test_where_nvml_is_broken_torch_tells_what_it_can(torch_here: Any) -> None:
    torch_here(PretendedDevice(allocated=GIB, reserved=2 * GIB, free=5 * GIB))
    taken = take(NOBODY, nvml=pretended.absent())
    [card] = taken.gpus
    assert (card.name, card.used, card.free, card.others) == ("AMD Instinct MI300X", 10 * GIB, 5 * GIB, 8 * GIB)
    assert taken.notes == ("The driver cannot be asked (no NVML); the figures are torch's own.",)


def test_an_amd_gpu_is_told_by_torch(torch_here: Any) -> None:
    torch_here(PretendedDevice(allocated=GIB, reserved=2 * GIB))
    sys.modules["torch"].version.hip = "6.2"  # type: ignore[attr-defined]
    assert take(NOBODY, nvml=pretended.absent()).notes[0].startswith("Of an AMD GPU torch alone tells")


def test_after_a_sticky_error_the_allocators_own_figures_remain(torch_here: Any) -> None:
    torch_here(PretendedDevice(allocated=GIB, reserved=2 * GIB), failure="CUDA error: device-side assert triggered")
    [card] = take(NOBODY, nvml=pretended.absent()).gpus
    assert (card.total, card.allocated, card.others) == (None, GIB, None)


def test_of_an_apple_gpu_only_this_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = SimpleNamespace(
        current_allocated_memory=lambda: GIB,
        driver_allocated_memory=lambda: 2 * GIB,
        recommended_max_memory=lambda: 10 * GIB,
    )
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(mps=mps, backends=backends))
    taken = take(NOBODY, nvml=pretended.absent())
    [card] = taken.gpus
    assert (card.name, card.total, card.allocated, card.cached) == ("Apple GPU", 10 * GIB, GIB, GIB)
    assert "Apple" in taken.notes[0]


@pytest.mark.parametrize(
    ("visible", "begin"), [("", "CUDA_VISIBLE_DEVICES= shows"), (None, "There is an NVIDIA driver, but")]
)
def test_a_driver_without_a_card_is_told(monkeypatch: pytest.MonkeyPatch, visible: str | None, begin: str) -> None:
    monkeypatch.setattr(report, "_DRIVER", Path(__file__))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    [note] = take(NOBODY, nvml=pretended.absent()).notes
    assert note.startswith(begin)


def test_a_torch_that_is_only_half_imported_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert take(NOBODY, nvml=t4(2)).gpus[0].allocated == 0


# --- for the cell that needs the room --------------------------------------------------------------------------------


def test_what_is_held_here_is_what_is_reserved_and_a_context(torch_here: Any) -> None:
    torch_here(PretendedDevice(allocated=GIB, reserved=2 * GIB), PretendedDevice())
    assert held_here() == 2 * GIB + CONTEXT
    assert holders(SimpleNamespace(user_ns={})) == ""


def test_a_report_is_plain_values(trains: Worker) -> None:
    taken = take(NOBODY, nvml=pretended.two_gpus())
    assert json.loads(json.dumps(taken.to_dict()))["gpus"][0]["total"] == 40 * GIB
    assert isinstance(taken, Report)
    assert len(Cards(pretended.two_gpus())) == 2


# --- workers ---------------------------------------------------------------------------------------------------------


def run_with(root: Path, name: str, *lines: Any) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    text = [line if isinstance(line, str) else json.dumps({"attempt": 1, **line}) for line in lines]
    (folder / "events.jsonl").write_text("\n".join(text))
    return folder


MEMORY = {"kind": "memory", "allocated": 5, "reserved": 7, "rss": 11}


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colab_magics.worker.is_alive", lambda folder: "dead" not in folder.name)


@pytest.mark.usefixtures("alive")
def test_a_living_worker_is_told_by_its_newest_words(tmp_path: Path) -> None:
    run_with(tmp_path, "dead", MEMORY)
    run_with(tmp_path, "kwanzaa", {"kind": "memory", "rss": 1}, MEMORY,
             {"kind": "step", "step": 12, "total_steps": 60}, {"kind": "eval"}, '{"kind": "step", "st')  # fmt: skip
    run_with(tmp_path, ".starting-pirate-0123abcd", {"kind": "progress", "phase": "loading"})
    assert living(tmp_path) == (
        Worker("pirate", "loading"),
        Worker("kwanzaa", "training, step 12 of 60", 5, 7, 11),
    )


@pytest.mark.usefixtures("alive")
def test_odd_logs_and_long_ones_are_no_trouble(tmp_path: Path) -> None:
    run_with(tmp_path, "odd", "[]", "null", "{", {"kind": "memory", "reserved": "much", "rss": -1, "allocated": 1e400})
    run_with(tmp_path, "long", MEMORY, *({"kind": "step", "step": step, "pad": "x" * 300} for step in range(2000)))
    (tmp_path / "empty").mkdir()
    assert living(tmp_path) == (
        Worker("empty", "starting"),
        Worker("long", "training, step 1999"),
        Worker("odd", "starting"),
    )
    assert living(tmp_path / "nowhere") == ()
