"""Small checkpoints to break: four files, as a training writes them, and quick to make."""

from __future__ import annotations

import json
import random
from pathlib import Path

from colab_magics.checkpoints.commit import commit
from colab_magics.checkpoints.files import DISK, Disk
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.checkpoints.tensors import Tensor, laid_out

RUN = "0123456789abcdef"
OTHER_RUN = "fedcba9876543210"


def tensor(rng: random.Random, numbers: int) -> Tensor:
    """32-bit numbers, none of whose bytes is 0: a page of zeros is always an alteration."""
    data = bytes(rng.choices(range(1, 256), k=4 * numbers))
    return Tensor("F32", (numbers,), memoryview(data))


def contents(step: int, attempt: int = 1, *, numbers: int = 400) -> dict[str, list[bytes | memoryview]]:
    """The files of a checkpoint; other bytes for another step or attempt, the same for the same."""
    rng = random.Random(1000 * attempt + step)
    weights = {"q_proj.lora_A": tensor(rng, numbers), "q_proj.lora_B": tensor(rng, numbers)}
    moments = {name: tensor(rng, numbers) for name in ("q_proj.lora_A/exp_avg", "q_proj.lora_B/exp_avg")}
    return {
        "adapter_model.safetensors": list(laid_out(weights)),
        "adapter_config.json": [json.dumps({"r": 8, "for": step}).encode()],
        "optimizer.safetensors": list(laid_out(moments)),
        "state.json": [json.dumps({"step": step, "samples": 8 * step}).encode()],
    }


def save(
    checkpoints: Path,
    step: int,
    attempt: int = 1,
    *,
    run: str = RUN,
    numbers: int = 400,
    eval_loss: float | None = None,
    disk: Disk = DISK,
) -> Path:
    """Commit such a checkpoint; its folder."""
    target = checkpoints / folder_name(step, attempt)
    facts = {"name": "kwanzaa", "metrics": {} if eval_loss is None else {"eval_loss": eval_loss}}
    manifest = Manifest("checkpoint", run, {}, step, attempt, facts)
    commit(target, contents(step, attempt, numbers=numbers), manifest, disk=disk)
    return target


def is_as_saved(folder: Path, step: int, attempt: int = 1, *, numbers: int = 400) -> bool:
    """Whether the folder holds, byte for byte, what `save` was given: asked without trusting `verify`."""
    made = contents(step, attempt, numbers=numbers)
    return all((folder / name).read_bytes() == b"".join(pieces) for name, pieces in made.items())


def hidden(checkpoints: Path) -> list[str]:
    """What commits and deletions that did not end have left."""
    return sorted(path.name for path in checkpoints.iterdir() if path.name.startswith("."))
