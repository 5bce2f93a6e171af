"""`%checkpoint import`: a run that begins where another trainer's checkpoint stands."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.foreign import Foreign, adapted_modules, look, take, unpickled
from colab_magics.errors import ColabMagicsError, clean, redact
from colab_magics.magics.cell import check_free
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.starting import preparing_runs, temporary_run
from colab_magics.panel import words
from colab_magics.recipe.fields import defaults
from colab_magics.recipe.yaml_text import dump
from colab_magics.run import following_name

_SCRATCH = "optimizer"
# said even where they are as by default: a cell with r alone means a lora_alpha of 2 x r
_ALWAYS = ("model", "method", "r", "lora_alpha")


def bring_in(line: Line, root: Path, said: Callable[[str], None]) -> str:
    """Make the folder of a run that `%%finetune NAME` begins from the checkpoint; what to say, the cell included.

    Raises
    ------
    ColabMagicsError
        The name is taken, or the checkpoint is none that can be taken over. Nothing is left in the root then.
    """
    name, path = str(line.run), Path(str(line.path)).expanduser()
    check_free(name)
    if os.path.lexists(root / name) or name in preparing_runs(root):
        raise _taken(name, root)
    foreign = look(path)
    with temporary_run(root, name) as temporary:
        checkpoints, scratch = temporary.folder / "checkpoints", temporary.folder / _SCRATCH
        moments = None
        if line.trust_pickle:
            said(f"Reading {path.name}'s optimizer, a pickle, in a process of its own: tensors and numbers only.")
            moments = unpickled(foreign, scratch)
        try:
            checkpoints.mkdir()
            take(foreign, checkpoints, name=name, run=secrets.token_hex(8), moments=moments)
            scratch.unlink(missing_ok=True)
        except OSError as error:
            raise ColabMagicsError(
                f"{path.name} could not be imported.", error.strerror or str(error), "Nothing was left there."
            ) from None
        try:
            temporary.folder.rename(root / name)
        except OSError:
            raise _taken(name, root) from None
    return "\n".join(redact(clean(text)) for text in _report(foreign, name, moments is not None))


def _taken(name: str, root: Path) -> ColabMagicsError:
    return ColabMagicsError(
        f"There is a run {name} already.",
        "What is imported becomes a run of its own.",
        f"Try {following_name(name, root)}.",
    )


def _report(foreign: Foreign, name: str, moments: bool) -> list[str]:
    what = "LoRA adapter" if foreign.method == "adapter" else "full model"
    of = f" of {foreign.steps:,}" if foreign.steps else ""
    taken = f"Imported {foreign.folder.name} as {name}: step {foreign.step:,}{of}, {what}, {words.size(foreign.size)}"
    lines = [f"{taken}, {'with' if moments else 'without'} the optimizer's moments."]
    if foreign.steps is not None and foreign.step >= foreign.steps:
        lines.append(f"It had done all of its steps: max_steps below is for {foreign.step:,} more.")
    lines += ["Begin from it with this cell; data is yours to fill in:", "", f"%%finetune {name}"]
    lines += dump(recipe_of(foreign)).splitlines()
    if foreign.micro_batch is not None:
        lines.append(f"# effective_batch_size: {foreign.micro_batch} x its gradient_accumulation_steps; 16 without it")
    return [*lines, "data: …"]


def recipe_of(foreign: Foreign) -> dict[str, Any]:
    """The keys of the recipe that the checkpoint decides, but for those that are as by default."""
    adapter = foreign.adapter
    if foreign.method == "full":
        told: dict[str, Any] = {"model": str(foreign.folder.absolute()), "method": "full"}
    else:
        modules = sorted({module.rpartition(".")[2] for module in adapted_modules(foreign.weights)})
        told = {
            "model": adapter["base"] or "…",
            "hub_revision": adapter["revision"],
            "method": "auto",  # lora or qlora, as memory has it: the adapter does not say which it was
            **{key: adapter[key] for key in ("r", "lora_alpha", "lora_dropout")},
            "target_modules": adapter["target_modules"] or modules,  # a pattern: by what it found
            **{key: adapter[key] for key in ("modules_to_save", "use_rslora", "use_dora")},
        }
    if foreign.steps is not None:
        # the rest of its schedule
        told["max_steps"] = foreign.steps if foreign.steps > foreign.step else 2 * foreign.step
    return {key: value for key, value in told.items() if key in _ALWAYS or value != defaults()[key]}
