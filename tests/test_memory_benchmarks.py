"""Promises of benchmarks/memory: its models are the public ones, and its commands judge what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from colab_magics.memory.architecture import shape_of

HOME = Path(__file__).resolve().parents[1] / "benchmarks" / "memory"
MODELS = json.loads((HOME / "models.json").read_text(encoding="utf-8"))
PUBLISHED = json.loads((HOME / "published.json").read_text(encoding="utf-8"))


def _grid(cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HOME), "grid", "--quick", "--only", "fp32 on a CPU"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "COLAB_MAGICS_CACHE": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_config_gives_the_number_of_weights_on_its_page(model):
    assert shape_of(MODELS[model]["config"]).parameters == MODELS[model]["parameters"]


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: f"{run['by']}, {run['what']}")
def test_a_published_run_names_its_source_and_a_model_that_is_known(run):
    assert run["source"]
    assert run["model"] in MODELS
    assert run["start"] is None or 0 < run["start"] < run["peak"]


def test_the_grid_compares_the_formula_with_traces_and_makes_none_twice(tmp_path):
    first = _grid(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "met, by each group too" in first.stdout
    kept = list((tmp_path / "benchmarks" / "memory").glob("*.json"))
    assert len(kept) == 6
    for path in kept:
        told = json.loads(path.read_text(encoding="utf-8"))
        told["parts"]["weights"] *= 2
        path.write_text(json.dumps(told), encoding="utf-8")
    second = _grid(tmp_path)
    assert second.returncode == 1
    assert "missed by fp32 on a CPU" in second.stdout
