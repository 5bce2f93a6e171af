"""A model is loaded only where it fits beside the runs that train there; a GPU is pretended by what its driver says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.inference import room as rooms
from colab_magics.inference.room import Room, at_once, room
from colab_magics.memory.architecture import shape_of
from colab_magics.memory.living import Worker
from colab_magics.plan import Device, ModelShape
from colab_magics.plan.facts import GIB

pytestmark = pytest.mark.colab
QWEN3_4B = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "intermediate_size": 9728, "vocab_size": 151936, "max_position_embeddings": 40960,
    "tie_word_embeddings": True, "architectures": ["Qwen3ForCausalLM"],
}  # fmt: skip


def t4(free: float) -> Device:
    return Device("cuda", "Tesla T4", round(14.56 * GIB), round(free * GIB), 12 * GIB, (7, 5))


@pytest.fixture
def shape() -> ModelShape:
    return shape_of(QWEN3_4B)


@pytest.fixture
def trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that trains on a pretended T4: 9 GiB planned, 4 GiB taken so far, 10 GiB free as the driver says."""
    (tmp_path / "kwanzaa").mkdir()
    log = EventLog(tmp_path / "kwanzaa" / "events.jsonl", 1)
    log.append("plan", on=asdict(t4(14)), estimate={"peak": 9 * GIB}, choices={})
    log.close()
    monkeypatch.setattr(rooms, "living", lambda _: (Worker("kwanzaa", "training", reserved=4 * GIB),))
    monkeypatch.setattr(rooms, "this_device", lambda **_: t4(10))
    return tmp_path


def test_what_a_run_has_planned_and_not_taken_yet_is_not_free(trains: Path) -> None:
    found = room("cuda", trains)
    assert 4 * GIB < found.device.free < 5 * GIB, "10 free, less 9 with what comes on top, of which it has 4"
    assert [worker.run for worker in found.waits_for] == ["kwanzaa"]


def test_beside_a_run_a_model_that_does_not_fit_is_refused_with_what_helps(trains: Path, shape: ModelShape) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        at_once(shape, False, room("cuda", trains), loaded=False, count=4, context=2048, label="run big")
    said = str(refused.value).splitlines()
    assert said[0] == "run big does not fit on the GPU beside kwanzaa, which trains."
    assert "7.6 GiB of weights" in said[1]
    assert "for 2,048 tokens" in said[1]
    assert said[2] == "→ Wait for its end, or %finetune stop kwanzaa."
    assert "→ --on cpu asks it there, slowly." in said


def test_in_4_bits_it_fits_beside_the_run(trains: Path, shape: ModelShape) -> None:
    assert at_once(shape, True, room("cuda", trains), loaded=False, count=4, context=512, label="x") >= 1


def test_of_a_large_context_fewer_are_asked_at_once(shape: ModelShape) -> None:
    alone = Room(t4(14.4))
    counts = [
        at_once(shape, False, alone, loaded=False, count=100, context=context, label="x")
        for context in (256, 2048, 8192)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == rooms.MOST_AT_ONCE
    assert 1 <= counts[2] < counts[1] < counts[0]


def test_a_model_that_is_there_needs_only_its_cache(shape: ModelShape) -> None:
    full = Room(t4(14.4 - 8))
    assert at_once(shape, False, full, loaded=True, count=2, context=2048, label="x") == 2
    with pytest.raises(ColabMagicsError, match="x does not fit on the GPU"):
        at_once(shape, False, full, loaded=False, count=2, context=2048, label="x")


def test_a_run_that_is_starting_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "living", lambda _: (Worker("kwanzaa", "tokenising"),))
    monkeypatch.setattr(rooms, "this_device", lambda **_: t4(14))
    with pytest.raises(ColabMagicsError, match="kwanzaa is starting, and has not said yet how much memory it needs"):
        room("cuda", tmp_path)


def test_a_run_on_the_gpu_does_not_take_the_cpus_room(trains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "this_device", lambda **_: Device("cpu", "CPU", 12 * GIB, 8 * GIB, 8 * GIB))
    found = room("cpu", trains)
    assert (found.device.free, found.waits_for) == (8 * GIB, ())


def test_of_sizes_that_are_not_known_a_few_are_asked_at_once() -> None:
    assert at_once(None, False, Room(t4(14)), loaded=False, count=100, context=100, label="x") == 8
