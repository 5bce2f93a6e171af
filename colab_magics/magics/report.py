"""`%report`, the face that IPython sees."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.magic import Magics, line_magic, magics_class

from colab_magics.magics.docstring import helped
from colab_magics.magics.line import split

if TYPE_CHECKING:
    from colab_magics.magics.report_line import Line

HELP = """\
%report [RUN] [options]      what came of a run, as NAME-report.html and NAME-report.md, from its folder alone;
                             without RUN of the living one, else of the newest

  It has the evaluation, answers before and after, curves, data, time by stage, speed, memory, checkpoints and
  interruptions, cost, the recipe with its reasons, the environment, and what to do next. A part that was not measured
  says so.

  --run RUN                  the run, as other magics take it
  --to PATH                  that file alone; it ends in .html or .md
  --root DIR                 where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)

Also from a terminal: python -m colab_magics report
"""


@magics_class
class ReportMagics(Magics):  # type: ignore[misc]
    """Write down what came of a run."""

    @line_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    def report(self, line: str) -> None:
        """What came of a run, in one file."""
        from colab_magics.magics.report_line import read

        asked = read(split(line))
        if asked.help:
            print(HELP, end="")
            return
        from colab_magics.magics.vram import runs_of, show

        show(perform(asked, runs_of(self.shell), in_kernel=getattr(self.shell, "kernel", None) is not None))


def perform(asked: Line, root: Path, *, in_kernel: bool = False) -> dict[str, str]:
    """Write what the line asks for; what there is to show, as a display bundle.

    Raises
    ------
    ColabMagicsError
        There is no such run, or the file cannot be written.
    """
    import time

    from colab_magics.magics import commands
    from colab_magics.magics.download import offer
    from colab_magics.magics.export_make import home
    from colab_magics.magics.report_facts import gather
    from colab_magics.magics.report_html import html
    from colab_magics.magics.report_markdown import markdown
    from colab_magics.magics.report_sections import report_of
    from colab_magics.magics.session_plan import root_of, steps_kept
    from colab_magics.session.settings import user_file
    from colab_magics.session.table import load_table

    where = root_of(asked.root, root)
    _check_no_trials(asked.run, where)
    run = commands.find(asked.run, where, "%report").run
    kept = steps_kept(run, run.events())
    made = report_of(gather(run, load_table(user_file()), now=time.time(), kept=kept))
    if asked.to is not None:
        paths = [Path(asked.to).expanduser().absolute()]
    else:
        paths = [home() / f"{run.name}-report{ending}" for ending in (".html", ".md")]
    for path in paths:
        _check(path)
    for path in paths:
        _write(path, html(made) if path.suffix == ".html" else markdown(made))
    return offer(paths[0], [f"The report of {run.name}: {path}" for path in paths], in_kernel=in_kernel)


def _check_no_trials(name: str | None, root: Path) -> None:
    """Trials are runs of their own, and their common name is no run's until the best was trained in full."""
    from colab_magics.errors import ColabMagicsError
    from colab_magics.run import list_runs

    names = [run.name for run in list_runs(root)] if name is not None else []
    trials = [one for one in names if re.fullmatch(rf"{re.escape(str(name))}-trial-\d+", one)]
    if trials and name not in names:
        raise ColabMagicsError(
            f"{name} has {len(trials)} trials, and no run of its own yet.",
            "A report is of one run.",
            f"%finetune best {name} trains the best of them in full.",
            f"%report {trials[0]} tells of one.",
        )


def _check(path: Path) -> None:
    """Refuse to overwrite what is no report of ours: of those, the newest is the one that counts."""
    from colab_magics.errors import ColabMagicsError
    from colab_magics.magics.report_html import MARK

    if not path.parent.is_dir():
        raise ColabMagicsError(
            f"There is no folder {path.parent}.", "A report makes none.", "Make it first, or name another path."
        )
    if not os.path.lexists(path):
        return
    try:
        ours = path.is_file() and not path.is_symlink() and MARK in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        ours = False
    if not ours:
        raise ColabMagicsError(
            f"{path} is there already.", "It is no report of ours, and is not overwritten.", "Name another path."
        )


def _write(path: Path, text: str) -> None:
    """The file, whole or not at all."""
    from colab_magics.errors import ColabMagicsError

    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise ColabMagicsError(
            f"{path} cannot be written.", error.strerror or str(error), "Name another path: --to PATH."
        ) from None
