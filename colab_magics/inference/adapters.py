"""Whether an adapter fits a base: by the shapes in its file, before a weight of either is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.subject import ADAPTER

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")


def check_adapter(
    folder: Path, source: Any, label: str, *, run: str | None = None, trust_remote_code: bool = False
) -> None:
    """Nothing where the adapter fits the model.

    Parameters
    ----------
    folder : the adapter's
    source : the base's `ModelSource`
    label : what the adapter is called
    run : the run that it is the result of, where it is one's

    Raises
    ------
    ColabMagicsError
        A module that the base does not have, or has in another shape; both shapes are named.
    """
    try:
        tensors = read_tensors(folder / ADAPTER)
    except (OSError, ValueError) as error:
        raise ColabMagicsError(
            f"The adapter of {label} cannot be read.",
            f"{folder / ADAPTER}: {error}.",
            f"A checkpoint may still be whole: %checkpoint verify {run} looks at them."
            if run is not None
            else "Copy or download that folder again.",
        ) from None
    made = _widths({name: tensor.shape for name, tensor in tensors.items()})
    there = _modules(source, trust_remote_code)
    for module, (inputs, outputs) in made.items():
        found = there.get(module)
        if found == (inputs, outputs):
            continue
        has = "no such module" if found is None else f"one of {found[0]:,} to {found[1]:,}"
        raise ColabMagicsError(
            f"The adapter of {label} is for another base than {source.id}.",
            f"Its {module} takes {inputs:,} numbers to {outputs:,}; {source.id} has {has}.",
            "--run NAME --model FOLDER_OR_ID names the base that it was trained on.",
        )


def _widths(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Of each adapted module, what it reads and writes."""
    sides: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        found = _LORA.fullmatch(name)
        if found is not None and len(shape) == 2:
            sides.setdefault(found["module"], {})[found["side"]] = shape[1] if found["side"] == "A" else shape[0]
    return {module: (both["A"], both["B"]) for module, both in sides.items() if len(both) == 2}


def _modules(source: Any, trust_remote_code: bool) -> dict[str, tuple[int, int]]:
    """Of each linear of the base, what it reads and writes; the model is built without memory."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config, trust_remote_code=trust_remote_code)
    widths = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 2:
            rows, columns = map(int, weight.shape)
            # a Conv1D keeps its weight the other way around
            widths[name] = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
    return widths
