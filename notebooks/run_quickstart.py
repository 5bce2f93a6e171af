"""Run quickstart.ipynb in a real kernel and print what its reader would see: `make demo`.

The notebook runs in an empty folder, so that it starts afresh every time. Exits with 1, and the cell's error, where
a cell fails, where the loss did not fall, or where no answer changed.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")


def printed(cell: Any) -> str:
    """Return what a cell wrote to its standard output."""
    return "".join(output["text"] for output in cell.outputs if output.get("name") == "stdout")


def tagged(notebook: Any, tag: str) -> Any:
    return next(cell for cell in notebook.cells if tag in cell.metadata.get("tags", ()))


def check(answers: str) -> None:
    """Raise SystemExit unless the loss fell by half and every answer changed."""
    first, last = (float(number) for number in re.findall(r"(\d+\.\d+) at the", answers))
    before, after = (re.findall(rf"{word}: +(.+)", answers) for word in ("before", "after"))
    if last > first / 2:
        raise SystemExit(f"The loss fell only from {first} to {last}.")
    if not before or len(before) != len(after) or any(old == new for old, new in zip(before, after, strict=True)):
        raise SystemExit("An answer is the same before and after.")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--save", type=Path, help="write the notebook with its outputs here")
    chosen = options.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    started = time.perf_counter()
    os.environ.pop("COLAB_MAGICS_ROOT", None)  # its runs go to the empty folder, too
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns that the local socket is not encrypted
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise SystemExit(f"A cell of {NOTEBOOK.name} failed.\n{error.ename}: {error.evalue}") from None
        finally:
            if chosen.save:
                nbformat.write(notebook, chosen.save)
    answers = printed(tagged(notebook, "answers"))
    print(answers, end="")
    print(f"\n{NOTEBOOK.name} ran in {time.perf_counter() - started:.0f} s")
    check(answers)


if __name__ == "__main__":
    main()
