"""All that a run's next step depends on, taken from the loop's objects and put back into them.

Tensors go by name: weights by the names that PEFT and transformers read, optimizer states by the parameter's name.
Whatever is no tensor is JSON. Nothing is pickled, and nothing goes by position in a list.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from colab_magics.checkpoints.commit import Contents
from colab_magics.checkpoints.tensors import Tensor, laid_out, read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.training.loop import Progress, RandomState, Trainee, random_state, restore_random_state
from colab_magics.training.oom import Arrangement

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"
ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TORCH = {name: dtype for dtype, name in _DTYPES.items()}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is trained, by the names under which PEFT and transformers look for it; the live tensors, not copies.

    A tensor that a model has under two names (tied embeddings) is there once, as in `save_pretrained`.
    """
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        # "auto" would ask the Hub whether the base model's vocabulary changed; ours never does
        named = get_peft_model_state_dict(model, save_embedding_layers=False)
    else:
        named = model.state_dict()
    once: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in named.items():
        once.setdefault((tensor.data_ptr(), tensor.shape), name)
    places = {place for place, _ in once}
    missing = [name for name, one in model.named_parameters() if one.requires_grad and one.data_ptr() not in places]
    if missing:
        raise ColabMagicsError(
            f"{missing[0]} is trained, and would be in no checkpoint.",
            "This version of peft does not save it with the adapter.",
            "Leave modules_to_save out, or use method: full.",
        )
    return {name: named[name].detach() for name in once.values()}


def configs_of(model: nn.Module) -> dict[str, bytes]:
    """The small files that make a checkpoint's folder loadable as it stands: file name -> bytes."""
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(model, "peft_config"):
            config = model.peft_config["default"]
            was, config.inference_mode = config.inference_mode, True
            config.save_pretrained(folder)
            config.inference_mode = was
        else:
            model.config.save_pretrained(folder)
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.suffix == ".json"}


@dataclass
class HostCopies:
    """Memory on the host into which tensors are copied, kept from one snapshot to the next.

    New memory costs more than the copy itself: each page of it is faulted in at its first touch.
    """

    _kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies of `tensors`; those of the call before are overwritten."""
        copies = {}
        for name, tensor in tensors.items():
            kept = self._kept.get(name)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            kept.copy_(tensor, non_blocking=tensor.is_cuda)
            copies[name] = kept
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        self._kept = copies
        return copies


@dataclass(frozen=True)
class Snapshot:
    """A run's state between two steps, on the host; the training may go on while it is written."""

    weights: Mapping[str, torch.Tensor]
    others: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]
    adapter: bool

    def contents(self, configs: Mapping[str, bytes]) -> Contents:
        """The files of a checkpoint, as `commit` takes them."""
        weights = ADAPTER if self.adapter else MODEL
        return {
            weights: laid_out(_buffers(self.weights), {"format": "pt"}),
            OPTIMIZER: laid_out(_buffers(self.others)),
            **{name: [text] for name, text in configs.items()},
            STATE: [(json.dumps(self.state, allow_nan=False) + "\n").encode()],
        }

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.numel() * one.element_size() for one in (*self.weights.values(), *self.others.values()))


def take(
    task: Trainee, progress: Progress, copies: HostCopies, *, facts: Mapping[str, Any], drawn: RandomState | None = None
) -> Snapshot:
    """Copy everything to the host.

    Parameters
    ----------
    copies : HostCopies
        Whose memory is used; no earlier snapshot of it may still be in use.
    facts : mapping
        More for `state.json`.
    drawn : RandomState, optional
        torch's random state to be kept, where the present one is that of a step under way.
    """
    weights = weights_of(task.model)
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    optimizer: dict[str, dict[str, Any]] = {}
    names = {parameter: name for name, parameter in task.model.named_parameters()}
    for parameter, states in task.optimizer.state.items():
        name = names[parameter]
        optimizer[name] = {}
        for key, value in states.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{key}/{name}"] = value.detach()
                optimizer[name][key] = {"tensor": f"{key}/{name}"}
            else:
                optimizer[name][key] = value
    host, gpu = drawn if drawn is not None else random_state(task.device)
    tensors["random/torch"] = host
    if gpu is not None:
        tensors["random/cuda"] = gpu
    copied = copies.of({name: tensor.contiguous() for name, tensor in tensors.items()})
    state = {
        "version": 1,
        **facts,
        "progress": _progress_state(progress),
        "arrangement": asdict(progress.arrangement),
        "schedule": {"last_epoch": task.schedule.last_epoch, "last_lr": task.schedule.get_last_lr()},
        "scaler": task.scaler.state_dict() if task.scaler is not None else None,
        "optimizer": {"class": type(task.optimizer).__name__, "state": optimizer},
        "random": {"python": random.getstate(), "numpy": _numpy_state()},
    }
    return Snapshot(
        weights={name: copied[f"weights/{name}"] for name in weights},
        others={name: tensor for name, tensor in copied.items() if not name.startswith("weights/")},
        state=state,
        adapter=hasattr(task.model, "peft_config"),
    )


_PROGRESS = (
    "step",
    "samples",
    "tokens",
    "first_loss",
    "last_loss",
    "eval_loss",
    "best_eval_loss",
    "evaluations_without_gain",
    "evaluated",
)


def _progress_state(progress: Progress) -> dict[str, Any]:
    told = {name: getattr(progress, name) for name in _PROGRESS}
    # JSON has no infinity (nothing evaluated yet) and no NaN (an evaluation that overflowed)
    return {name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in told.items()}


def _numpy_state() -> list[Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return [kind, np.asarray(keys).tolist(), *rest]


def _buffers(tensors: Mapping[str, torch.Tensor]) -> dict[str, Tensor]:
    def buffer(tensor: torch.Tensor) -> Tensor:
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        return Tensor(_DTYPES[tensor.dtype], tuple(tensor.shape), memoryview(flat.numpy()))

    return {name: buffer(tensor) for name, tensor in tensors.items()}


def tensor_of(read: Tensor) -> torch.Tensor:
    """The tensor whose bytes were read; it shares them."""
    if not read.data.nbytes:
        return torch.empty(read.shape, dtype=_TORCH[read.dtype])
    return torch.frombuffer(read.data, dtype=torch.uint8).view(_TORCH[read.dtype]).reshape(read.shape)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint's folder holds, read but not yet put anywhere."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def plan(self) -> Mapping[str, Any]:
        """The choices of the plan under which it was trained."""
        return dict(self.state.get("plan") or {})

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Every key of the recipe under which it was trained."""
        return dict(self.state.get("recipe") or {})

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """What was imported of another trainer's checkpoint, if it is one: weights, and little else."""
        told = self.state.get("imported")
        return told if isinstance(told, dict) else None


def read_saved(folder: Path) -> Saved:
    """The state of a checkpoint whose bytes have been verified.

    Raises
    ------
    ColabMagicsError
        It was written by a version that knew more.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state.get("version") != 1:
        raise ColabMagicsError(
            f"{folder.name} was written by another version of colab_magics.",
            f"Its state is of version {state.get('version')}.",
            "pip install -U colab-magics, and resume again.",
        )
    return Saved(folder, state)


def put_back(task: Trainee, progress: Progress, saved: Saved) -> list[str]:
    """Make the loop's objects what they were when the checkpoint was taken.

    Weights must agree in name, shape and dtype. Where the recipe has changed the optimizer, its states are left out.
    The optimizer's groups and the schedule stay those that the recipe made; the schedule is put to its place.

    Returns
    -------
    What could not be put back, one sentence each; empty where the next step is the one that would have come.
    """
    put_weights(task.model, saved)
    lost = _put_optimizer(task, saved)
    _put_progress(progress, saved)
    # under TRL a step that fp16 skipped moves no schedule
    put_schedule(task.schedule, int(saved.state["schedule"]["last_epoch"]))
    scaler = saved.state.get("scaler")
    if task.scaler is not None and scaler:
        task.scaler.load_state_dict(scaler)
    elif (task.scaler is None) != (not scaler):
        lost.append("the precision is another one: the next steps differ in rounding")
    return lost + _put_random(task.device, saved)


def put_weights(model: nn.Module, saved: Saved, *, cast: bool = False) -> set[str]:
    """Put the checkpoint's weights into the model; the dtypes that were cast.

    Parameters
    ----------
    cast : bool
        Take other floating-point dtypes too; otherwise they must be the same.
    """
    path = saved.folder / (ADAPTER if hasattr(model, "peft_config") else MODEL)
    if not path.is_file():
        raise _does_not_fit(saved, f"It has no {path.name}: it was trained with another method.")
    read, live = read_tensors(path), weights_of(model)
    if odd := sorted(set(read) ^ set(live)):
        raise _does_not_fit(saved, f"{odd[0]} is only in {'the checkpoint' if odd[0] in read else 'this model'}.")
    for name, tensor in live.items():  # all are looked at before the first is touched
        found = read[name]
        fits = _TORCH[found.dtype] == tensor.dtype or (cast and _TORCH[found.dtype].is_floating_point)
        if found.shape != tuple(tensor.shape) or not fits:
            here = f"{_DTYPES[tensor.dtype]} {tuple(tensor.shape)}"
            raise _does_not_fit(saved, f"{name} is {found.dtype} {found.shape} there, and {here} here.")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(tensor_of(read[name]))
    return {read[name].dtype for name, tensor in live.items() if _TORCH[read[name].dtype] != tensor.dtype}


def _does_not_fit(saved: Saved, why: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"Checkpoint {saved.folder.name} does not fit this recipe's model.",
        why,
        "Set model, method, r, target_modules and modules_to_save as they were, or start a new run.",
    )


def _put_optimizer(task: Trainee, saved: Saved) -> list[str]:
    told = saved.state["optimizer"]
    here = type(task.optimizer).__name__
    if told["class"] != here:
        return [f"the optimizer is {here} now, and begins without the moments of {told['class']}"]
    read = read_tensors(saved.folder / OPTIMIZER)
    packed = task.optimizer.state_dict()
    names = {parameter: name for name, parameter in task.model.named_parameters()}
    order = [names[parameter] for group in task.optimizer.param_groups for parameter in group["params"]]
    states = {}
    for index, name in enumerate(order):
        kept = told["state"].get(name)
        if kept is not None:
            states[index] = {
                key: tensor_of(read[value["tensor"]]).clone() if isinstance(value, dict) else value
                for key, value in kept.items()
            }
    task.optimizer.load_state_dict({"state": states, "param_groups": packed["param_groups"]})
    return []


def _put_progress(progress: Progress, saved: Saved) -> None:
    told = saved.state["progress"]
    for name in _PROGRESS:
        setattr(progress, name, told[name])
    if progress.best_eval_loss is None:
        progress.best_eval_loss = math.inf


def arrangement_of(saved: Saved) -> Arrangement:
    """How the steps were arranged in memory when the checkpoint was taken."""
    return Arrangement(**saved.state["arrangement"])


def put_schedule(schedule: torch.optim.lr_scheduler.LRScheduler, step: int) -> None:
    """Put the schedule after `step` steps. All of ours are functions of the step, so that no history is needed."""
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    schedule.last_epoch = step
    schedule._step_count = step + 1
    factors = [factor(step) for factor in schedule.lr_lambdas]
    for group, base, factor in zip(schedule.optimizer.param_groups, schedule.base_lrs, factors, strict=True):
        group["lr"] = base * factor
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]


def _put_random(device: torch.device, saved: Saved) -> list[str]:
    read = read_tensors(saved.folder / OPTIMIZER)
    told = saved.state["random"]
    version, keys, gauss = told["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numbers, *rest = told["numpy"]
    np.random.set_state((kind, np.array(numbers, np.uint32), *rest))
    gpu = read.get("random/cuda")
    restore_random_state(
        (tensor_of(read["random/torch"]).clone(), None if gpu is None else tensor_of(gpu).clone()), device
    )
    if (gpu is None) == (device.type == "cuda"):
        return ["the device is of another kind: dropout falls otherwise"]
    return []
