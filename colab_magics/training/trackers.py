"""The dashboards that a run may report to besides the panel: what each needs, and where it keeps its files.

They are accelerate's trackers. What is local lies in the run's folder, so `%tensorboard --logdir runs/NAME` finds it
and a resumed run goes on in the same place.
"""

from __future__ import annotations

import inspect
import netrc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe
from colab_magics.run import Run

PROJECT = "colab_magics"
_OFFLINE = ("offline", "disabled", "dryrun")


@dataclass(frozen=True)
class Dashboard:
    """One tracker of one run.

    Attributes
    ----------
    name : str
        As in `report_to`.
    is_new : bool
        Whether it is local and has no files yet: then it is told the run's whole history.
    open : callable
        Given the first step it will be told, returns accelerate's tracker, started.
    log : callable
        Called as log(tracker, figures, step, time); the time is a POSIX timestamp.
    """

    name: str
    is_new: bool
    open: Callable[[int], Any]
    log: Callable[[Any, dict[str, float], int, float], None]


def chosen(recipe: Recipe) -> list[str]:
    """The trackers that the recipe names."""
    return [] if isinstance(recipe.report_to, str) else recipe.report_to


def check_trackers(recipe: Recipe, environ: Mapping[str, str] = os.environ) -> None:
    """Find out that a tracker cannot work: in the kernel before a worker is started, and in the worker.

    Imports nothing that is looked for.

    Raises
    ------
    ColabMagicsError
        When its package is missing, or it would ask for a login: a worker has nobody to ask.
    """
    invalidate_caches()  # a cell above may have installed it in this very second
    for name in chosen(recipe):
        needs = (name, "sqlalchemy") if name == "mlflow" and not environ.get("MLFLOW_TRACKING_URI") else (name,)
        if not all(map(find_spec, needs)):  # mlflow-skinny has no database to keep a local run in
            raise ColabMagicsError(
                f"report_to: {name} needs the package {name}, which is not installed.",
                "The panel and events.jsonl need nothing more.",
                f"%pip install {name}, then run the cell again (no restart is needed).",
                "Or leave report_to out.",
            )
        if name == "wandb" and not _wandb_may_start(environ):
            raise ColabMagicsError(
                "report_to: wandb has no API key.",
                "It would ask for one, and the process that trains has no keyboard.",
                "Put your key into the variable WANDB_API_KEY in a cell above, from the secrets of Colab or Kaggle.",
                "Or %env WANDB_MODE=offline: wandb sync uploads the run's wandb folder later.",
                "Or name trackers that need no key, as in report_to: tensorboard.",
            )


def _wandb_may_start(environ: Mapping[str, str]) -> bool:
    if environ.get("WANDB_MODE", "").lower() in _OFFLINE:
        return True
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(environ.get("NETRC") or os.fspath(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False


def dashboards(folder: Path, recipe: Recipe) -> list[Dashboard]:
    """The recipe's dashboards, none of them opened yet."""
    return [_MAKERS[name](folder, recipe) for name in chosen(recipe)]


def _tensorboard(folder: Path, recipe: Recipe) -> Dashboard:
    def opened(first: int) -> Any:
        # with a tensorflow beside it, as on Colab, tensorboard would import all of that to write a file
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        from accelerate.tracking import TensorBoardTracker

        # what an attempt that died told of later steps is hidden
        tracker = TensorBoardTracker("tensorboard", os.fspath(folder), purge_step=first)
        tracker.start()
        # its own way would put hyperparameters into one more folder an attempt, each shown as a run
        tracker.log({"recipe": f"```yaml\n{recipe.to_yaml()}```"}, step=first)
        return tracker

    def log(tracker: Any, figures: dict[str, float], step: int, time: float) -> None:
        tracker.log(figures, step=step, walltime=time)

    return Dashboard("tensorboard", not (folder / "tensorboard").exists(), opened, log)


def _trackio(folder: Path, recipe: Recipe) -> Dashboard:
    remote = bool(os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"))
    place = Path(os.environ.setdefault("TRACKIO_DIR", os.fspath(folder / "trackio")))

    def opened(_first: int) -> Any:
        import trackio
        from accelerate import PartialState
        from accelerate.tracking import TrackioTracker

        PartialState()  # the logger of these trackers refuses to work without it
        # it samples by itself too, through the same driver; our own figures are enough
        options = {"name": folder.name, "resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        known = inspect.signature(trackio.init).parameters
        options = {key: value for key, value in options.items() if key in known}
        tracker = TrackioTracker(os.environ.get("TRACKIO_PROJECT") or PROJECT, **options, config=recipe.values())
        tracker.start()
        return tracker

    return Dashboard("trackio", not remote and not place.exists(), opened, _log)


def _wandb(folder: Path, recipe: Recipe) -> Dashboard:
    def opened(_first: int) -> Any:
        import wandb
        from accelerate import PartialState
        from accelerate.tracking import WandBTracker

        PartialState()
        tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT") or PROJECT,
            name=folder.name,
            id=Run(folder).id,
            dir=os.fspath(folder),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        tracker.start()
        tracker.store_init_configuration(recipe.values())
        # its own step never goes back, and a run that continues from a checkpoint does
        tracker.tracker.define_metric("*", step_metric="step")
        return tracker

    def log(tracker: Any, figures: dict[str, float], step: int, _time: float) -> None:
        tracker.log({**figures, "step": step})

    return Dashboard("wandb", False, opened, log)


def _mlflow(folder: Path, recipe: Recipe) -> Dashboard:
    place = folder / "mlflow"
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    kept = place / "run_id"

    def opened(_first: int) -> Any:
        import mlflow
        from accelerate.tracking import MLflowTracker

        place.mkdir(exist_ok=True)
        if not remote:
            mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")  # it gives up its store of plain files
        known = kept.read_text().strip() if kept.exists() else None
        tracker = MLflowTracker(PROJECT, None if remote else os.fspath(place), run_id=known, run_name=folder.name)
        tracker.start()
        if known is None:
            kept.write_text(tracker.tracker.info.run_id)
            # it takes each value once; a resumed run that trains otherwise says so in its own log
            tracker.store_init_configuration(recipe.values())
        return tracker

    return Dashboard("mlflow", not remote and not kept.exists(), opened, _log)


def _log(tracker: Any, figures: dict[str, float], step: int, _time: float) -> None:
    tracker.log(figures, step=step)


_MAKERS: dict[str, Callable[[Path, Recipe], Dashboard]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
