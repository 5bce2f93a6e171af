"""The merged model's folder: weights in shards, and the small files that make it load as it stands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.sizes import size
from colab_magics.training.merging.arithmetic import forget, pieces
from colab_magics.training.merging.base import INDEX, Base
from colab_magics.training.merging.layout import Layout

MARGIN = 64 * 2**20  # for the small files, and for what a file system takes itself
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def check_disk(layout: Layout, target: Path, times: float) -> None:
    """Refuse what will not find room.

    Parameters
    ----------
    target : the folder that is filled, beside its place under a name that is gone with it
    times : how many copies of the model stand on that disk at the most: 2 where it becomes an archive
    """
    needed = int(times * layout.size) + MARGIN
    free = shutil.disk_usage(target).free
    if free < needed:
        packed = " and its archive," if times > 1 else ","
        raise ColabMagicsError(
            f"The disk of {target.parent} is too full for the merged model.",
            f"It needs {needed:,} bytes ({size(needed)}): {size(needed - MARGIN)} for the model{packed} with "
            f"{size(MARGIN)} in reserve, and {free:,} ({size(free)}) are free.",
            "Make room, or name a path on another disk: --to PATH.",
        )


def write(layout: Layout, base: Base, folder: Path, report: Callable[[int, int], None]) -> None:
    """Fill `folder`, which is there and empty; `report` is called with the bytes done, and all."""
    done, total = 0, layout.size
    report(done, total)
    for shard in layout.shards:
        with (folder / shard.name).open("xb", buffering=0) as file:
            done += _write_all(file, memoryview(shard.header))
            for one in shard.tensors:
                for piece in pieces(one):
                    done += _write_all(file, piece)
                    report(done, total)
                forget(one.source)
            os.fsync(file.fileno())
    if layout.index is not None:
        (folder / INDEX).write_bytes(layout.index)
    config = merged_config(base, layout)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if (base.folder / "generation_config.json").is_file():
        shutil.copyfile(base.folder / "generation_config.json", folder / "generation_config.json")


def _write_all(file: Any, data: memoryview) -> int:
    written = 0
    while written < data.nbytes:
        written += file.write(data[written:])
    return written


def merged_config(base: Base, layout: Layout) -> dict[str, Any]:
    """The base's config, of what it has become.

    Raises
    ------
    ColabMagicsError
        The base brings code of its own, and is no repository to which the config could refer.
    """
    config = {key: value for key, value in base.config.items() if key not in ("_name_or_path", "quantization_config")}
    dtype = _NAMES[layout.dtype]
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype
    if not {"dtype", "torch_dtype"} & set(config):
        config["torch_dtype"] = dtype  # read by every transformers, the newest too
    if layout.untied:
        config["tie_word_embeddings"] = False
        if isinstance(config.get("text_config"), dict):
            config["text_config"] = {**config["text_config"], "tie_word_embeddings": False}
    if config.get("auto_map"):
        config["auto_map"] = _code_of(base, config["auto_map"])
    return config


def _code_of(base: Base, auto_map: Mapping[str, Any]) -> dict[str, Any]:
    """Its code stays where it is, as transformers refers to it: `repository--module.Class`."""
    if base.revision is None:
        raise ColabMagicsError(
            f"{base.id} brings its own code, which is not exported.",
            "Only weights and settings leave in an export.",
            "Name its repository: --base org/name. The merged model then refers to the code there.",
        )
    return {key: f"{base.id}--{where}" if "--" not in str(where) else where for key, where in auto_map.items()}
