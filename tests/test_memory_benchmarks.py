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


def _said(*arguments: str, cache: Path) -> str:
    command = [sys.executable, str(HOME), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "COLAB_MAGICS_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("model", MODELS)
def test_a_models_config_gives_the_number_of_weights_on_its_page(model):
    assert shape_of(MODELS[model]["config"]).parameters == MODELS[model]["parameters"]


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: f"{run['by']}, {run['what']}")
def test_a_published_run_names_its_source_and_a_model_that_is_known(run):
    assert run["source"]
    assert run["model"] in MODELS
    assert run["start"] is None or 0 < run["start"] < run["peak"]


def test_the_grid_compares_the_formula_with_traces_and_keeps_them(tmp_path):
    said = _said("grid", "--quick", "--only", "packed row", cache=tmp_path)
    assert "met, by each group too" in said
    kept = list((tmp_path / "benchmarks" / "memory").glob("*.json"))
    assert kept
    for path in kept:  # what is kept is what is shown: a trace is not made twice
        told = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**told, "parts": {**told["parts"], "weights": 2 * told["parts"]["weights"]}}))
    command = [sys.executable, str(HOME), "grid", "--quick", "--only", "packed row"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLAB_MAGICS_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == 1
    assert "missed by several documents in a packed row" in done.stdout
