"""What an adapter does to its base, tensor by tensor: read from its files, without peft and without the base.

What could not be merged faithfully is refused by its name: a merged model that is almost right is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.tensors import Tensor, read_tensors
from colab_magics.errors import ColabMagicsError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# of what peft writes: what says nothing of the weights, or what is read here
_KNOWN = frozenset(
    "auto_mapping base_model_name_or_path revision peft_type peft_version task_type inference_mode r lora_alpha "
    "lora_dropout target_modules exclude_modules layers_pattern layers_to_transform fan_in_fan_out bias use_rslora "
    "use_dora modules_to_save rank_pattern alpha_pattern init_lora_weights megatron_core qalora_group_size "
    "runtime_config eva_config ensure_weight_tying".split()
)
# these beginnings of an adapter change the base's own weights, which are no more those of its files
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.weight)?")


@dataclass(frozen=True)
class LowRank:
    """An addition of `scale * (b @ a)` to a module's weight.

    Attributes
    ----------
    a, b : Tensor
        Of shapes (rank, inputs) and (outputs, rank).
    magnitude : Tensor, optional
        Of each output, as DoRA trains it.
    embedding : bool
        The module is a table of rows: its inputs are the rows.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """An adapter, as its files say.

    Attributes
    ----------
    base : str
        What it was trained on: a folder or a Hub id.
    revision : str, optional
        The commit of a Hub id.
    added : mapping
        Module of the base -> what is added to its weight.
    replaced : mapping
        Tensor of the base -> what stands in its place.
    fan_in_fan_out : bool
        Whether the base keeps weights as (inputs, outputs).
    """

    base: str
    revision: str | None
    added: Mapping[str, LowRank]
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    tied_by_peft: bool = False


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder that peft wrote.

    Raises
    ------
    ColabMagicsError
        There is none, it cannot be read, or it is of a kind whose merging would not be exact; says which.
    """
    config = _config(folder)
    _refuse_what_is_not_understood(config)
    try:
        tensors = read_tensors((folder / WEIGHTS).resolve())
    except (OSError, ValueError) as error:
        raise ColabMagicsError(
            f"The adapter in {folder} cannot be read.",
            f"{WEIGHTS}: {error}",
            "Export a checkpoint instead: %export RUN --checkpoint STEP.",
        ) from None
    parts: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _PART.fullmatch(name.removeprefix(_PREFIX))
        if found is not None:
            parts.setdefault(found["module"], {})[found["part"]] = tensor
        elif "lora_" in name:
            raise _cannot(f"it holds {name}")
        else:
            # modules_to_save, and biases; a bias under an adapter is found below its wrapper
            plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            replaced[plain] = tensor
    return Adapter(
        base=str(config.get("base_model_name_or_path") or ""),
        revision=config.get("revision"),
        added={module: _low_rank(module, given, config) for module, given in parts.items()},
        replaced=replaced,
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        tied_by_peft=bool(config.get("ensure_weight_tying")),
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ColabMagicsError(
            f"There is no adapter in {folder}.", f"It has no {CONFIG}.", "Only an adapter can be merged."
        ) from None
    except (OSError, ValueError) as error:
        raise ColabMagicsError(
            f"{folder / CONFIG} cannot be read.", str(error), "Export a checkpoint instead: %export --checkpoint STEP."
        ) from None
    return config if isinstance(config, dict) else {}


def _refuse_what_is_not_understood(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _cannot(f"it is a {config.get('peft_type')} adapter")
    for key, value in config.items():
        if key not in _KNOWN and value:
            raise _cannot(f"it was trained with {key}: {str(value)[:60]}")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(_CHANGES_THE_BASE):
        raise _cannot(f"init_lora_weights: {begun} has changed the base's own weights")


def _cannot(why: str) -> ColabMagicsError:
    return ColabMagicsError(
        "This adapter cannot be merged here.",
        f"As its files say, {why}.",
        "Export it as it is, without --merge: peft loads it on its base.",
    )


def _low_rank(module: str, given: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    embedding = "lora_embedding_A" in given
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if not set(names) <= set(given):
        raise _cannot(f"{module} has only {', '.join(given)}")
    a, b = (given[name] for name in names)
    magnitude = given.get("lora_magnitude_vector")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _cannot(f"{module} has parts of shapes {a.shape} and {b.shape}")
    if embedding and magnitude is not None:
        raise _cannot(f"{module} is an embedding trained with use_dora")
    return LowRank(a, b, _scale(module, a.shape[0], config), magnitude, embedding)


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """alpha / r as peft reckons it: of a module that an `alpha_pattern` names, with that alpha."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    own = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    alpha = float(next(own, config.get("lora_alpha") or 0))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
