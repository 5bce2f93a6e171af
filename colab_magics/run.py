"""A run: one training job with a name and a folder."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from colab_magics import worker
from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.events import Event, EventReader, read_events

if TYPE_CHECKING:
    from colab_magics.recipe import Recipe

State = Literal["running", "finished", "unfinished", "failed"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STARTING = ".starting-"
_TEMPORARY = re.compile(r"\.starting-(?P<name>.+)-[0-9a-f]{8}")


@dataclass(frozen=True)
class Run:
    """A run's folder and what can be read from it.

    Attributes
    ----------
    folder : Path
        `<root>/<name>`.

    Notes
    -----
    Everything is read from the folder when asked, so a `Run` is as good after a kernel's restart, and in another
    notebook, as in the cell that made it.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).absolute())  # a person writes Run("runs/kwanzaa")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """The complete recipe, secrets removed.

        Raises
        ------
        ColabMagicsError
            It is a loop of one's own: there is none.
        """
        from colab_magics.recipe import Recipe

        if self.is_own_loop:
            raise ColabMagicsError(
                f"{self.name} is a loop of your own: it has no recipe.",
                "What it does stands in the cell that tracks it.",
                "Run that cell again to go on with it.",
            )
        return Recipe.from_yaml((self.folder / "recipe.yaml").read_text(encoding="utf-8"))

    def events(self) -> list[Event]:
        """All events so far, of every attempt."""
        return read_events(self.folder / "events.jsonl")

    def history(self) -> list[Event]:
        """The events of the worker and of the process that copies its checkpoints, in the order of their time."""
        both = [*self.events(), *read_events(self.folder / "replica.jsonl")]
        return sorted(both, key=lambda event: str(event.get("time", "")))

    def reader(self) -> EventReader:
        """A reader that gives the events from the first one on, and later what has come since."""
        return EventReader(self.folder / "events.jsonl")

    @property
    def id(self) -> str:
        """What tells this run from every other, also from one of the same name; empty where it has not started."""
        started = (event.get("run") for event in self.events() if event["kind"] == "started")
        return str(next(started, None) or "")

    @property
    def is_own_loop(self) -> bool:
        """Whether it is a person's own loop, made by `colab_magics.track`, and no training of a worker's."""
        started = next((event for event in self.events() if event["kind"] == "started"), None)
        return started is not None and started.get("made_by") == "track"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints; it may not be there."""
        return self.folder / "checkpoints"

    @property
    def attempts(self) -> int:
        """How many attempts have been started."""
        return max((int(event.get("attempt", 0)) for event in self.events()), default=0)

    @property
    def state(self) -> State:
        """`running`, `finished` (to its end, or by early stopping), `failed` (says why), else `unfinished`."""
        if worker.is_alive(self.folder):
            return "running"
        ends = [event for event in self.events() if event["kind"] in ("started", "finished", "failed")]
        last: Event = ends[-1] if ends else {"kind": "started"}
        if last["kind"] == "finished":
            return "unfinished" if last.get("reason") in ("stopped", "deadline") else "finished"
        error: Mapping[str, Any] = last.get("error") or {}
        stopped = error.get("type") == "Interrupted"  # while it was still preparing
        return "failed" if last["kind"] == "failed" and not stopped else "unfinished"

    @property
    def losses(self) -> list[float]:
        """The training loss of each step, in nats per trained token; a step that was run again counts once.

        Of a loop of one's own: whatever it logged as `loss`.
        """
        by_step: dict[int, float] = {}
        attempt = None
        for event in self.events():
            if event["kind"] != "step" or "loss" not in event:
                continue
            each = (event.get("each") or {}).get("loss") or [event["loss"]]
            begin = event["step"] - len(each) + 1  # several steps of a fast loop have one event
            if event["attempt"] != attempt:
                # an attempt that begins at step k goes on from k - 1, whatever the one before it did after that
                attempt = event["attempt"]
                by_step = {step: loss for step, loss in by_step.items() if step < begin}
            by_step |= dict(enumerate(each, begin))
        return [by_step[step] for step in sorted(by_step)]

    @property
    def error(self) -> ColabMagicsError | None:
        """Why the last attempt failed, if it did."""
        failed = [event for event in self.events() if event["kind"] == "failed"]
        return ColabMagicsError.from_dict(failed[-1]["error"]) if failed and self.state == "failed" else None

    @property
    def adapter_path(self) -> Path | None:
        """The folder of the result (`adapter/`, or `model/` for full fine-tuning), once there is one."""
        for name in ("adapter", "model"):
            if (self.folder / name).is_dir():
                return self.folder / name
        return None

    @property
    def result_step(self) -> int | None:
        """The step of the result that is there: an attempt writes it when it ends; None where nobody has noted it."""
        told = [event.get("step") for event in self.events() if event["kind"] == "finished" and event.get("path")]
        return int(told[-1]) if told and told[-1] is not None else None

    def load(self) -> tuple[Any, Any]:
        """The tuned model, ready for inference, and its tokenizer.

        Imports torch into this process. On a GPU the model goes there in 16 bit (fp16 below capability 8.0), or with
        its base in 4 bits if `method: qlora` trained it so; otherwise it is fp32 on the CPU.

        Raises
        ------
        ColabMagicsError
            If the run has no result yet.
        """
        if self.adapter_path is None:
            raise ColabMagicsError(
                f"Run {self.name} has no result to load.",
                f"It is {self.state}, and {self.folder} holds neither adapter/ nor model/.",
                f"%finetune status {self.name} shows where it is.",
            )
        from colab_magics.training.result import load_for_inference

        methods = [event.get("method") for event in self.events() if event["kind"] == "model"]
        return load_for_inference(
            self.adapter_path,
            method=methods[-1] if methods else None,
            trust_remote_code=self.recipe.trust_remote_code,
        )

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.state}, folder={str(self.folder)!r})"


def runs_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where runs live: `root`, else `COLAB_MAGICS_ROOT`, else `./runs`."""
    return Path(root or os.environ.get("COLAB_MAGICS_ROOT") or "runs").expanduser().absolute()


def cache_folder() -> Path:
    """What may be thrown away at any time: prepared data, verdicts, traces."""
    return Path(os.environ.get("COLAB_MAGICS_CACHE") or Path.home() / ".cache" / "colab_magics").expanduser()


def check_name(name: str) -> str:
    """`name` if a run may have it.

    Raises
    ------
    ColabMagicsError
        If it could leave the root, or would be awkward to type.
    """
    if not _NAME.fullmatch(name):
        raise ColabMagicsError(
            f"{name!r} cannot be a run's name.",
            "The name becomes a folder: letters, digits, '.', '_' and '-', at most 64, not starting with '.'.",
            f"Try {_slug(name)!r}." if _slug(name) else "Try a short word.",
        )
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:48]


def automatic_name(model: str, data: str, root: Path, taken: Collection[str] = ()) -> str:
    """`<model>-<data>-NN`, the first NN that no run has, nor one that is still starting, nor one of `taken`."""
    parts = [_slug(Path(text.split(":")[0]).name.split(".")[0].lower()) for text in (model, data)]
    stem = "-".join(part for part in parts if part)[:56] or "run"
    taken = {*taken, *_starting_names(root)}
    number = 1
    while (root / f"{stem}-{number:02d}").exists() or f"{stem}-{number:02d}" in taken:
        number += 1
    return f"{stem}-{number:02d}"


def following_name(name: str, root: Path, taken: Collection[str] = ()) -> str:
    """The first of `name-2`, `name-3`, … that no run has, nor one that is still starting, nor one of `taken`."""
    taken = {*taken, *_starting_names(root)}
    number = 2
    while (root / f"{name}-{number}").exists() or f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def family(name: str, root: Path) -> list[str]:
    """Of `name`, `name-2`, `name-3`, … those that there are, starting ones included; the newest first."""
    numbered = re.compile(re.escape(name) + r"-([2-9]|[1-9][0-9]+)")
    try:
        there = {path.name for path in root.iterdir() if path.is_dir()}
    except OSError:
        return []
    members = [(1, name)] if name in there | _starting_names(root) else []
    for one in there | _starting_names(root):
        if found := numbered.fullmatch(one):
            members.append((int(found[1]), one))
    return [one for _, one in sorted(members, reverse=True)]


def list_runs(root: Path) -> list[Run]:
    """The root's runs, newest first (by their last event)."""

    def found() -> Iterator[tuple[float, Run]]:
        try:
            folders = list(root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for folder in folders:
            log = folder / "events.jsonl"
            if not folder.name.startswith(".") and log.is_file():
                yield log.stat().st_mtime, Run(folder)

    return [run for _, run in sorted(found(), key=lambda pair: pair[0], reverse=True)]


def find_run(name: str | None, root: Path) -> Run:
    """The run called `name`; the newest (a living one first) if `name` is None.

    Raises
    ------
    ColabMagicsError
        If there is none; it names the nearest.
    """
    runs = list_runs(root)
    if name is None:
        living = [run for run in runs if worker.is_alive(run.folder)]
        if living or runs:
            return (living or runs)[0]
        raise ColabMagicsError(
            f"There is no run in {root}.",
            "Runs are kept there unless --root or COLAB_MAGICS_ROOT says otherwise.",
            "Start one with %%finetune, or name its place with --root.",
        )
    for run in runs:
        if run.name == name:
            return run
    close = nearest(name, [run.name for run in runs])
    listed = ", ".join(run.name for run in runs[:3])
    there = f"The newest of {len(runs)} are {listed}." if len(runs) > 3 else f"There is {listed}."
    raise ColabMagicsError(
        f"There is no run called {name!r} in {root}.",
        there if runs else "There is no run at all.",
        f"Did you mean {close}?" if close else "",
        "%finetune list shows those that there are."
        if runs
        else "Start one with %%finetune, or name its place with --root.",
    )


def starting_folder(root: Path, name: str) -> Path:
    """A new temporary folder in which the run starts; the worker renames it when the preflight has passed."""
    folder = root / f"{_STARTING}{name}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    return folder


def starting_name(folder: Path) -> str | None:
    """The name of the run that starts in `folder`; None if that is no temporary folder."""
    found = _TEMPORARY.fullmatch(folder.name)
    return found["name"] if found else None


def _starting_names(root: Path) -> set[str]:
    try:
        return {name for folder in root.iterdir() if (name := starting_name(folder)) is not None}
    except OSError:
        return set()


def is_starting(folder: Path) -> bool:
    """Whether `folder` is a run's temporary folder."""
    return folder.name.startswith(_STARTING)
