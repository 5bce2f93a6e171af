"""`python -m colab_magics.checkpoints.replica FOLDER --to WHERE --limit N`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from colab_magics.checkpoints.replica.process import BOUND, replicate


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="colab_magics.checkpoints.replica")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", required=True, metavar="WHERE", help="a folder, or a URL of fsspec's")
    parser.add_argument("--limit", type=int, default=3, help="how many checkpoints are kept there")
    parser.add_argument(
        "--bound", type=float, default=BOUND, help="seconds after the worker's end after which it gives up"
    )
    parser.add_argument("--patience", type=float, help="seconds after which a store is said not to answer")
    options = parser.parse_args(arguments)
    return replicate(
        options.folder.absolute(), options.to, options.limit, bound=options.bound, patience=options.patience
    )


if __name__ == "__main__":
    sys.exit(main())
