"""On which platform this is. Nobody else asks for its marks."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

VARIABLE = "COLAB_MAGICS_PLATFORM"

_RUN_TYPE = "KAGGLE_KERNEL_RUN_TYPE"
# Set by the machine itself; a project's or a key's variable may be set anywhere.
_MARKS = {
    "LIGHTNING_CLOUD_SPACE_ID": "lightning",
    "PAPERSPACE_NOTEBOOK_REPO_ID": "paperspace",
    "PAPERSPACE_METRIC_WORKLOAD_ID": "paperspace",
    "PAPERSPACE_CLUSTER_ID": "paperspace",
    "RUNPOD_POD_ID": "runpod",
}


class Detected(NamedTuple):
    """A platform's key, and how it was known, in a few words."""

    key: str
    evidence: str


def detect(environ: Mapping[str, str], modules: Collection[str], files: Path = Path("/")) -> Detected:
    """The platform, by what it sets; `plain` where nothing is known.

    A bare `/content` or `/storage` is no mark: many scripts make them elsewhere.

    Parameters
    ----------
    environ, modules : the process's variables and the names of its modules
    files : the root below which marks are looked for
    """
    if key := environ.get(VARIABLE):
        return Detected(key, VARIABLE)
    return _kaggle(environ) or _colab(environ, modules, files) or _elsewhere(environ, files)


def _kaggle(environ: Mapping[str, str]) -> Detected | None:
    # before Colab: Kaggle's image is built on Colab's, and some of Colab's marks are in it
    if not on_kaggle(environ):
        return None
    return Detected("kaggle-batch" if is_batch(environ) else "kaggle", f"{_RUN_TYPE}={environ[_RUN_TYPE]}")


def _colab(environ: Mapping[str, str], modules: Collection[str], files: Path) -> Detected | None:
    if environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE":
        return Detected("colab-enterprise", "VERTEX_PRODUCT=COLAB_ENTERPRISE")
    hosted = "TBE_RUNTIME_ADDR" in environ or (files / "var/colab/hostname").exists()
    if not hosted and not on_colab(modules) and "COLAB_RELEASE_TAG" not in environ:
        return None
    if not hosted:
        return Detected("colab-local", "Colab's libraries, without Colab's machine")
    paid = next((model for model in _gpus(files) if "T4" not in model), None)
    if paid is not None:
        return Detected("colab-pro", f"{paid}, which Colab Free does not give")
    return Detected("colab-free", "Colab's machine; which plan cannot be seen")


def _gpus(files: Path) -> list[str]:
    """The models of the machine's GPUs, as the driver tells them without being loaded."""
    models = []
    for path in sorted((files / "proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        models += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return models


def _elsewhere(environ: Mapping[str, str], files: Path) -> Detected:
    for name, key in _MARKS.items():
        if name in environ:
            return Detected(key, name)
    if environ.get("HOME") == "/home/studio-lab-user" and (files / "home/studio-lab-user").is_dir():
        return Detected("sagemaker-studio-lab", "the home /home/studio-lab-user")
    return Detected("plain", "no platform's mark was found")


def on_colab(modules: Collection[str] | None = None) -> bool:
    """Whether this is a kernel of Colab's: it has imported `google.colab` before the first cell."""
    return "google.colab" in (sys.modules if modules is None else modules)


def on_kaggle(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this is a machine of Kaggle's, interactive or batch."""
    return bool((os.environ if environ is None else environ).get(_RUN_TYPE))


def is_batch(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the machine ends with the notebook's last cell."""
    return (os.environ if environ is None else environ).get(_RUN_TYPE) == "Batch"
