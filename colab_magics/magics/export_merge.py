"""Following the process that merges: its progress shown, its end waited for, and ended with the cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.credentials import token_environment
from colab_magics.errors import ColabMagicsError, redact
from colab_magics.magics.export_line import Line
from colab_magics.run import Run
from colab_magics.sizes import size

Said = Callable[[str], None]
_PHASES = {"downloading": "Downloading the base", "merging": "Merging"}


def merge(adapter: Path, into: Path, line: Line, *, copies: float, say: Said, show: Said) -> dict[str, Any]:
    """Merge the adapter into its base; what was made, as the process tells it.

    Parameters
    ----------
    adapter : its folder
    into : an empty folder
    copies : how many times the merged model stands on that disk at the most
    say : told what should stay on the screen, a sentence each
    show : told how far it is, in a line that takes the place of the one before

    Raises
    ------
    ColabMagicsError
        The base cannot be had or does not fit, the disk is too full, or the process was killed.
    """
    request = {
        "adapter": os.fspath(adapter),
        "into": os.fspath(into),
        "dtype": line.dtype,
        "base": line.base,
        "revision": line.base_revision,
        "copies": copies,
    }
    environment = {**os.environ, **worker.importable(), **token_environment(), "CUDA_VISIBLE_DEVICES": ""}
    # -P: a `torch.py` beside the notebook must not shadow the library
    command = [sys.executable, "-P", "-m", "colab_magics.training.merging"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            answer = _followed(process, request, say, show)
        finally:
            process.kill()  # interrupted, the cell must not leave it at work; ended, it is gone
            process.wait()
        if answer is None:
            errors.seek(0)
            raise _died(process.returncode, errors.read())
    if "error" in answer:
        raise ColabMagicsError.from_dict(answer["error"])
    made: dict[str, Any] = answer["merged"]
    return made


def written_since(base: Path, run: Run) -> bool:
    """Whether a folder's weights are younger than the run: nobody knows what they were when it began."""
    started = next((event for event in run.events() if event["kind"] == "started"), None)
    newest = max((file.stat().st_mtime for file in base.expanduser().glob("*.safetensors")), default=0.0)
    return started is not None and newest > datetime.fromisoformat(started["time"]).timestamp()


def _followed(
    process: subprocess.Popen[str], request: Mapping[str, Any], say: Said, show: Said
) -> dict[str, Any] | None:
    """The process's last word; None where it had none."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
    except BrokenPipeError:
        return None
    for text in process.stdout:
        told = json.loads(text)
        if "said" in told:
            say(told["said"])
        elif "phase" in told:
            done, total = int(told["done"]), int(told["total"])
            show(f"{_PHASES[told['phase']]}: {size(done)} of {size(total)} ({done / total if total else 1:.0%})")
        else:
            process.wait()
            return dict(told)
    process.wait()
    return None


def _died(code: int, errors: str) -> ColabMagicsError:
    if code == -9:
        return ColabMagicsError(
            "The process that merged was killed.",
            "The machine's memory ran out, most likely.",
            "Free memory (%vram free; end other notebooks), and export again.",
        )
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), f"it ended with code {code}")
    return ColabMagicsError(
        "The process that merged has failed.", redact(last.strip()), "Please report it, with this line."
    )
