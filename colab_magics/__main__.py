"""`python -m colab_magics`: the same commands from a terminal, while a notebook's cell is busy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from colab_magics.errors import ColabMagicsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 after a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m colab_magics", description=__doc__)
    parser.add_argument("command", choices=("status", "attach", "detach", "stop", "list"))
    parser.add_argument("run", nargs="?", help="its name; without one the living run, else the newest")
    parser.add_argument("--root", help="where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)")
    parser.add_argument("--now", action="store_true", help="stop: at once, without waiting for the step's end")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except ColabMagicsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from colab_magics.magics import commands
    from colab_magics.magics.display import Terminal
    from colab_magics.run import runs_root

    root = runs_root(options.root)
    match options.command:
        case "status":
            Terminal().finish(commands.status(options.run, root))
        case "list":
            print(commands.listing(root))
        case "stop":
            print(commands.stop(options.run, root, now=options.now))
        case "detach":
            print(commands.detach(options.run, root))
        case "attach":
            try:
                commands.watch(options.run, root, Terminal())
            except KeyboardInterrupt:
                print("\nThe run trains on; python -m colab_magics stop ends it.")


if __name__ == "__main__":
    sys.exit(main())
