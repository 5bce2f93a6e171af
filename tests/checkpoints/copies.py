"""A run as its worker leaves it on disk, with nobody training: what there is to copy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import scenes
from colab_magics.checkpoints.commit import commit
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.checkpoints.replica.copying import Replication
from colab_magics.checkpoints.stores import Store
from colab_magics.events import Event, EventLog, read_events

RUN = scenes.RUN


def make_run(root: Path, name: str = "kwanzaa", *, run: str = RUN, steps: tuple[int, ...] = (10,)) -> Path:
    """A run's folder: recipe, inputs, log, prepared data, and a checkpoint at each of `steps`."""
    folder = root / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "prepared").mkdir()
    (folder / "recipe.yaml").write_text("model: tiny\ndata: rows.jsonl\n")
    (folder / "inputs.json").write_text("{}")
    say(folder, "started", run=run)
    rows = [b"token" * 500]
    commit(folder / "prepared" / "train", {"tokens.npy": rows, "meta.json": [b"{}"]}, Manifest("data", run, {}))
    for step in steps:
        scenes.save(folder / "checkpoints", step, run=run)
        say(folder, "checkpoint", action="saved", name=folder_name(step, 1), step=step)
    return folder


def say(folder: Path, kind: str, **fields: Any) -> None:
    """A line in the run's log, as its worker writes it."""
    log = EventLog(folder / "events.jsonl", 1)
    log.append(kind, **fields)
    log.close()


def finish(folder: Path) -> None:
    """The result, and the last line of the log."""
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 8}))
    say(folder, "finished", reason="steps")


class Said:
    """Keeps what a replication says."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, state: str, **fields: Any) -> None:
        self.all.append({"state": state, **fields})

    def states(self, name: str) -> list[str]:
        """What was said of one checkpoint, without its progress."""
        return [one["state"] for one in self.all if one.get("checkpoint") == name and one["state"] != "copying"]


def copy_all(replication: Replication, *, ended: bool = True, most: int = 100) -> None:
    """Turn until there is nothing left to do."""
    for _ in range(most):
        if not replication.turn(ended=ended):
            return
    raise AssertionError("it never ends")


def replicated(folder: Path, store: Store, *, limit: int = 3) -> Said:
    """Copy a whole run, in this process; what was said."""
    said = Said()
    replication = Replication(folder, store, limit, said)
    copy_all(replication)
    replication.close()
    return said


def news(folder: Path) -> list[Event]:
    """The replica process's events."""
    return [event for event in read_events(folder / "replica.jsonl") if event["kind"] == "replica"]


def wait_for(is_so: Callable[[], object], *, most: float = 60.0) -> None:
    """Until it is so: a loaded machine may take its time."""
    deadline = time.monotonic() + most
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
