"""Promises of the benchmarks: what they compare is comparable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.usefixtures("shared_data")
def test_the_handwritten_loops_have_the_losses_of_ours() -> None:
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), "--quick", "--no-trl", "--case", "qwen3-phi3-lora"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("losses agree with handwritten") == 2, done.stdout


def test_the_benchmark_of_the_release_says_what_it_measures_before_it_starts_anything() -> None:
    command = [sys.executable, str(BENCHMARKS / "release.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "dead in the very next cell" in done.stdout
