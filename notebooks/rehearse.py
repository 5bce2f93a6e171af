"""Run the notebooks of this folder from top to bottom, as rehearsals: `make notebooks`.

A rehearsal (COLAB_MAGICS_TINY=1) runs the same cells on a tiny model of the same architecture and on fewer rows, in an
empty folder, without a GPU and without a network. What the cells then show is saved in the notebooks, so that whoever
reads them on GitHub sees it.

    python notebooks/rehearse.py                 # all of them, saved with their outputs
    python notebooks/rehearse.py vram --dry      # one, printed and not saved
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
# The folder that a notebook on Colab stands in; in what is saved it takes the place of the rehearsal's own.
_SHOWN_AS = "/content"
# What whoever rehearses has set for himself: what a notebook sets is its folder's own.
_NOT_HERE = ("COLAB_MAGICS_ROOT", "COLAB_MAGICS_REPLICA", "COLAB_MAGICS_SESSION")

# On which platform a notebook is rehearsed whose first cells are about it. kaggle_100k_rows says it itself.
_ON = {"qwen3_4b_proof_of_concept": "colab-free"}


def names() -> list[str]:
    """The notebooks, by their names without .ipynb."""
    return sorted(path.stem for path in HERE.glob("*.ipynb"))


def rehearse(name: str, folder: Path, **variables: str) -> Any:
    """The notebook with the outputs that its cells had there.

    Parameters
    ----------
    name : without .ipynb
    folder : an empty one, in which it runs
    variables : of the environment, besides those of a rehearsal

    Raises
    ------
    CellExecutionError
        A cell failed that is not tagged raises-exception.
    """
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    rehearsal = {
        "COLAB_MAGICS_TINY": "1",
        "COLAB_MAGICS_CACHE": str(folder / ".cache"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),  # neither the user's settings nor his runs elsewhere
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    if (platform := _ON.get(name)) is not None:
        rehearsal["COLAB_MAGICS_PLATFORM"] = platform
        _pretend(platform, folder)
    with _environment({**rehearsal, **variables}, without=_NOT_HERE):
        NotebookClient(
            notebook,
            timeout=400,
            kernel_name="python3",
            coalesce_streams=True,  # a line that was printed in two parts is one
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns that the local socket is not encrypted
        ).execute()
    return notebook


def _pretend(platform: str, folder: Path) -> None:
    """A session of that platform which begins now, with a folder that stands for the mounted Drive."""
    drive, settings = folder / "drive" / "MyDrive", folder / ".config" / "colab_magics" / "session.toml"
    drive.mkdir(parents=True)
    settings.parent.mkdir(parents=True)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    settings.write_text(
        f'[session]\nstart = "{now}"\n\n[platforms.{platform}]\npersistent = "{drive}"\n', encoding="utf-8"
    )


@contextmanager
def _environment(variables: dict[str, str], without: tuple[str, ...]) -> Iterator[None]:
    before = dict(os.environ)
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def text_of(cell: Any) -> str:
    """What a cell shows, as text and without colours: printed, displayed and raised."""
    parts = []
    for output in cell.outputs:
        parts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        parts += [*output.get("traceback", []), output.get("evalue", "")]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(parts))


def tagged(notebook: Any) -> dict[str, str]:
    """The text of each tagged cell's outputs, by its last tag."""
    return {cell.metadata["tags"][-1]: text_of(cell) for cell in notebook.cells if cell.metadata.get("tags")}


def without_machine(notebook: Any, folder: Path) -> Any:
    """Ready to be saved: no path of this machine, no widget without its kernel, nothing blank."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop("application/vnd.jupyter.widget-view+json", None) and data.keys() <= {"text/plain"}:
                data.clear()  # a progress bar, as it stood at its beginning
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.output_type == "error" or _shows(one)]
    notebook.metadata.pop("widgets", None)
    return nbformat.reads(nbformat.writes(notebook).replace(str(folder), _SHOWN_AS), as_version=4)


def _shows(output: Any) -> bool:
    """Whether it is more than blank, as a line of progress is that was cleared."""
    shown = output.get("text") or output.get("data") or ""
    return any(str(part).strip() for part in ([shown] if isinstance(shown, str) else shown.values()))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "names", nargs="*", metavar="NAME", help="of a notebook, without .ipynb; all when none is given"
    )
    options.add_argument("--dry", action="store_true", help="print what the cells show, and save nothing")
    chosen = options.parse_args()
    unknown = [name for name in chosen.names if name not in names()]
    if unknown:
        options.error(f"there is no notebook {unknown[0]}; there is {', '.join(names())}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in chosen.names or names():
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as made:
            folder = Path(made)
            try:
                notebook = rehearse(name, folder)
            except CellExecutionError as error:
                sys.exit(f"A cell of {name}.ipynb failed.\n{error.ename}: {error.evalue}\n{error.traceback}")
            if chosen.dry:
                for cell in notebook.cells:
                    if cell.cell_type == "code":
                        print(f"--- {cell.source}\n{text_of(cell)}")
            else:
                nbformat.write(without_machine(notebook, folder), HERE / f"{name}.ipynb")
        print(f"{name}.ipynb ran in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
