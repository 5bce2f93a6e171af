"""`%checkpoint show`: what one checkpoint holds."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.tensors import read_tensors
from colab_magics.checkpoints.verify import Entry
from colab_magics.errors import clean, redact
from colab_magics.magics.checkpoint_survey import saved_at, survey
from colab_magics.magics.checkpoint_table import age
from colab_magics.panel import words
from colab_magics.run import Run

STATE = "state.json"
ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
_MOST_STATE = 64 * 2**20
_MOST_KINDS = 6
# what a manifest's facts are shown as, or by another line of the report
_SHOWN = ("time", "metrics", "versions", "total_steps", "samples", "reason", "parent", "name")


def described(run: Run, entry: Entry) -> str:
    """All that can be told of a checkpoint from its manifest, its files' headers and its state: lines of text.

    No tensor is read, so that a large one is described as fast as a small one; nothing is hashed.
    """
    manifest = entry.manifest
    assert manifest is not None, "only whole checkpoints are chosen"
    rows = [*_facts(run, entry, manifest), *_versions(manifest), *_arrangement(entry, manifest)]
    width = max(len(label) for label, _ in rows)
    lines = [f"{run.name}, step {entry.step:,}", *(f"{label.ljust(width)}  {value}" for label, value in rows)]
    load = loading(str(entry.folder), adapter=ADAPTER in manifest.files)
    if run.is_own_loop:
        load = _loading_own(entry, manifest)
    lines += ["", *_files(entry, manifest), "", *load]
    return "\n".join(redact(clean(line)) for line in lines)


def _facts(run: Run, entry: Entry, manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts = manifest.facts
    row = next((row for row in survey(run).rows if row.entry.name == entry.name), None)
    yield "folder", str(entry.folder)
    total = facts.get("total_steps")
    yield "step", f"{entry.step:,}{f' of {total:,}' if isinstance(total, int) else ''}, attempt {entry.attempt}"
    if isinstance(facts.get("samples"), int):
        yield "samples", f"{facts['samples']:,}"
    saved = saved_at(facts)
    if saved is not None:
        why = f", {facts['reason']}" if facts.get("reason") else ""
        written = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(saved))
        yield "saved", f"{written}, {age(time.time() - saved)} ago{why}"
    for name, value in manifest.metrics.items():
        yield _label(name), words.number(value) if isinstance(value, float) else str(value)
    if row is not None:
        yield "copy", row.copy
        if row.marks:
            yield "marks", ", ".join(row.marks)
    if facts.get("parent"):
        yield "after", str(facts["parent"])
    for name, value in facts.items():
        if name not in _SHOWN and value is not None:
            yield _label(name), _flat(value)


def _versions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.facts.get("versions"):
        yield "versions", _flat(manifest.facts["versions"])


def _arrangement(entry: Entry, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """How a step is arranged in memory: what a resume takes over, and what was found by running out of memory."""
    sealed = manifest.files.get(STATE)
    if sealed is None or sealed.size > _MOST_STATE:
        return
    try:
        descriptor = os.open(entry.folder / STATE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            state = json.loads(file.read(_MOST_STATE))
    except (OSError, ValueError, RecursionError):
        yield STATE, "cannot be read"
        return
    arrangement = state.get("arrangement") if isinstance(state, dict) else None
    if isinstance(arrangement, dict):
        yield "arrangement", _flat(arrangement)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(one)}" for key, one in value.items() if one is not None)
    return str(value)


def _files(entry: Entry, manifest: Manifest) -> list[str]:
    """A line a file: its name, size, and what tensors are in it."""
    names = sorted(manifest.files, key=lambda name: (-manifest.files[name].size, name))
    rows = [(name, words.size(manifest.files[name].size), _tensors(entry.folder / name)) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name.ljust(widths[0])}  {size.rjust(widths[1])}  {held}".rstrip() for name, size, held in rows]


def _tensors(path: Path) -> str:
    """How many tensors of which kind a file holds, from its header; empty if it is no file of tensors."""
    if path.suffix != ".safetensors":
        return ""
    try:
        found = read_tensors(path)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    kinds = Counter(_kind(name) for name in found)
    most = [f"{count} {kind}" for kind, count in kinds.most_common(_MOST_KINDS)]
    if len(kinds) > _MOST_KINDS:
        most.append(f"{sum(kinds.values()) - sum(count for _, count in kinds.most_common(_MOST_KINDS))} others")
    dtypes = "/".join(sorted({tensor.dtype for tensor in found.values()}))
    numbers = sum(prod(tensor.shape) for tensor in found.values())
    return f"{len(found)} tensors, {words.count(numbers)} numbers ({dtypes}): {', '.join(most)}"


def _kind(name: str) -> str:
    """`exp_avg` of `exp_avg/…`, `lora_A` of `….lora_A.weight`."""
    if "/" in name:
        return name.partition("/")[0]
    parts = [part for part in name.split(".") if part not in ("weight", "bias", "default")]
    return parts[-1] if parts else name


def loading(folder: str, *, adapter: bool) -> list[str]:
    """Two lines of Python that load a checkpoint's folder for inference."""
    library, name = ("peft", "AutoPeftModelForCausalLM") if adapter else ("transformers", "AutoModelForCausalLM")
    return [f"from {library} import {name}", f"model = {name}.from_pretrained({folder!r})"]


def _loading_own(entry: Entry, manifest: Manifest) -> list[str]:
    """What puts a loop of one's own where it was, and the lines that load its modules anywhere else."""
    modules = [name for name in manifest.files if name.endswith(".safetensors") and name != "state.safetensors"]
    lines = ["Its own cell, run again, goes on from the newest. Elsewhere:"] if modules else []
    lines += ["from safetensors.torch import load_file"] if modules else []
    for name in modules:
        lines.append(f"{name.partition('.')[0]}.load_state_dict(load_file({str(entry.folder / name)!r}), strict=False)")
    return lines or ["Its own cell, run again, goes on from the newest."]


def told(metrics: Mapping[str, Any]) -> str:
    """The metrics in one line."""
    shown = (f"{_label(name)} {words.number(value)}" for name, value in metrics.items() if isinstance(value, float))
    return ", ".join(shown)
