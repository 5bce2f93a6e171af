"""The worker: one attempt at a run, in a process of its own.

`python -m colab_magics.training FOLDER --attempt N [--name NAME] [--resume PATH] [--replica WHERE] …`

It tells what it does by events alone, and every way out of it is one: `finished`, or `failed` with the reason.
Whatever kills it in between leaves a log without an end, which is how a reader knows.
"""

from __future__ import annotations

import argparse
import gc
import os
import secrets
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from colab_magics import worker
from colab_magics.errors import ColabMagicsError, Interrupted, redact
from colab_magics.events import EventLog
from colab_magics.run import Run
from colab_magics.session.deadline import session_told
from colab_magics.training.orders import Orders
from colab_magics.training.torchao import hide_old_torchao
from colab_magics.training.versions import versions

EXIT_FINISHED, EXIT_FAILED, EXIT_BUSY = 0, 1, 3


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m colab_magics.training", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attempt", type=int, default=1)
    parser.add_argument("--name", help="the name that a run's temporary folder takes when the preflight has passed")
    parser.add_argument("--until", choices=("data", "plan"), help="stop there; nothing is trained")
    parser.add_argument("--resume", type=Path, help="a checkpoints folder, or one checkpoint's, to go on from")
    parser.add_argument("--deadline", type=float, help="seconds until the session ends")
    parser.add_argument("--replica", help="where checkpoints are copied to: a folder or an fsspec URL")
    parser.add_argument("--clock", help="the time under which templates that print a date are rendered, in ISO 8601")
    parser.add_argument("--kernel-holds", type=int, default=0, help="bytes of the GPU that the notebook itself holds")
    options = parser.parse_args(arguments)

    folder: Path = options.folder.absolute()
    if worker.hold_lock(folder) is None:
        print(f"another worker holds {folder}", file=sys.stderr)
        return EXIT_BUSY
    log = EventLog(folder / "events.jsonl", options.attempt)
    orders = Orders(folder)
    log.append(
        "started",
        run=Run(folder).id or secrets.token_hex(8),
        name=options.name or folder.name,
        pid=os.getpid(),
        host=socket.gethostname(),
        versions=versions(),
        until=options.until,
        clock=options.clock,
        **session_told(),
    )
    orders.phase = "importing the libraries"
    log.append("progress", phase="importing", done=0, total=None, unit="libraries")
    try:
        hide_old_torchao()  # first of all: transformers 5.15 imports what it finds
        # An import makes a million objects and no garbage: looking for it took a sixth of the time. What is frozen is
        # never looked at again.
        gc.disable()
        from colab_magics.training.attempt import work
        from colab_magics.training.preflight import Wish

        gc.freeze()
        gc.enable()
        wish = Wish(
            name=options.name,
            until=options.until,
            resume=options.resume.absolute() if options.resume is not None else None,
            deadline=options.deadline,
            replica=options.replica,
            kernel_holds=options.kernel_holds,
        )
        work(folder, wish, log, orders)
    except ColabMagicsError as error:
        _fail(log, error, orders)
    except BaseException as error:  # whatever it is, the reader of the log must learn of it
        _fail(log, _unexpected(error, orders.phase), orders)
    else:
        return EXIT_FINISHED
    return EXIT_FAILED


def _unexpected(error: BaseException, phase: str) -> ColabMagicsError:
    oom = _out_of_memory(error, phase)
    facts = None if oom is None else {"oom": oom}
    if oom is not None and _is_capped():
        from colab_magics.memory.messages import in_words

        return ColabMagicsError(
            f"Out of memory while {phase}: max_memory is too small for this run.",
            in_words(str(error).partition("\n")[0]),
            "Set a larger max_memory, or leave it out.",
            "Or use method: qlora, or a smaller model.",
            facts=facts,
        )
    if isinstance(error, MemoryError):
        return ColabMagicsError(
            f"The worker failed while {phase}.",
            "The machine's memory ran out.",
            "End other notebooks and programs on it, or use a smaller model or fewer rows (max_train_samples).",
            facts=facts,
        )
    if oom is not None:
        return ColabMagicsError(
            f"Out of memory while {phase}.",
            str(error).partition("\n")[0],
            "Free the GPU: a kernel holds its memory until it is restarted (nvidia-smi shows who has it).",
            "Or use method: qlora, a smaller model, or a smaller max_length.",
            facts=facts,
        )
    return ColabMagicsError(
        f"The worker failed while {phase}.",
        f"{type(error).__name__}: {error}",
        "Run the cell again with --traceback to see where; please report it if it is not your data or settings.",
    )


def _out_of_memory(error: BaseException, phase: str) -> dict[str, Any] | None:
    """What the log tells of an out-of-memory that nothing could recover from; None where it was none."""
    if "torch" not in sys.modules:  # it may be what is missing; and memory ran out in torch or not at all
        return None
    from colab_magics.training.oom import is_out_of_memory, seen
    from colab_magics.training.oom_told import told

    return told(seen(error, phase)) if is_out_of_memory(error) else None


def _is_capped() -> bool:
    from colab_magics.training.cap import capped

    return capped()


def _fail(log: EventLog, error: ColabMagicsError, orders: Orders) -> None:
    text = redact(traceback.format_exc())
    if not isinstance(error, Interrupted):
        print(text, file=sys.stderr)
    left = orders.session_left()
    log.append("failed", error=error.to_dict(), phase=orders.phase, traceback=text, session_left=left, **error.facts)


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # what a dashboard's library still wants at the interpreter's end must not keep a worker that is done alive
    os._exit(ended)
