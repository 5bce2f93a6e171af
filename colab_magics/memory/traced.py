"""Asking for traces from a process of its own: the kernel imports no torch, and what tracing holds is gone with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import ConfigFile
from colab_magics.memory.estimate import Estimate
from colab_magics.memory.prediction import Prediction
from colab_magics.plan import Device, ModelShape, Plan, Setup, Verdict
from colab_magics.recipe import Recipe
from colab_magics.version import __version__

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
_FORM = 2  # of an answer: of an earlier form, what is kept has other parts
_PATIENCE = 180.0  # seconds: a model whose layers all differ is traced whole


class NotTraced(Exception):
    """Why there is no trace, in a sentence."""


@dataclass(frozen=True)
class Traces:
    """What a trace told: the model's sizes, how it may be trained, and a prediction for each device.

    `peers` has, device by device, what others' way takes.
    """

    shape: ModelShape
    verdict: Verdict
    predictions: tuple[Prediction, ...]
    peers: tuple[Mapping[str, Estimate], ...]


def traces(
    model: ConfigFile,
    recipe: Recipe,
    devices: Sequence[Device],
    lengths: npt.NDArray[np.int32],
    *,
    compare: bool = False,
    cache: Path | None = None,
) -> Traces:
    """Trace the model's own code for each device.

    Parameters
    ----------
    lengths : of the documents
    compare : also what others' way takes
    cache : where answers are kept, by what was asked and the libraries' versions

    Raises
    ------
    ColabMagicsError
        The recipe asks for what the model or a device cannot do.
    NotTraced
        The libraries are not there, or the model's code cannot be run without numbers.
    """
    request = {
        "folder": os.fspath(model.folder),
        "weight_bytes": model.weight_bytes,
        "recipe": recipe.to_yaml(),
        "devices": [asdict(device) for device in devices],
        "lengths": lengths.tolist(),
        "compare": compare,
        "cache": os.fspath(cache) if cache is not None else None,
    }
    kept = cache / "traces" / f"{_key(request, model)}.json" if cache is not None else None
    answer = _read(kept)
    if answer is not None:
        try:
            return _told(answer, recipe, devices)
        except (KeyError, TypeError, ValueError):
            pass  # torn, or of a version with other fields: asked anew
    answer = _ask(request)
    if "error" in answer:
        raise ColabMagicsError.from_dict(answer["error"])
    if "predictions" not in answer:
        raise NotTraced(str(answer.get("untraceable", "its process gave no answer")))
    if kept is not None:
        _keep(kept, answer)
    return _told(answer, recipe, devices)


def _told(answer: Mapping[str, Any], recipe: Recipe, devices: Sequence[Device]) -> Traces:
    told = answer["predictions"]
    made = tuple(_prediction(one, device, recipe) for one, device in zip(told, devices, strict=True))
    peers = tuple({name: Estimate(**parts) for name, parts in one["peers"].items()} for one in told)
    return Traces(ModelShape(**answer["shape"]), Verdict(**answer["verdict"]), made, peers)


def _prediction(told: Mapping[str, Any], device: Device, recipe: Recipe) -> Prediction:
    return Prediction(
        device,
        Plan.from_dict(told["plan"]),
        Setup(**told["setup"]),
        Estimate(**told["parts"]),
        1,
        str(told["moment"]),
        recipe.max_memory_bytes,
    )


def _key(request: Mapping[str, Any], model: ConfigFile) -> str:
    versions = [__version__, _FORM, *map(_version, _LIBRARIES)]
    asked = {key: value for key, value in request.items() if key not in ("folder", "cache")}
    text = json.dumps([versions, asked, model.config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    missing = [library for library in _LIBRARIES if not _version(library)]
    if missing:
        raise NotTraced(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed")
    environment = {**os.environ, **worker.importable(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # -P: a `torch.py` beside the notebook must not shadow the library
    command = [sys.executable, "-P", "-m", "colab_magics.training.tracing"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotTraced(f"it was not done in {_PATIENCE:.0f} s") from None
    try:
        # the last line: what a site's own start-up prints comes before anything of ours
        answer = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotTraced(f"its process ended with code {done.returncode}{f': {said[-1]}' if said else ''}") from None
    return answer if isinstance(answer, dict) else {}


def _read(kept: Path | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    try:
        answer = json.loads(kept.read_text())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and "predictions" in answer else None


def _keep(kept: Path, answer: Mapping[str, Any]) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        staged = kept.with_suffix(f".{os.getpid()}.tmp")
        staged.write_text(json.dumps(answer))
        staged.replace(kept)
    except OSError:
        return  # the answer is right all the same
