"""Going on from a checkpoint: which one, under which plan, and what of it is not as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.commit import discard
from colab_magics.checkpoints.linked import commit_linked
from colab_magics.checkpoints.manifest import MANIFEST, Broken, folder_name, parse_folder_name
from colab_magics.checkpoints.verify import Entry, entries, newest_verified, set_aside, verify
from colab_magics.errors import ColabMagicsError
from colab_magics.events import Event
from colab_magics.plan import Choice, Device, Plan
from colab_magics.recipe import Recipe
from colab_magics.recipe.fields import NOT_TRAINED, defaults
from colab_magics.run import Run
from colab_magics.training.batches import Order
from colab_magics.training.state import Saved, read_saved

# What follows from recipe and data alone; on another device all else is chosen anew.
_OF_THE_RECIPE = ("max_length", "effective_batch", "total_steps", "warmup_steps", "learning_rate", "eval_every")


@dataclass(frozen=True)
class Origin:
    """The checkpoint from which an attempt begins."""

    saved: Saved
    entry: Entry
    skipped: tuple[Entry, ...]
    rewound: bool = False  # there are newer ones, which the run leaves behind

    @property
    def step(self) -> int:
        return self.entry.step

    def moved(self, before: Path, after: Path) -> Origin:
        """The same, once the folder `before` is called `after`."""
        if not self.entry.folder.is_relative_to(before):
            return self
        folder = after / self.entry.folder.relative_to(before)
        return replace(self, saved=replace(self.saved, folder=folder), entry=replace(self.entry, folder=folder))


def find_origin(path: Path) -> Origin:
    """The checkpoint at `path`, or the newest verified one of a `checkpoints` folder.

    Raises
    ------
    ColabMagicsError
        None there is whole; says what is wrong with each.
    """
    if parse_folder_name(path.name) is not None or (path / MANIFEST).exists():
        try:
            manifest = verify(path)
        except Broken as broken:
            raise ColabMagicsError(
                f"Checkpoint {path.name} cannot be used.",
                f"It was checked byte by byte: {broken}.",
                "%checkpoint resume without --from takes the newest that is whole.",
            ) from None
        entry = Entry(path, manifest.step, manifest.attempt, manifest)
        newer = any(one.age_order > entry.age_order for one in entries(path.parent, run=manifest.run))
        return Origin(read_saved(path), entry, (), rewound=newer)
    search = newest_verified(path, run=Run(path.parent).id or None)
    if search.entry is None:
        raise ColabMagicsError(
            f"No checkpoint of {path.parent.name} is whole." if search.skipped else f"{path.parent.name} has none yet.",
            "Each was checked byte by byte." if search.skipped else "It was stopped before its first checkpoint.",
            "%checkpoint fetch gets those of the replica, if there is one.",
            "%%finetune with the same recipe starts over.",
            details=[f"{entry.name}: {entry.broken}" for entry in search.skipped[:3]],
        )
    return Origin(read_saved(search.entry.folder), search.entry, search.skipped)


def take_over(origin: Origin, folder: Path, run: str) -> Origin:
    """Bring the checkpoint of another run into `folder`, as the first one of the run `run`; one of its own stays.

    A fork must not depend on a run that may go on, prune, or lie in a place that is gone tomorrow.
    """
    manifest = origin.entry.manifest
    if manifest is None or manifest.run == run:
        return origin
    target = folder / "checkpoints" / folder_name(manifest.step, 0)
    target.parent.mkdir(exist_ok=True)
    facts = dict(manifest.facts)
    if origin.saved.imported is None:  # of one that was imported it names the other trainer's folder
        facts["parent"] = f"{facts.get('name', '')}/{origin.entry.name}"
    files = [origin.entry.folder / name for name in manifest.files]
    taken = commit_linked(target, files, replace(manifest, run=run, attempt=0, facts=facts))
    if dict(taken.files) != dict(manifest.files):
        discard(target, run=run)  # its own manifest holds, and a later search would take it
        raise ColabMagicsError(
            f"Checkpoint {origin.entry.name} changed while it was copied.",
            "Its run deleted it, or its disk is failing.",
            "Run the cell again.",
        )
    return Origin(read_saved(target), Entry(target, manifest.step, 0, taken), origin.skipped)


def put_aside(origin: Origin) -> list[str]:
    """Rename the broken ones that were passed over, so that they are looked at once; what could not be."""
    failed = []
    for entry in origin.skipped:
        try:
            set_aside(entry)
        except OSError as error:
            failed.append(f"{entry.name} is broken and could not be renamed: {error.strerror}")
    return failed


def changed_keys(saved: Saved, recipe: Recipe) -> list[list[str]]:
    """[key, in the checkpoint, in the cell, used] for every key that changes what is trained and differs."""
    was, now = (
        {**defaults(), **saved.recipe},
        recipe.values(),
    )  # a key that is newer than the checkpoint was the default
    keys = [key for key in recipe.KEYS if key not in NOT_TRAINED and was[key] != now[key]]
    return [[key, str(was.get(key)), str(now[key]), str(now[key])] for key in keys]


def same_device(saved: Saved, device: Device) -> bool:
    """Whether the checkpoint was taken on a device of the same kind."""
    return saved.state.get("device") == device_facts(device)


def device_facts(device: Device) -> dict[str, Any]:
    """What makes two devices of the same kind."""
    return {
        "kind": device.kind,
        "name": device.name,
        "capability": list(device.capability) if device.capability is not None else None,
    }


def plan_for(saved: Saved, fresh: Plan, *, changed: bool, device: Device) -> Plan:
    """The plan under which the run goes on.

    With nothing changed it is the checkpoint's own, down to the micro-batch that an out-of-memory had settled on. On
    another device what follows from recipe and data stays, and the rest is as that device has it.
    """
    was = Plan.from_dict(saved.plan)
    if changed:
        return fresh
    if same_device(saved, device):
        return was
    return fresh.choosing(**{key: was.choices[key] for key in _OF_THE_RECIPE if key in was.choices})


def plan_to_the_end(plan: Plan, recipe: Recipe, saved: Saved, order: Order) -> Plan:
    """`plan` with the steps that are left, where recipe or data changed: by the samples taken, whatever took them.

    Raises
    ------
    ColabMagicsError
        There is nothing left to train.
    """
    step, samples = int(saved.state["progress"]["step"]), int(saved.state["progress"]["samples"])
    total = int(plan["total_steps"])
    if recipe.max_steps <= 0:
        total = step + order.steps_from(samples, order.position(total))
    if total <= step:
        raise ColabMagicsError(
            f"There is nothing left to train: the checkpoint is of step {step}, and the recipe ends there or before.",
            f"It has taken {samples:,} samples of {order.documents:,} an epoch.",
            "Raise num_train_epochs or max_steps.",
        )
    if total == plan["total_steps"]:
        return plan
    return plan.choosing(total_steps=Choice(total, f"{step} steps done, and the samples that are left"))


def lost_steps(events: list[Event], attempt: int, step: int) -> int:
    """How many steps an earlier attempt had done beyond `step`."""
    done = [int(event["step"]) for event in events if event["kind"] == "step" and event["attempt"] < attempt]
    return max(0, (done[-1] if done else 0) - step)


def data_changed(saved: Saved, fingerprints: Mapping[str, str]) -> bool:
    """Whether the prepared data is other data than the checkpoint's."""
    was = saved.state.get("data")
    return isinstance(was, dict) and was.get("train") != fingerprints.get("train")
