"""A `checkpoint-N` of transformers' Trainer, TRL or Unsloth: read, checked, and committed as a checkpoint of ours.

Only safetensors and JSON are read here. The optimizer's states lie in a pickle: where a person trusts it, a process
of its own turns it into safetensors.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import prod
from pathlib import Path
from typing import Any, Literal

from colab_magics import worker
from colab_magics.checkpoints.commit import Contents, commit
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.checkpoints.tensors import Tensor, laid_out, read_tensors
from colab_magics.errors import ColabMagicsError, redact

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
PICKLE = "optimizer.pt"
_MOST_CONFIG = 2**20
_MOST_LOG = 16 * 2**20  # trainer_state.json has a line of its log for every 200 bytes
_LAST_STEP = 10**8 - 1  # a checkpoint's name has eight digits
_PATIENCE = 900.0  # seconds for the child: to import torch, and to read the states of a full model

_SHARD = re.compile(r"-\d+-of-\d+\.|\.index\.json$")
_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FLOATS = ("F64", "F32", "F16", "BF16")
# Each makes of r and lora_alpha something else than one scale for all modules, or trains what ours does not.
_BEYOND_LORA = (
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "velora_config",
    "monteclora_config",
    "kasa_config",
)
# The other ways to begin (PiSSA, OLoRA, LoftQ, …) change the base model's weights, which the checkpoint does not hold.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Foreign:
    """What such a folder holds, checked.

    Attributes
    ----------
    weights : mapping of name to Tensor
        Mapped from the file.
    configs : mapping of file name to bytes
        What makes the checkpoint's folder loadable as it stands.
    adapter : mapping
        Of a LoRA adapter: r, lora_alpha, lora_dropout, target_modules, modules_to_save, use_rslora, use_dora, base,
        revision. Empty for a full model.
    step : int
        Optimizer steps that were done.
    steps : int, optional
        How many it was to be.
    micro_batch : int, optional
        Documents of one forward and backward there.
    """

    folder: Path
    method: Literal["adapter", "full"]
    weights: Mapping[str, Tensor]
    configs: Mapping[str, bytes]
    adapter: Mapping[str, Any]
    step: int
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    micro_batch: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.data.nbytes for tensor in self.weights.values())

    @property
    def numbers(self) -> int:
        """How many weights there are."""
        return sum(prod(tensor.shape) for tensor in self.weights.values())


@dataclass(frozen=True)
class Moments:
    """The optimizer's states, by their place in the optimizer: `exp_avg/#0`, `exp_avg_sq/#0`, `step/#0`, …

    Attributes
    ----------
    groups : tuple of int
        How many parameters each of the optimizer's groups has; the places count through all of them.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    groups: tuple[int, ...] = ()


def look(folder: Path) -> Foreign:
    """What the folder holds.

    Raises
    ------
    ColabMagicsError
        It is no checkpoint, or one that cannot be taken over: pickled, sharded, not LoRA, linked, altered.
    """
    names = _names(folder)
    if ADAPTER in names:
        config = _json(folder / "adapter_config.json", _MOST_CONFIG)
        adapter = _adapter(folder, config)
        # peft imports the library that this one names
        configs = {"adapter_config.json": _text({**config, "auto_mapping": None})}
        weights = _weights(folder / ADAPTER)
        _check_ranks(folder, weights, adapter["r"])
        method: Literal["adapter", "full"] = "adapter"
    elif MODEL in names:
        adapter, method = {}, "full"
        configs = {"config.json": _text(_json(folder / "config.json", _MOST_CONFIG))}
        if "generation_config.json" in names:
            configs["generation_config.json"] = _text(_json(folder / "generation_config.json", _MOST_CONFIG))
        weights = _weights(folder / MODEL)
    else:
        raise _no_weights(folder, names)
    told = _json(folder / "trainer_state.json", _MOST_LOG) if "trainer_state.json" in names else {}
    return Foreign(
        folder,
        method,
        weights,
        configs,
        adapter,
        step=_step(folder, told),
        steps=_count(told.get("max_steps")),
        epoch=_finite(told.get("epoch")),
        loss=_last_loss(told.get("log_history")),
        micro_batch=_count(told.get("train_batch_size")),
    )


def take(foreign: Foreign, checkpoints: Path, *, name: str, run: str, moments: Moments | None = None) -> Path:
    """Commit it as the first checkpoint of the run `name`, whose id is `run`; the checkpoint's folder.

    Raises
    ------
    OSError
        The disk refuses.
    """
    source = "/".join(foreign.folder.absolute().parts[-2:])
    imported = {
        "source": source,
        "method": foreign.method,
        "adapter": dict(foreign.adapter),
        "epoch": foreign.epoch,
        "groups": list(moments.groups) if moments is not None else None,
    }
    progress = {"step": foreign.step, "samples": 0, "last_loss": foreign.loss}
    contents: dict[str, Any] = {
        ADAPTER if foreign.method == "adapter" else MODEL: laid_out(foreign.weights, {"format": "pt"}),
        **{file: [text] for file, text in foreign.configs.items()},
        STATE: [_text({"version": 1, "imported": imported, "progress": progress})],
    }
    if moments is not None:
        contents[OPTIMIZER] = laid_out(moments.tensors)
    facts = {
        "name": name,
        "model": redact(str(foreign.adapter.get("base") or "")) or None,
        "method": "lora" if foreign.method == "adapter" else "full",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "total_steps": foreign.steps,
        "reason": "imported",
        "parent": redact(source),
        "metrics": {"loss": foreign.loss} if foreign.loss is not None else {},
    }
    target = checkpoints / folder_name(foreign.step, 0)
    committed: Contents = contents
    commit(target, committed, Manifest("checkpoint", run, {}, foreign.step, 0, facts))
    return target


def unpickled(foreign: Foreign, scratch: Path) -> Moments:
    """The optimizer's states, which a process of its own reads from the pickle and writes to `scratch`.

    Raises
    ------
    ColabMagicsError
        There is none, or it holds something else; nothing of it was run.
    """
    path = foreign.folder / PICKLE
    if not os.path.lexists(path):
        raise ColabMagicsError(
            f"{foreign.folder.name} has no {PICKLE}.",
            "--trust-pickle takes the optimizer's states from it.",
            "Leave --trust-pickle out: the weights need no trust.",
        )
    # two moments of fp32 and a count for each tensor, and what a zip of many files needs besides
    most = 2 * 4 * foreign.numbers + 4096 * len(foreign.weights) + 2**20
    command = [sys.executable, "-P", "-m", "colab_magics.training.foreign", str(path), str(scratch), str(most)]
    try:
        child = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            env={**os.environ, **worker.importable()},
        )
        told = json.loads(child.stdout.strip().rpartition("\n")[2] or "{}")
    except subprocess.TimeoutExpired:
        raise _not_taken(path, f"It was not read within {_PATIENCE:.0f} s.") from None
    except ValueError:
        raise _not_taken(path, "The process that read it ended without a word.") from None
    if "error" in told:
        raise ColabMagicsError.from_dict(told["error"])
    if child.returncode or "groups" not in told:
        last = child.stderr.strip().rpartition("\n")[2]
        raise _not_taken(path, last[:160] or f"The process that read it ended with code {child.returncode}.")
    return Moments(read_tensors(scratch), tuple(int(size) for size in told["groups"]))


def imported_state(checkpoint: Path) -> Mapping[str, Any] | None:
    """What `take` wrote of the origin; None if the checkpoint is one that a training of ours has written."""
    try:
        told = _json(checkpoint / STATE, 64 * 2**20).get("imported")
    except ColabMagicsError:
        return None
    return told if isinstance(told, dict) else None


def _not_taken(path: Path, why: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"{path.name} could not be read.", why, "Leave --trust-pickle out: the weights are imported without it."
    )


# --- the folder ------------------------------------------------------------------------------------------------------


def _names(folder: Path) -> set[str]:
    try:
        if stat.S_ISLNK(os.lstat(folder).st_mode):
            raise _is_link(folder)
        return set(os.listdir(folder))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ColabMagicsError(
            f"There is no folder {folder}." if missing else f"{folder} cannot be read.",
            "" if missing else error.strerror or str(error),
            "Name a checkpoint's folder, as outputs/checkpoint-500.",
        ) from None


def _is_link(path: Path) -> ColabMagicsError:
    return ColabMagicsError(
        f"{path.name} is a symbolic link.",
        "Links are not followed: they could lead anywhere.",
        "Copy what it names in its place (cp -rL), and import the copy.",
    )


def _no_weights(folder: Path, names: set[str]) -> ColabMagicsError:
    if sharded := sorted(name for name in names if _SHARD.search(name)):
        return ColabMagicsError(
            f"{folder.name} is sharded: it has {sharded[0]}.",
            "Weights are imported from one file.",
            f"To train on from its weights at step 0, use it as the model: model: {folder}",
            "Or save it again with a larger max_shard_size, and import that.",
        )
    if pickled := sorted(name for name in names if name in ("adapter_model.bin", "pytorch_model.bin")):
        return ColabMagicsError(
            f"{folder.name} has no safetensors, only {pickled[0]}.",
            "That is a pickle, which runs whatever its author put into it when it is loaded.",
            "Load it where you trust it, and save it with safe_serialization=True.",
        )
    inside = sorted(
        (name for name in names if re.fullmatch(r"checkpoint-\d+", name)), key=lambda name: int(name.partition("-")[2])
    )
    return ColabMagicsError(
        f"{folder} is no checkpoint.",
        f"It has neither {ADAPTER} nor {MODEL}.",
        f"Did you mean {folder / inside[-1]}?" if inside else "Name a checkpoint's folder, as outputs/checkpoint-500.",
    )


def _json(path: Path, most: int) -> dict[str, Any]:
    """The mapping that a small file holds.

    Raises
    ------
    ColabMagicsError
        It is missing, a link, too large, or no JSON mapping.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _is_link(path) if path.is_symlink() else _wrong(path, error.strerror or str(error)) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _wrong(path, "It is no file.")
        text = file.read(most + 1)
    if len(text) > most:
        raise _wrong(path, f"It has {found.st_size:,} bytes, and at most {most:,} are read.")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(path, "It is no JSON.") from None
    if not isinstance(told, dict):
        raise _wrong(path, "It is no mapping.")
    return told


def _wrong(path: Path, why: str) -> ColabMagicsError:
    return ColabMagicsError(f"{path.name} of {path.parent.name} cannot be read.", why)


def _text(told: Mapping[str, Any]) -> bytes:
    return (redact(json.dumps(told, indent=1)) + "\n").encode()


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        found = read_tensors(path)
    except ValueError as error:
        raise _wrong(path, f"It is no safetensors: {error}.") from None
    except OSError as error:
        raise _is_link(path) if path.is_symlink() else _wrong(path, error.strerror or str(error)) from None
    if odd := [name for name, tensor in found.items() if tensor.dtype not in _FLOATS]:
        raise _wrong(path, f"{odd[0]} is {found[odd[0]].dtype}: quantised weights are not trained.")
    if not found:
        raise _wrong(path, "It holds no tensor.")
    return found


# --- its settings ----------------------------------------------------------------------------------------------------


def _adapter(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ColabMagicsError(
            f"{folder.name} holds no LoRA adapter.",
            f"Its peft_type is {kind}.",
            "Only LoRA (and DoRA, rsLoRA) can be imported.",
        )
    beyond = [key for key in _BEYOND_LORA if config.get(key)]
    beyond += ["bias"] if config.get("bias", "none") != "none" else []
    if beyond:
        raise ColabMagicsError(
            f"{folder.name} is a LoRA adapter with {', '.join(beyond)}.",
            "No recipe can say that, and without it the weights mean something else.",
            "Merge it into its base model (merge_and_unload), and use the result as model:.",
        )
    if config.get("init_lora_weights", True) not in _BEGINNINGS:
        raise ColabMagicsError(
            f"{folder.name} began as {config['init_lora_weights']}.",
            "That changes the base model's weights too, and the checkpoint does not hold them.",
            "Convert it to plain LoRA, as peft's documentation of init_lora_weights says, and import that.",
        )
    r, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    if not _is_count(r) or not _is_number(alpha) or not alpha or not _is_number(dropout) or not 0 <= dropout < 1:
        raise _wrong(folder / "adapter_config.json", "r, lora_alpha or lora_dropout is no number that they can be.")
    if alpha != int(alpha):
        raise _wrong(folder / "adapter_config.json", f"lora_alpha is {alpha}, and a recipe's is a whole number.")
    return {
        "r": r,
        "lora_alpha": int(alpha),
        "lora_dropout": float(dropout),
        "target_modules": _strings(config.get("target_modules")),
        "modules_to_save": _strings(config.get("modules_to_save")),
        "use_rslora": config.get("use_rslora") is True,
        "use_dora": config.get("use_dora") is True,
        "base": _one_line(config.get("base_model_name_or_path")),
        "revision": _one_line(config.get("revision")),
    }


def adapted_modules(weights: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of each module that has an adapter, by its name in the base model, the shapes of A and B."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in weights.items():
        if told := _LORA.fullmatch(name):
            found.setdefault(told["module"], {})[told["side"]] = tensor.shape
    return found


def _check_ranks(folder: Path, weights: Mapping[str, Tensor], r: int) -> None:
    modules = adapted_modules(weights)
    if not modules:
        raise _wrong(folder / ADAPTER, "It has no lora_A and lora_B of any linear module.")
    for name, sides in modules.items():
        a, b = sides.get("A", ()), sides.get("B", ())
        if len(a) != 2 or len(b) != 2:
            raise _wrong(folder / ADAPTER, f"{name} has no A and B of a linear module.")
        if a[0] != r or b[1] != r:
            raise _wrong(folder / ADAPTER, f"{name} has rank {a[0]}, and adapter_config.json says r {r}.")


def _step(folder: Path, told: Mapping[str, Any]) -> int:
    step = told.get("global_step")
    if step is None:
        named = re.fullmatch(r"checkpoint-(\d{1,8})", folder.absolute().name)
        return int(named[1]) if named else 0
    if not (step == 0 or _is_count(step)) or step > _LAST_STEP:
        raise _wrong(folder / "trainer_state.json", "Its global_step is no step.")
    return int(step)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _count(value: object) -> int | None:
    return int(value) if _is_count(value) else None  # type: ignore[call-overload,no-any-return]


def _finite(value: object) -> float | None:
    return float(value) if _is_number(value) else None  # type: ignore[arg-type]


def _one_line(value: object) -> str | None:
    return redact(value)[:500] if isinstance(value, str) and value.isprintable() and value else None


def _strings(value: object) -> list[str] | None:
    """The names, sorted; None where there are none, or a pattern stands for them."""
    if not isinstance(value, list) or not value:
        return None
    return sorted({str(name) for name in value})


def _last_loss(log: object) -> float | None:
    entries = [entry for entry in log if isinstance(entry, dict)] if isinstance(log, list) else []
    losses = (_finite(entry.get("loss")) for entry in reversed(entries))
    return next((loss for loss in losses if loss is not None), None)
