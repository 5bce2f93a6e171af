"""`%vram`, the face that IPython sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light
from colab_magics.magics.line import split

if TYPE_CHECKING:
    from colab_magics.magics.vram_line import Line

HELP = """\
%vram                        what fills the GPU, by name; x = %vram gives the figures, in bytes
                             (where there is no GPU: the machine's memory)
  --watch                    one line of memory after each cell, until %vram --watch off
  why [RUN]                  after an out-of-memory error: what did not fit, and what to change
  free [NAME ...] [--all]    give memory back: what a failed cell left, and the variables that you name;
                             Out[5] is one output, Out all of them, --all whatever holds tensors
  estimate [RUN] [options]   what a recipe will take, before anything is downloaded
                             (also %%vram estimate, with a recipe below it)

Also from a terminal: python -m colab_magics vram, vram why, vram estimate
"""
IN_A_TERMINAL = """\
python -m colab_magics vram                        what fills the GPU, and which runs train on it
python -m colab_magics vram why [RUN]              after an out-of-memory error: what did not fit, and what to change
python -m colab_magics vram estimate [RUN] [...]   what a recipe will take, before anything is downloaded

%vram --watch and %vram free are about a notebook's kernel, and belong in its cells.
"""


@magics_class
class VramMagics(Magics):  # type: ignore[misc]
    """What fills the GPU, why it ran out, and how to get it back."""

    # no_var_expand: a {name} in a recipe is the recipe's to look up
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def vram(self, line: str, cell: str | None = None) -> Any:
        """What fills the GPU, why it ran out, and how to get it back."""
        from colab_magics.magics.vram_line import BODY, read

        asked = read(split(line))
        if asked.help:
            print(usage(asked))
            return None
        if cell is not None and asked.command not in BODY:
            raise _no_body(asked)
        from colab_magics.errors import Interrupted

        try:
            return self._do(asked, cell)
        except KeyboardInterrupt:
            what = f"%vram {asked.command}" if asked.command else "%vram"
            raise Interrupted(f"{what} was stopped before its end.") from None

    def _do(self, asked: Line, body: str | None) -> Any:
        from colab_magics.magics.once import show_once

        if asked.watch is not None:
            from colab_magics.magics.vram_watch import switch

            print(switch(self.shell, on=asked.watch == "on"))
            return None
        root = runs_of(self.shell)
        match asked.command:
            case "free":
                from colab_magics.magics.vram_free import free

                show(free(asked, self.shell).bundle())
                return None
            case "why":
                from colab_magics.magics.vram_why import why

                show(why(asked.words, self.shell, root))
                return None
            case "estimate":
                from colab_magics.magics.vram_estimate import estimate

                made = estimate(asked.words, root, body=body, namespace=self.shell.user_ns)
                return show_once(self.shell, made)
            case _:
                from colab_magics.magics.vram_show import report

                return show_once(self.shell, report(root, self.shell))


def told(asked: Line, root: Any) -> str:
    """What a terminal prints: there is no notebook whose variables could be looked at, or freed.

    Raises
    ------
    ColabMagicsError
        The line asks for what needs a notebook.
    """
    match asked.command:
        case "why":
            from colab_magics.magics.vram_why import why

            return str(why(asked.words, None, root)["text/plain"])
        case "estimate":
            from colab_magics.magics.vram_estimate import estimate

            return str(estimate(asked.words, root)._repr_mimebundle_()["text/plain"])
        case None if asked.watch is None:
            from colab_magics.magics.vram_show import page_of, report

            return page_of(report(root)).text()
    from colab_magics.errors import ColabMagicsError

    raise ColabMagicsError(
        f"{asked.command or '--watch'} belongs in a notebook.",
        "It is about what that notebook's kernel holds.",
        f"Run %vram {asked.command or '--watch'} in a cell.",
    )


def show(bundle: dict[str, str]) -> None:
    """Show a display bundle; one of text alone is printed, and in a terminal without IPython the text of any."""
    from IPython.core.interactiveshell import InteractiveShell

    if "text/html" in bundle and InteractiveShell.initialized():
        from IPython.display import display

        display(bundle, raw=True)
    else:
        print(bundle["text/plain"])


def runs_of(shell: Any) -> Any:
    """Where this notebook's runs are kept."""
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.finetune import configured_root
    from colab_magics.run import runs_root

    return rooms(runs_root(configured_root(shell))).root


def usage(asked: Line) -> str:
    """How a subcommand is written; without one, all of them."""
    from colab_magics.magics.vram_line import COMMANDS

    return COMMANDS[asked.command] if asked.command is not None else HELP.rstrip()


def _no_body(asked: Line) -> Exception:
    from colab_magics.errors import ColabMagicsError

    return ColabMagicsError(
        f"%vram {asked.command} takes no cell body." if asked.command else "%%vram alone takes no cell body.",
        "Only estimate reads one: a recipe.",
        f"Write %vram {asked.command or ''}".rstrip() + " on a line of its own, or %%vram estimate.",
    )
