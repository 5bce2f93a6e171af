"""`%export`, the face that IPython sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    made = export(place.run, asked, show=_progress(in_kernel=in_kernel))
    if made.path is None:
        return {"text/plain": "\n".join(made.lines)}
    return offer(made.path, made.lines, in_kernel=in_kernel)


def _progress(*, in_kernel: bool) -> Any:
    """Shows a line that takes the place of the one before."""
    if in_kernel:
        from colab_magics.magics.display import Output

        output = Output()
        return lambda said: output.show({"text/plain": said})
    import sys

    if not sys.stdout.isatty():
        return lambda said: None  # noqa: ARG005 - a log is no place for a line that moves
    return lambda said: print(f"\r\x1b[K{said}", end="\n" if "100%" in said else "", flush=True)
