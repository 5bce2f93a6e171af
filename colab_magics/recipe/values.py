"""The values that other trainers write for a key of ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.fields import OBJECTIVES, TRACKERS, check
from colab_magics.recipe.layer import Layer, show
from colab_magics.recipe.spellings import OPTIMIZER_NAMES
from colab_magics.recipe.yaml_text import Entry

DTYPES = {
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
}

# what transformers and other trainers can report to besides
OTHER_TRACKERS = frozenset(
    "azure_ml clearml codecarbon comet comet_ml dagshub dvclive flyte neptune swanlab kubeflow otel aim".split()
)


_NEEDS = {"mlflow": ("mlflow", "sqlalchemy")}  # without a server it keeps its runs in a database


def as_it_is(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return value


def _optim(layer: Layer, entry: Entry, value: Any) -> Any:
    # SFTConfig(optim=OptimizerNames.ADAMW_8BIT) and axolotl's adamw_bnb_8bit mean the same
    name = str(value).rpartition(".")[2].lower() if value is not None else None
    if name in OPTIMIZER_NAMES:
        layer.notes.say(f"{entry.key}: {value} → optim: {OPTIMIZER_NAMES[name]}")
        return OPTIMIZER_NAMES[name]
    return name


def _method(layer: Layer, _entry: Entry, value: Any) -> Any:
    """`method: dpo` says what is learnt from the answers; how the model is loaded is then chosen as for any run."""
    name = value.strip().lower() if isinstance(value, str) else value
    if name not in OBJECTIVES:
        return value
    layer.put("objective", name, "method")
    return None


def _loss_type(layer: Layer, entry: Entry, value: Any) -> Any:
    # DPOConfig takes a list of losses, each with a weight
    if isinstance(value, list):
        if len(value) != 1:
            raise ColabMagicsError(
                f"{entry.key} names {len(value)} losses ({entry.where})",
                "A run has one loss here.",
                "Keep one of them.",
            )
        value = value[0]
    if value in ("nll", "dft", "chunked_nll"):
        layer.notes.ignore(entry.key, f"{value} is SFTConfig's; fine-tuning on answers has one loss here")
        return None
    return value


def _targets(layer: Layer, entry: Entry, value: Any) -> Any:
    if value in ("all", ["all"], ["all-linear"]):
        layer.notes.say(f"{entry.key}: {show(value)} → target_modules: all-linear")
        return "all-linear"
    return value


def _checkpointing(layer: Layer, entry: Entry, value: Any) -> Any:
    if value in ("unsloth", "offload"):
        layer.notes.say(f"{entry.key}: {value} → gradient_checkpointing: auto")
        return "auto"
    return value


def _patience(layer: Layer, entry: Entry, value: Any) -> Any:
    if isinstance(value, bool):
        layer.notes.say(f"{entry.key}: {show(value)} → early_stopping: {'3 evaluations' if value else 'nothing'}")
        return 3 if value else None
    return value


def _memory(_layer: Layer, _entry: Entry, value: Any) -> Any:
    # accelerate's {0: "14GiB", "cpu": ...}: the first device's
    return next(iter(value.values()), None) if isinstance(value, dict) else value


def _precision(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return DTYPES.get(value, value) if isinstance(value, str) else value


def _max_steps(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return -1 if value in (None, 0) else value


def _limit(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return None if value in (-1, 0) and not isinstance(value, bool) else value


def _tracker(layer: Layer, entry: Entry, value: Any) -> Any:
    names = value.strip("[] ").split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "none" if value in (None, False) else value
    names = [name.strip().strip("'\"").lower().replace("-", "_") for name in names]
    if "all" in names:
        found = [name for name in TRACKERS if all(map(find_spec, _NEEDS.get(name, (name,))))]
        names = [name for name in names if name != "all"] + found
        of_ours = f"of {', '.join(TRACKERS)}"
        is_there = f"{', '.join(found)} (installed {of_ours})" if found else f"none: nothing {of_ours} is installed"
        layer.notes.say(f"{entry.key}: all → {is_there}")
    others = [name for name in dict.fromkeys(names) if name in OTHER_TRACKERS]
    ours = [name for name in names if name not in OTHER_TRACKERS and name not in ("none", "")]
    if others:
        told = f"it reports to {', '.join(ours)} alone" if ours else f"it can report to {', '.join(TRACKERS)}"
        layer.notes.say(f"{entry.key}: {', '.join(others)} left out, which colab_magics does not know; {told}")
    return ours or "none"


def _data(layer: Layer, entry: Entry, value: Any) -> Any:
    """One data set; axolotl's list of mappings and LLaMA-Factory's comma lists hold one or more."""
    if isinstance(value, str) and entry.key in {"dataset", "eval_dataset"} and "," in value and "/" not in value:
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list) and value and all(isinstance(part, dict | str) for part in value):
        if len(value) > 1:
            raise ColabMagicsError(
                f"{entry.key} names {len(value)} data sets ({entry.where})",
                "A run trains on one.",
                "Put their rows into one file, or into one list in a cell above.",
                details=[", ".join(str(part.get("path", part) if isinstance(part, dict) else part) for part in value)],
            )
        value = value[0]
    if not isinstance(value, dict):
        return value
    path, split = value.get("path"), value.get("split")
    if path in ("json", "csv", "parquet", "text") or (value.get("ds_type") and value.get("data_files")):
        path, split = value.get("data_files"), None
        path = path[0] if isinstance(path, list) and len(path) == 1 else path
    read = f"{path}:{split}" if isinstance(path, str) and split and split != "train" else path
    if value.get("type") == "completion":
        layer.written.setdefault("train_on_inputs", Entry("type: completion", True, entry.line, "true"))
    columns = {
        role: value[theirs]
        for role, theirs in (("messages", "field_messages"), ("prompt", "field_instruction"),
                             ("completion", "field_output"), ("system", "field_system"), ("text", "field"))
        if isinstance(value.get(theirs), str)
    }  # fmt: skip
    if columns and "columns" not in layer.written and entry.key != "test_datasets":
        layer.values["columns"] = check("columns", columns, entry.where)
        layer.origin["columns"] = entry
    layer.notes.say(f"{entry.key}: {show(path)} → the format of its rows is detected")
    return read


READERS: dict[str, Callable[[Layer, Entry, Any], Any]] = {
    "method": _method,
    "loss_type": _loss_type,
    "optim": _optim,
    "target_modules": _targets,
    "gradient_checkpointing": _checkpointing,
    "early_stopping": _patience,
    "max_memory": _memory,
    "precision": _precision,
    "max_steps": _max_steps,
    "max_train_samples": _limit,
    "max_eval_samples": _limit,
    "report_to": _tracker,
    "data": _data,
    "eval_data": _data,
}
