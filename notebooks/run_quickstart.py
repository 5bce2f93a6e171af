"""Run quickstart.ipynb in a real kernel and print what its reader would see: `make demo`.

Exits with 1, and the cell's error, where a cell fails, where the loss did not fall, or where no answer changed.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path

from nbclient.exceptions import CellExecutionError
from rehearse import rehearse, tagged


def check(finetune: str, answers: str) -> None:
    """Raise SystemExit unless the loss fell by half and every answer changed."""
    last, first = (
        float(number) for number in re.findall(r"^loss +([\d.]+), from ([\d.]+)", finetune, re.MULTILINE)[-1]
    )
    before, after = (re.findall(rf"^   {side} pirate +(.+)", answers, re.MULTILINE) for side in ("the base of", "run"))
    if last > first / 2:
        raise SystemExit(f"The loss fell only from {first} to {last}.")
    if not before or len(before) != len(after) or any(old == new for old, new in zip(before, after, strict=True)):
        raise SystemExit("An answer is the same before and after.")


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="quickstart-") as folder:
        try:
            shown = tagged(rehearse("quickstart", Path(folder)))
        except CellExecutionError as error:
            sys.exit(f"A cell of quickstart.ipynb failed.\n{error.ename}: {error.evalue}")
    print(shown["answers"].strip())
    print(f"quickstart.ipynb ran in {time.perf_counter() - started:.0f} s")
    check(shown["finetune"], shown["answers"])


if __name__ == "__main__":
    main()
