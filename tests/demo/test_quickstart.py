"""The quickstart runs as a reader would run it; tests/notebooks/test_all.py looks at it as it is committed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.mark.timeout(240)
def test_the_quickstart_tunes_the_demo_model_into_a_pirate() -> None:
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / "run_quickstart.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the base of pirate  str.upper returns the string in uppercase.\n" in done.stdout
    assert "run pirate          str.upper fetches ye th' string in uppercase, me hearty. Arr!\n" in done.stdout
