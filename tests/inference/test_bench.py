"""The bench: what it measures, and the limit that a card's memory sets; cards are pretended by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.inference import bench as benches
from colab_magics.inference.bench import bench
from colab_magics.inference.generate import Where
from colab_magics.inference.subject import of_model
from colab_magics.magics.bench_show import page
from colab_magics.magics.generate import run
from colab_magics.magics.generate_line import read
from colab_magics.memory.inference import cache_per_token
from colab_magics.plan import Device
from colab_magics.session.table import load_table

pytestmark = pytest.mark.colab
Leave = Callable[..., Path]


@pytest.fixture
def where(tmp_path: Path) -> Where:
    return Where(tmp_path)


def card(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(benches, "this_device", lambda **_: Device("cuda", name, 2**34, 2**34, 2**34, (8, 0)))


def gpu_model() -> Any:
    return SimpleNamespace(device=SimpleNamespace(type="cuda"))


def test_prefill_decode_and_latency_are_measured_apart_and_agree(where: Where) -> None:
    made = bench(of_model("demo"), where, batches=(2, 1), lengths=(64,), new_tokens=6, repeats=1)
    assert [(row.batch, row.prompt_length) for row in made.rows] == [(1, 64), (2, 64)]
    for row in made.rows:
        assert row.prefill == pytest.approx(row.batch * 64 / row.first)
        assert 0 < row.p50 <= row.p90 <= row.p99
        assert row.batch / row.decode <= row.p99 * 1.001, "the mean of five gaps is not above the largest"
        assert row.limit is None
    assert made.weights == 4 * _parameters()
    said = page(made).text()
    assert "No memory bandwidth is known of this device, so no limit is shown." in said
    assert "of the limit" not in said
    assert made.to_dict()["rows"][0]["batch"] == 1


def _parameters() -> int:
    from transformers import AutoModelForCausalLM

    from colab_magics import demo

    return int(AutoModelForCausalLM.from_pretrained(demo.model_path()).num_parameters())


def test_the_limit_is_bandwidth_over_what_a_step_reads(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "_bandwidth", lambda _: (320e9, "Tesla T4"))
    subject = of_model("demo")
    made = bench(subject, where, batches=(4,), lengths=(60,), new_tokens=8, repeats=1)
    [row] = made.rows
    shape = subject.shape()
    assert shape is not None
    assert row.limit == pytest.approx(4 * 320e9 / (made.weights + 4 * 64 * cache_per_token(shape)))
    said = page(made).text()
    assert "at 320 GB/s by NVIDIA's data sheet" in said
    assert "of the limit" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tesla T4", 320e9),
        ("NVIDIA L4", 300e9),
        ("NVIDIA A100-SXM4-40GB", 1555e9),
        ("NVIDIA A100-SXM4-80GB", 2039e9),
        ("NVIDIA H100 80GB HBM3", 3350e9),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 2060", None),
    ],
)
def test_a_known_card_has_the_bandwidth_of_its_data_sheet_and_no_other_has_one(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: float | None
) -> None:
    card(monkeypatch, name)
    assert benches._bandwidth(gpu_model()) == (expected, name)


def test_every_gpu_of_the_table_has_a_bandwidth_and_the_cpu_has_none() -> None:
    found = {key: one.bandwidth for key, one in load_table().accelerators.items()}
    assert found.pop("cpu") is None
    assert all(value is not None and 1e11 < value < 1e13 for value in found.values()), found


def test_of_an_embedding_that_is_no_head_a_step_reads_one_row() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from colab_magics import demo

    sizes = {}
    for tied in (True, False):
        config = AutoConfig.from_pretrained(demo.model_path(), tie_word_embeddings=tied)
        sizes[tied] = benches._read_each_step(AutoModelForCausalLM.from_config(config))
    assert sizes[True] == sizes[False]


def test_what_is_beyond_the_context_is_refused_where_nothing_is_left(where: Where) -> None:
    with pytest.raises(ColabMagicsError, match="the model's context is 512"):
        bench(of_model("demo"), where, batches=(1,), lengths=(600,), new_tokens=4)


def test_of_a_runs_result_the_last_bench_is_kept_and_of_its_base_none(a_run: Leave, tmp_path: Path) -> None:
    folder = a_run()
    line = "--bench --batch 1 --prompt-length 8 --max-new-tokens 3 --repeats 1".split()
    run(read([*line, "--base"]), None, tmp_path)
    assert not (folder / "bench.json").exists()
    run(read(line), None, tmp_path)
    made = run(read(line), None, tmp_path)
    kept = json.loads((folder / "bench.json").read_text())
    assert kept["rows"][0]["decode"] == made.rows[0].decode
    assert kept["label"] == "run pirate"
