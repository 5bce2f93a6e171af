"""`python -m colab_magics`: the same commands from a terminal, while a notebook's cell is busy."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from colab_magics.errors import ColabMagicsError

if TYPE_CHECKING:
    from colab_magics.magics.checkpoint_line import Line
    from colab_magics.magics.compare_line import Asked as Compare
    from colab_magics.magics.export_line import Line as ExportLine
    from colab_magics.magics.generate_line import Asked as Generate
    from colab_magics.magics.report_line import Line as ReportLine
    from colab_magics.magics.session_line import Line as SessionLine
    from colab_magics.magics.vram_line import Line as VramLine

    Asked: TypeAlias = argparse.Namespace | Line | SessionLine | VramLine | Generate | Compare | ExportLine | ReportLine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 after a message on stderr."""
    try:
        _run(_read(sys.argv[1:] if arguments is None else list(arguments)))
    except ColabMagicsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _read(arguments: list[str]) -> Asked:
    if arguments[:1] == ["checkpoint"]:
        from colab_magics.magics.checkpoint_line import read_words

        return read_words(arguments[1:])
    if arguments[:1] == ["session"]:
        from colab_magics.magics.session_line import read

        return read(arguments[1:])
    if arguments[:1] == ["vram"]:
        from colab_magics.magics.vram_line import read as read_vram

        return read_vram(arguments[1:])
    if arguments[:1] == ["generate"]:
        from colab_magics.magics.generate_line import read as read_generate

        return read_generate(arguments[1:])
    if arguments[:1] == ["compare"]:
        from colab_magics.magics.compare_line import read as read_compare

        return read_compare(arguments[1:])
    if arguments[:1] == ["export"]:
        from colab_magics.magics.export_line import read as read_export

        return read_export(arguments[1:])
    if arguments[:1] == ["report"]:
        from colab_magics.magics.report_line import read as read_report

        return read_report(arguments[1:])
    from colab_magics.magics.checkpoint_line import COMMANDS as CHECKPOINT
    from colab_magics.magics.session_line import COMMANDS as SESSION

    parser = argparse.ArgumentParser(
        prog="python -m colab_magics",
        description=__doc__,
        epilog=f"checkpoint {', '.join(CHECKPOINT)}: see checkpoint --help; "
        f"session shows this session, session {', '.join(SESSION)}: see session --help; "
        "vram shows what fills the memory, vram why, estimate: see vram --help; "
        "generate asks a run's model, compare sets it beside its base, "
        "export delivers a run's result, report writes down what came of it: see their --help",
    )
    commands = (
        "status",
        "attach",
        "detach",
        "save",
        "stop",
        "list",
        "checkpoint",
        "session",
        "vram",
        "generate",
        "compare",
        "export",
        "report",
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("run", nargs="?", help="its name; without one the living run, else the newest")
    parser.add_argument("--root", help="where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)")
    parser.add_argument("--now", action="store_true", help="stop: at once, without waiting for the step's end")
    return parser.parse_intermixed_args(arguments)  # the name may stand behind an option


def _run(asked: Asked) -> None:
    from colab_magics.magics.compare_line import Asked as Compare
    from colab_magics.magics.export_line import Line as ExportLine
    from colab_magics.magics.generate_line import Asked as Generate
    from colab_magics.magics.report_line import Line as ReportLine
    from colab_magics.magics.session_line import Line as SessionLine
    from colab_magics.magics.vram_line import Line as VramLine

    if isinstance(asked, argparse.Namespace):
        _run_command(asked)
    elif isinstance(asked, SessionLine):
        _run_session(asked)
    elif isinstance(asked, VramLine):
        _run_vram(asked)
    elif isinstance(asked, Generate | Compare):
        _run_model(asked)
    elif isinstance(asked, ExportLine):
        _run_export(asked)
    elif isinstance(asked, ReportLine):
        _run_report(asked)
    else:
        _run_checkpoint(asked)


def _run_command(options: argparse.Namespace) -> None:
    from colab_magics.magics import commands
    from colab_magics.magics.checkpoint_commands import save
    from colab_magics.magics.checkpoint_line import Line
    from colab_magics.magics.display import Terminal
    from colab_magics.magics.durable import rooms
    from colab_magics.run import runs_root

    root = rooms(runs_root(options.root)).root
    match options.command:
        case "status":
            Terminal().finish(commands.status(options.run, root))
        case "list":
            print(commands.listing(root))
        case "save":
            print(save(Line("save", run=options.run), root))
        case "stop":
            print(commands.stop(options.run, root, now=options.now))
        case "detach":
            print(commands.detach(options.run, root))
        case "attach":
            try:
                commands.watch(options.run, root, Terminal())
            except KeyboardInterrupt:
                print("\nThe run trains on; python -m colab_magics stop ends it.")


def _run_checkpoint(asked: Line) -> None:
    from colab_magics.magics import checkpoint_commands as commands
    from colab_magics.magics.checkpoint import HELP
    from colab_magics.magics.checkpoint_line import usage
    from colab_magics.magics.display import screen_for
    from colab_magics.magics.durable import rooms
    from colab_magics.run import runs_root

    if asked.help:
        told = usage(asked.command) if asked.command is not None else HELP.rstrip()
        print(told.replace("%checkpoint", "python -m colab_magics checkpoint"))
        return
    root = rooms(runs_root(asked.root)).root
    if asked.command in commands.STARTS:
        screen = screen_for("off" if asked.quiet else asked.panel or "auto", in_kernel=False)
        commands.start(asked, commands.cell_of(asked, namespace={}, root=root, screen=screen))
        return
    try:
        print(commands.perform(asked, root)["text/plain"])
    except KeyboardInterrupt:
        print(f"\nStopped before {asked.command} had ended.")


def _run_session(asked: SessionLine) -> None:
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.session import perform, usage
    from colab_magics.run import runs_root

    if asked.help:
        print(re.sub("(?<!%)%session", "python -m colab_magics session", usage(asked)))
    elif asked.command == "setup":
        raise ColabMagicsError(
            "setup belongs in a notebook.",
            "It mounts Drive, and tells that notebook's cells where their runs are copied.",
            "Run %session setup in a cell.",
        )
    else:
        print(perform(asked, rooms(runs_root(None)).root)["text/plain"])


def _run_vram(asked: VramLine) -> None:
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.vram import IN_A_TERMINAL, told
    from colab_magics.run import runs_root

    print(IN_A_TERMINAL.rstrip() if asked.help else told(asked, rooms(runs_root(None)).root))


def _run_model(asked: Generate | Compare) -> None:
    from colab_magics.magics import compare, generate
    from colab_magics.magics.generate_line import Asked as Generate

    if asked.help:
        told = generate.HELP if isinstance(asked, Generate) else compare.HELP
        print(re.sub(r"%(?=generate|compare)", "python -m colab_magics ", told.rstrip()))
        return
    if asked.out is not None:
        raise ColabMagicsError("--out belongs in a notebook.", "It binds one of its variables.", "Leave it out.")
    try:
        if isinstance(asked, Generate):
            generate.run(asked, None, None)
        else:
            compare.run(asked, None, None)
    except KeyboardInterrupt:
        print("\nStopped.")


def _run_export(asked: ExportLine) -> None:
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.export import HELP, perform
    from colab_magics.run import runs_root

    if asked.help:
        print(HELP.rstrip().replace("%export", "python -m colab_magics export"))
        return
    try:
        print(perform(asked, rooms(runs_root(None)).root)["text/plain"])
    except KeyboardInterrupt:
        print("\nStopped before the export had ended; nothing half-written was left.")


def _run_report(asked: ReportLine) -> None:
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.report import HELP, perform
    from colab_magics.run import runs_root

    if asked.help:
        print(HELP.rstrip().replace("%report", "python -m colab_magics report"))
        return
    print(perform(asked, rooms(runs_root(None)).root)["text/plain"])


if __name__ == "__main__":
    sys.exit(main())
