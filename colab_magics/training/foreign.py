"""Another trainer's pickled optimizer, as safetensors: `python -m colab_magics.training.foreign PICKLE TARGET MOST`.

It is a process of its own, so that the notebook never imports torch, and so that whatever a broken or hostile file
does to the reader happens to nobody else. It writes safetensors, and one line of JSON: the groups, or the error.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from colab_magics.checkpoints.commit import write
from colab_magics.checkpoints.files import DISK
from colab_magics.checkpoints.tensors import Tensor, laid_out
from colab_magics.errors import ColabMagicsError

# Before it, weights_only=True could be made to write where it should not (GHSA-63cw-57p8-fm3p).
SAFE_TORCH = (2, 10)
_STATES = {"exp_avg", "exp_avg_sq", "step"}
_WITHOUT = "Leave --trust-pickle out: the weights are imported without it."


def main(arguments: list[str]) -> int:
    source, target, most = arguments
    try:
        groups = convert(Path(source), Path(target), int(most))
    except ColabMagicsError as error:
        print(json.dumps({"error": error.to_dict()}))
    else:
        print(json.dumps({"groups": groups}))
    return 0


def convert(source: Path, target: Path, most: int) -> list[int]:
    """Write the AdamW states of `source` to `target`, by place; how many parameters each group has.

    Parameters
    ----------
    most : int
        Bytes that it may have, packed and unpacked.

    Raises
    ------
    ColabMagicsError
        torch is too old to be trusted with it, or it holds something else than AdamW's states.
    """
    check_torch(metadata.version("torch"))
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(source, f"It cannot be opened: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(source, "It is no file.")
        if found.st_size > most:
            raise _refused(source, f"It has {found.st_size:,} bytes; AdamW's states of these weights are fewer.")
        _check_archive(source, file, most)
        states, groups = _adamw_states(source, _load(source, file))
    write(target, laid_out(states), DISK)
    return groups


def check_torch(version: str) -> None:
    """Raise where this torch cannot be trusted with a pickle, not even with `weights_only`."""
    parts = version.partition("+")[0].split(".")
    if tuple(int(part) for part in parts[:2]) < SAFE_TORCH:
        raise ColabMagicsError(
            f"--trust-pickle needs torch {'.'.join(map(str, SAFE_TORCH))} or newer; this is {version}.",
            "A crafted file can corrupt the memory of older ones (GHSA-63cw-57p8-fm3p).",
            "pip install -U torch",
            _WITHOUT,
        )


def _check_archive(source: Path, file: BinaryIO, most: int) -> None:
    """A small archive may unpack to a large one; torch packs nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError):
        raise _refused(source, "It is no archive of torch.save.") from None
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > most:
        raise _refused(source, "It unpacks to more than AdamW's states of these weights can be.")
    file.seek(0)


def _load(source: Path, file: BinaryIO) -> Any:
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a crafted file makes of the reader
        reason = str(error)
        if "weights_only" in reason or "Unsupported" in reason:
            raise _refused(source, "It holds more than tensors and numbers; none of it was run.") from None
        raise _refused(source, f"torch cannot read it: {type(error).__name__}.") from None


def _adamw_states(source: Path, loaded: Any) -> tuple[dict[str, Tensor], list[int]]:
    import torch

    try:
        states, groups = loaded["state"], [list(group["params"]) for group in loaded["param_groups"]]
        if not isinstance(states, dict) or not all(set(state) == _STATES for state in states.values()):
            raise _refused(source, "It holds the states of another optimizer than AdamW.")
        order = [place for group in groups for place in group]
        if order != list(range(len(order))) or set(states) != set(order):
            raise _refused(source, "Its states do not belong to its parameters, one each.")
        found: dict[str, Tensor] = {}
        for place, state in states.items():
            moments = [state["exp_avg"], state["exp_avg_sq"]]
            plain = all(type(one) is torch.Tensor and one.layout == torch.strided for one in moments)
            if not plain or moments[0].shape != moments[1].shape or not all(m.is_floating_point() for m in moments):
                raise _refused(source, f"The moments of parameter {place} are no two tensors of one shape.")
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{key}/#{place}"] = _laid_out(state[key])
            found[f"step/#{place}"] = _laid_out(torch.tensor(float(state["step"])))
    except (TypeError, KeyError, AttributeError, ValueError, RuntimeError):
        raise _refused(source, "It is no optimizer's state_dict.") from None
    return found, [len(group) for group in groups]


def _laid_out(tensor: Any) -> Tensor:
    """In fp32, as the worker's own moments are."""
    import torch

    flat = tensor.detach().to(torch.float32).contiguous()
    return Tensor("F32", tuple(flat.shape), memoryview(flat.reshape(-1).view(torch.uint8).numpy()))


def _refused(source: Path, why: str) -> ColabMagicsError:
    return ColabMagicsError(f"{source.name} was refused.", why, _WITHOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
