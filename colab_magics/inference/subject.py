"""Whose text is asked for: a run's result, one of its checkpoints, its base, or a model that no run has made.

Everything here is read from folders: no torch, and nothing of a model but its config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.manifest import Broken
from colab_magics.checkpoints.verify import entries, verify
from colab_magics.data.formats import Wishes
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import is_path, read_config
from colab_magics.memory.architecture import shape_of
from colab_magics.plan import ModelShape, from_log
from colab_magics.recipe import Recipe
from colab_magics.run import Run, find_run, list_runs

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"


@dataclass(frozen=True)
class Subject:
    """A model that can be asked.

    Attributes
    ----------
    label : str
        `run kwanzaa`, `run kwanzaa at step 40`, `the base of kwanzaa`.
    base : str
        The model below the adapter, or all of it: a folder or a Hub id.
    revision : str, optional
        Its commit on the Hub.
    adapter : Path, optional
        The adapter's folder; None for a model without one.
    tokenizer : str
        Where the tokenizer is.
    four_bit : bool
        Whether it was trained on a base in 4 bits.
    recipe : Recipe, optional
        Of the run; None for a model that no run of ours has made.
    run : Run, optional
    step : int, optional
        Of the run, as the weights were written; None for a base, and where nobody has noted it.
    trusted : bool
        Whether code that the model brings may run.
    notes : tuple of str
        What is worth a word before the first answer.
    """

    label: str
    base: str
    tokenizer: str
    revision: str | None = None
    adapter: Path | None = None
    four_bit: bool = False
    recipe: Recipe | None = None
    run: Run | None = None
    step: int | None = None
    trusted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def wishes(self) -> Wishes:
        """How the run's recipe makes prompts of rows."""
        if self.recipe is None:
            return Wishes()
        return Wishes(self.recipe.columns, self.recipe.prompt_template, self.recipe.system)

    @property
    def format(self) -> str:
        """How the run's rows were read; empty where that is not known."""
        told = _last(self.run, "data")
        return str(told.get("format") or "")

    @property
    def clock(self) -> datetime:
        """The time that templates tell: that of the run's first attempt."""
        started = next((event for event in self.run.events() if event["kind"] == "started"), None) if self.run else None
        return datetime.fromisoformat(started["time"]) if started else datetime.now(timezone.utc)

    @property
    def plan(self) -> Mapping[str, Any]:
        """The choices of the run's plan: name -> value."""
        choices = _last(self.run, "plan").get("choices") or {}
        return {name: choice.get("value") for name, choice in choices.items()}

    @property
    def base_is_gone(self) -> bool:
        """Whether the base is a folder that is not there."""
        return is_path(self.base) and not Path(self.base).expanduser().is_dir()

    def shape(self) -> ModelShape | None:
        """The model's sizes, where they are known without loading it."""
        told = _last(self.run, "plan").get("shape")
        if told:
            return from_log(ModelShape, told)
        try:
            found = read_config(self.base, self.revision)
            return shape_of(found.config, weight_bytes=found.weight_bytes or None)
        except ColabMagicsError:
            return None


def of_run(name: str | None, root: Path, *, step: int | None = None, base: bool = False) -> Subject:
    """The newest run's result, or that of the run called `name`.

    Parameters
    ----------
    step : of a checkpoint to take in place of the result
    base : the model that the run began with, in place of what it became

    Raises
    ------
    ColabMagicsError
        There is no such run, it has no result, or no whole checkpoint of that step.
    """
    run, notes = _with_result(name, root) if step is None and not base else (find_run(name, root), ())
    recipe = run.recipe
    folder = _checkpoint(run, step) if step is not None else run.adapter_path
    model = _last(run, "model")
    subject = Subject(
        f"run {run.name}" if step is None else f"run {run.name} at step {step}",
        recipe.model,
        _tokenizer_in(run.folder / "tokenizer", folder) or recipe.model,
        model.get("revision") or recipe.hub_revision,
        recipe=recipe,
        run=run,
        step=step if step is not None else run.result_step,
        four_bit=model.get("method") == "qlora",
        trusted=recipe.trust_remote_code,
        notes=notes,
    )
    if base:
        trained = run.adapter_path or next((entry.folder for entry in entries(run.checkpoints)), None)
        return replace(subject, label=f"the base of {run.name}", step=None, base=_base_of(trained, recipe.model))
    assert folder is not None
    if step is None:
        subject = replace(subject, notes=(*notes, *older_result(run)))
    if (folder / "adapter_config.json").is_file():
        return replace(subject, adapter=folder, base=_base_of(folder, recipe.model))
    return replace(subject, base=str(folder), revision=None, four_bit=False)


def older_result(run: Run) -> Iterator[str]:
    """A word where a run has gone on since its result was written: an attempt writes one when it ends."""
    written = run.result_step
    newest = max((int(event["step"]) for event in run.events() if event["kind"] == "step"), default=0)
    if written is None or newest <= written:
        return
    steps = [entry.step for entry in entries(run.checkpoints, run=run.id or None) if entry.manifest is not None]
    newer = f"; --checkpoint {max(steps)} takes a newer one" if steps and max(steps) > written else ""
    yield f"This is the result of step {written:,}; {run.name} is at step {newest:,} now{newer}."


def of_model(text: str) -> Subject:
    """A model by its folder or Hub id: an adapter with its base, or a model as it is.

    Raises
    ------
    ColabMagicsError
        There is no such folder or model.
    """
    folder = Path(text).expanduser()
    told = _adapter_config(folder)
    if told is None:
        read_config(text)
        return Subject(text, text, text)
    base, revision = str(told.get("base_model_name_or_path") or ""), told.get("revision")
    return Subject(text, base, _tokenizer_in(folder) or base, str(revision) if revision else None, folder.absolute())


def _with_result(name: str | None, root: Path) -> tuple[Run, tuple[str, ...]]:
    """The run that is meant, with a result; and a word where the newest has none."""
    run = find_run(name, root)
    if run.is_own_loop and name is not None:
        raise _own_loop(run)
    if run.adapter_path is not None:
        return run, ()
    if name is None:
        other = next((one for one in list_runs(root) if one.adapter_path is not None), None)
        if other is not None and run.is_own_loop:
            return other, (f"{run.name} is newer, and a loop of your own: only its code can ask it.",)
        if other is not None:
            return other, (f"{run.name} is newer, and has no result yet; --run {run.name} --checkpoint STEP asks it.",)
    if run.is_own_loop:
        raise _own_loop(run)
    steps = sorted({entry.step for entry in entries(run.checkpoints) if entry.manifest is not None})
    raise ColabMagicsError(
        f"Run {run.name} has no result.",
        f"It is {run.state}, and has written neither an adapter nor a model.",
        f"--run {run.name} --checkpoint {steps[-1]} asks its newest checkpoint." if steps else "",
        f"%generate --run {run.name} --base asks the model that it began with.",
        f"%checkpoint resume {run.name} trains it to its end." if run.state == "unfinished" and steps else "",
    )


def _own_loop(run: Run) -> ColabMagicsError:
    """Why a loop of one's own is not asked."""
    return ColabMagicsError(
        f"{run.name} is a loop of your own: only its code can ask it.",
        "Its checkpoints hold modules, and no model that transformers loads.",
        f"%checkpoint show {run.name} prints the lines that load each module from its .safetensors file.",
        "--model asks a model by its folder or Hub id.",
    )


def _checkpoint(run: Run, step: int) -> Path:
    """The newest whole checkpoint of that step."""
    found = entries(run.checkpoints, run=run.id or None)
    broken = ""
    for entry in found:
        if entry.step == step:
            try:
                verify(entry.folder, run=run.id or None)
            except Broken as why:
                broken = broken or str(why)
            else:
                return entry.folder
    if broken:
        raise ColabMagicsError(
            f"The checkpoint of step {step} is broken.", broken, f"%checkpoint verify {run.name} looks at all of them."
        )
    steps = sorted({entry.step for entry in found})
    raise ColabMagicsError(
        f"{run.name} has no checkpoint of step {step}.",
        f"It has {', '.join(map(str, steps[-6:]))}." if steps else "It has none at all.",
        f"Did you mean {min(steps, key=lambda one: abs(one - step))}?" if steps else "",
    )


def _base_of(adapter: Path | None, model: str) -> str:
    """The base that the adapter names, where that is on this machine; else as the recipe names it."""
    told = _adapter_config(adapter) if adapter is not None else None
    named = str((told or {}).get("base_model_name_or_path") or model)
    return model if model == "demo" or (Path(named).is_absolute() and not Path(named).is_dir()) else named


def _tokenizer_in(*folders: Path | None) -> str | None:
    """The first of them that holds a tokenizer."""
    found = (folder for folder in folders if folder is not None and (folder / "tokenizer_config.json").is_file())
    return next(map(str, found), None)


def _adapter_config(folder: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _last(run: Run | None, kind: str) -> Mapping[str, Any]:
    """The run's last event of a kind; of several splits of data the training's."""
    if run is None:
        return {}
    found = [event for event in run.events() if event["kind"] == kind and event.get("split", "train") == "train"]
    return found[-1] if found else {}
