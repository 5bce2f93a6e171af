"""`%checkpoint`, the face that IPython sees."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class
from traitlets import Unicode

from colab_magics.magics.checkpoint_line import Line, read_line, usage
from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light
from colab_magics.magics.options import check_panel

HELP = """\
%checkpoint COMMAND [RUN] [options]        without RUN: the living run, else the newest

  list [RUN]                 step, age, loss, size and copies of each, and what a resume would use
  save [RUN]                 have the living run save now
  resume [RUN] [options]     continue from the newest whole checkpoint
      --from STEP            from that one            --fork NAME     as a new run NAME
      --deadline 11h         this machine ends then   --out VAR       bind the run to this variable
      --background --quiet --panel KIND --traceback   as for %%finetune
  verify [RUN] [--full]      compare names, sizes and manifests; --full hashes every byte
  prune [RUN] [--keep N] [--dry-run]     delete all but the newest N (else save_total_limit),
                             the best, the pinned and the newest in the durable store
  pin STEP [RUN]             keep it whatever happens; unpin STEP [RUN] undoes that
  show [RUN] [STEP]          what it holds, and how to load it
  export PATH [RUN] [--step STEP] [--force]     weights, tokenizer and README for others:
                             a folder, or an archive if PATH ends in .zip
  fetch [RUN] [--from WHERE]     bring a run here from its replica, a folder or a URL
  import PATH NAME [--trust-pickle]     a run NAME from a checkpoint-N of HF Trainer, TRL, Unsloth

  --root DIR                 where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)
  %config CheckpointMagics.replica = 'WHERE'     where runs are copied to and fetched from

Also from another notebook or a terminal, while a cell trains: python -m colab_magics checkpoint
"""


@magics_class
class CheckpointMagics(Magics):  # type: ignore[misc]
    """Look at a run's checkpoints, keep them, continue from them."""

    replica = Unicode("", help="Where runs are copied to; a folder or an fsspec URL.").tag(config=True)

    @line_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def checkpoint(self, line: str) -> Any:
        """A run's checkpoints: list, save, resume, verify, deliver."""
        asked = read_line(line)
        if asked.help:
            print(usage(asked.command) if asked.command is not None else HELP.rstrip())
            return None
        from colab_magics.errors import Interrupted

        try:
            return self._do(asked)
        except KeyboardInterrupt:
            raise Interrupted(f"%checkpoint {asked.command} was stopped before its end.") from None

    def _do(self, asked: Line) -> Any:
        from colab_magics.magics import checkpoint_commands as commands
        from colab_magics.magics.durable import rooms
        from colab_magics.magics.finetune import configured_root
        from colab_magics.run import runs_root

        place = rooms(runs_root(asked.root or configured_root(self.shell)))
        root, replica = place.root, place.copies or self.replica
        if asked.command in commands.STARTS:
            cell = commands.cell_of(
                asked, namespace=self.shell.user_ns, root=root, screen=self._screen(asked), replica=replica
            )
            run = commands.start(asked, cell)
            return None if asked.quiet else run
        shown = commands.perform(asked, root, replica=replica)
        if "text/html" in shown:
            from IPython.display import display

            display(shown, raw=True)
        else:
            print(shown["text/plain"])
        return None

    def _screen(self, asked: Line) -> Any:
        from colab_magics.magics.display import screen_for

        kind = "off" if asked.quiet else asked.panel or configured_panel(self.shell)
        in_kernel = getattr(self.shell, "kernel", None) is not None
        return screen_for(kind, in_kernel=in_kernel, free=asked.background)


def configured_panel(shell: Any) -> str:
    """What `%config FinetuneMagics.panel` says: one choice for all panels.

    Raises
    ------
    ColabMagicsError
        It is no kind of panel; the nearest is named.
    """
    magics = shell.magics_manager.registry.get("FinetuneMagics")
    return check_panel(str(magics.panel), "%config FinetuneMagics.panel =") if magics is not None else "auto"


def configured_replica(shell: Any) -> str:
    """What `%config CheckpointMagics.replica` says."""
    magics = shell.magics_manager.registry.get("CheckpointMagics")
    return str(magics.replica) if magics is not None else ""
