"""`%export`, the face that IPython sees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.magic import Magics, line_magic, magics_class

from colab_magics.magics.docstring import helped
from colab_magics.magics.line import split

if TYPE_CHECKING:
    from colab_magics.magics.export_line import Line

HELP = """\
%export [RUN] [options]      a run's result for others; without RUN the living one, else the newest
        or --run RUN         as %generate and %compare have it
                             an adapter becomes one archive, NAME-adapter.zip, beside the notebook

  --to PATH                  a folder, or an archive if PATH ends in .zip
  --to hub://OWNER/NAME      a repository on the Hub: private, unless there is --public
  --zip                      one archive, whatever it is
  --checkpoint STEP          of that checkpoint, not of the result

  --merge                    add the adapter to its base's 16-bit weights: a whole model, NAME-merged
      --dtype KIND           fp16, bf16 or fp32; else the base's own
      --base MODEL           that base: a folder or a Hub id; else the one it was trained on
      --base-revision COMMIT     that commit of it; else the one it was trained on
  --gguf [KIND]              a GGUF file, q8_0 (or f16), by llama.cpp's converter, after a merge

  --force                    in the place of another export that lies there; without it none is replaced, and the
                             very same one is "already there". What is no export is never replaced
  --root DIR                 where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)

Also from a terminal: python -m colab_magics export
"""


@magics_class
class ExportMagics(Magics):  # type: ignore[misc]
    """Deliver a run's result."""

    @line_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    def export(self, line: str) -> None:
        """A run's result for others."""
        from colab_magics.magics.export_line import read

        asked = read(split(line))
        if asked.help:
            print(HELP, end="")
            return
        from colab_magics.errors import Interrupted
        from colab_magics.magics.vram import runs_of, show

        in_kernel = getattr(self.shell, "kernel", None) is not None
        try:
            show(perform(asked, runs_of(self.shell), in_kernel=in_kernel))
        except KeyboardInterrupt:
            raise Interrupted("%export was stopped before its end.", "Nothing half-written was left.") from None


def perform(asked: Line, root: Path, *, in_kernel: bool = False) -> dict[str, str]:
    """Export what the line asks for; what there is to show, as a display bundle."""
    from colab_magics.magics import commands
    from colab_magics.magics.download import offer
    from colab_magics.magics.export_make import export
    from colab_magics.magics.session_plan import root_of

    place = commands.find(asked.run, root_of(asked.root, root), "%export")
    line = _Line(in_kernel=in_kernel)
    try:
        made = export(place.run, asked, show=line.show)
    except BaseException:
        line.clear()
        raise
    if made.path is None:
        return {"text/plain": "\n".join(made.lines)}
    return offer(made.path, made.lines, in_kernel=in_kernel)


class _Line:
    """A line that takes the place of the one before; in a log, where none can, it is not shown."""

    def __init__(self, *, in_kernel: bool) -> None:
        from colab_magics.magics.display import Output

        self._output = Output() if in_kernel else None
        self._moves = in_kernel or sys.stdout.isatty()
        self._shown = False

    def show(self, said: str) -> None:
        if not self._moves:
            return
        self._shown = True
        if self._output is not None:
            self._output.show({"text/plain": said})
        else:
            print(f"\r\x1b[K{said}", end="\n" if "100%" in said else "", flush=True)

    def clear(self) -> None:
        """What was under way is not any more."""
        if self._shown:
            self.show("")
