"""A run's first moments: its temporary folder, what is written there, and the worker that gets it."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.recipe import Recipe
from colab_magics.run import Run, starting_folder, starting_name

INPUTS = "inputs.json"
_STALE = 3600.0  # seconds after which a temporary folder that nobody works on is rubbish


@dataclass
class Temporary:
    """The folder in which a run starts; its name tells other kernels which run that will be."""

    folder: Path

    def call(self, name: str) -> Path:
        """Have it start the run `name` instead; the folder, as it is called then."""
        if starting_name(self.folder) != name:
            folder = starting_folder(self.folder.parent, name)
            self.folder.rename(folder)  # onto an empty one
            self.folder = folder
        return self.folder


@contextmanager
def temporary_run(root: Path, name: str) -> Iterator[Temporary]:
    """A temporary folder for the run; gone afterwards, unless a worker has taken it or still works on it.

    A root that did not exist goes too if nothing came of it: bad input leaves no trace.
    """
    created = [path for path in (root, *root.parents) if not path.exists()]
    temporary = None
    try:
        with written_in(root):
            temporary = Temporary(starting_folder(root, name))
        yield temporary
    finally:
        if temporary is not None and not worker.is_alive(temporary.folder):
            shutil.rmtree(temporary.folder, ignore_errors=True)
        for path in created:
            with suppress(OSError):  # it holds something, or could not be made
                path.rmdir()


@contextmanager
def written_in(root: Path) -> Iterator[None]:
    """Turns a disk that takes nothing more, or never did, into words."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ColabMagicsError(
            f"The disk of {root} is too full to start a run." if full else f"No run can be started in {root}.",
            error.strerror or str(error),
            "Make room, or name another place with --root." if full else "Name another place with --root.",
        ) from None


def write_inputs(
    folder: Path,
    recipe: Recipe,
    namespace: Mapping[str, Any],
    progress: Callable[[str, int, int | None, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write `recipe.yaml`, `inputs.json` and the rows that only the notebook has; returns the inputs.

    A file that is not beside the notebook is looked for in the platform's folders, and `say` is told where it was.

    Rows of a variable, and all rows where `format:` names a function, are written here to `data/*.jsonl`: the
    worker sees neither the notebook's variables nor its functions.

    Raises
    ------
    ColabMagicsError
        A source names nothing, a row cannot be written, or the function fails on one.
    """
    from colab_magics.data import Source, identity, resolve
    from colab_magics.data.variables import write_rows

    function = _format_function(recipe, namespace)
    inputs: dict[str, Any] = {}
    for split, text, limit in (
        ("train", recipe.data, recipe.max_train_samples),
        ("eval", recipe.eval_data, recipe.max_eval_samples),
    ):
        if not text:
            continue
        source = resolve(text, namespace, cwd=Path.cwd(), find=_elsewhere)
        if source.found is not None:
            say(f"{text} is not beside the notebook; it was found in {source.found}.")
        if source.kind == "variable" or function is not None:
            value = namespace[source.name] if source.kind == "variable" else source
            path = folder / "data" / f"{split}.jsonl"
            with written_in(folder.parent):
                path.parent.mkdir(exist_ok=True)
                write_rows(value, path, fn=function, limit=limit, progress=progress)
            written = Source(source.kind, source.name, str(path), source.split)
            # the folder will be renamed: the path is kept as seen from it
            inputs[split] = {**written.to_dict(), "path": f"data/{path.name}", "identity": identity(written)}
        else:
            inputs[split] = {**source.to_dict(), "identity": identity(source)}
    with written_in(folder.parent):
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        (folder / INPUTS).write_text(json.dumps(inputs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return inputs


def _elsewhere(text: str) -> tuple[Path | None, str]:
    """Look for a file of rows where this platform keeps them."""
    from colab_magics.session.folders import searched
    from colab_magics.session.here import this_session
    from colab_magics.session.search import find

    return find(text, searched(this_session().platform, Path.cwd()))


def keep_log_of(run: Run, folder: Path) -> None:
    """Carry the log of the run's earlier attempts over to the folder that will take its place."""
    for path in (run.folder / "events.jsonl", *run.folder.glob("worker-*.log")):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def living_run(name: str, root: Path) -> tuple[Path, Path | None] | None:
    """The run `name` if a worker is alive on it: its folder, and the temporary one where it is still preparing."""
    if worker.is_alive(root / name):
        return root / name, None
    for folder in _temporary(root):
        if starting_name(folder) == name:
            if worker.is_alive(folder):
                return root / name, folder
            if worker.is_alive(root / name):  # its preflight has passed since we looked
                return root / name, None
    return None


def preparing_runs(root: Path) -> list[str]:
    """Names of the runs that are still in their preflight."""
    found = ((folder, starting_name(folder)) for folder in _temporary(root))
    return [name for folder, name in found if name and worker.is_alive(folder)]


def sweep(root: Path) -> None:
    """Remove temporary folders that were left behind, as by a kernel that died during a preflight."""
    for folder in _temporary(root):
        try:
            old = time.time() - folder.stat().st_mtime > _STALE
        except OSError:
            continue
        if old and not worker.is_alive(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if starting_name(path) is not None]
    except OSError:
        return []


def _format_function(recipe: Recipe, namespace: Mapping[str, Any]) -> Any:
    if recipe.format is None:
        return None
    function = namespace.get(recipe.format)
    if callable(function):
        return function
    functions = [name for name, value in namespace.items() if callable(value) and not name.startswith("_")]
    close = nearest(recipe.format, functions)
    raise ColabMagicsError(
        f"format: {recipe.format} is no function of this notebook.",
        "It must take one row (a dict) and return one.",
        f"Did you mean {close}?" if close else f"Run the cell that defines {recipe.format} first.",
    )
