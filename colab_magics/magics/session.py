"""`%session`, the face that IPython sees."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light
from colab_magics.magics.line import split
from colab_magics.magics.session_line import BODY, COMMANDS, Line, read

HELP = """\
%session                     this session: platform, time left, idle limit, memory, disk, what stays, red flags
  set KEY VALUE              your own word: set left 90 min (from now), set limit 10h (in all), set start 2h,
                             set platform kaggle, set idle 60 min, set drive_limit 12 GB, set kaggle.limit 9h
  unset KEY                  the table's word again
  setup [--out VAR]          mount Drive where there is one, make checkpoints, logs, outputs, datasets;
                             copies of runs go there; VAR gets the paths
  plan [RUN] [options]       this job on each platform: does it fit, hours, sessions, money
                             (also %%session plan, with a recipe below it)
  cost [RUN]                 what a run has used so far, against the estimate
  table                      the platforms in short, where the whole table is, and how to override it

Also from a terminal: python -m colab_magics session
"""


@magics_class
class SessionMagics(Magics):  # type: ignore[misc]
    """How long this machine lives, what it has, and what outlives it."""

    # no_var_expand: a {name} in a recipe is the recipe's to look up
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def session(self, line: str, cell: str | None = None) -> None:
        """This session: how long it lives, what it has, what a job costs."""
        asked = read(split(line))
        if asked.help:
            print(usage(asked))
            return
        if cell is not None and asked.command not in BODY:
            raise _no_body(asked)
        from colab_magics.errors import Interrupted

        try:
            self._do(asked, cell)
        except KeyboardInterrupt:
            what = f"%session {asked.command}" if asked.command else "%session"
            raise Interrupted(f"{what} was stopped before its end.") from None

    def _do(self, asked: Line, body: str | None) -> None:
        from colab_magics.magics.checkpoint import configured_replica
        from colab_magics.magics.durable import rooms
        from colab_magics.magics.finetune import configured_root
        from colab_magics.run import runs_root

        place = rooms(runs_root(configured_root(self.shell)))
        if asked.command == "setup":
            from colab_magics.magics.session_setup import setup

            done = setup(place.root, place.copies or configured_replica(self.shell))
            if place.copies is None:
                configure_replica(self.shell, done.replica)
            if asked.out is not None:
                self.shell.user_ns[asked.out] = done.paths
            print(done.text)
            return
        shown = perform(asked, place.root, body=body, namespace=self.shell.user_ns)
        if "text/html" in shown:
            from IPython.display import display

            display(shown, raw=True)
        else:
            print(shown["text/plain"])


def perform(asked: Line, root: Any, *, body: str | None = None, namespace: Any = None) -> dict[str, str]:
    """What a subcommand shows, as a display bundle; `setup` alone needs a notebook and is not among them."""
    match asked.command:
        case None:
            from colab_magics.magics.session_now import known_now
            from colab_magics.magics.session_show import bundle

            return bundle(known_now(root))
        case "plan":
            from colab_magics.magics.session_plan import plan

            return plan(asked.words, root, body=body, namespace=namespace)
        case "cost":
            from colab_magics.magics.session_cost import cost

            return cost(asked.words, root)
        case "set":
            from colab_magics.magics.session_set import change

            return {"text/plain": change(*asked.words)}
        case "unset":
            from colab_magics.magics.session_set import undo

            return {"text/plain": undo(*asked.words)}
        case _:
            from colab_magics.magics.session_set import listing

            return {"text/plain": listing()}


def usage(asked: Line) -> str:
    """How a subcommand is written; without one, all of them."""
    return COMMANDS[asked.command] if asked.command is not None else HELP.rstrip()


def configure_replica(shell: Any, where: str) -> None:
    """Have runs be copied to `where`, as `%config CheckpointMagics.replica` would."""
    magics = shell.magics_manager.registry.get("CheckpointMagics")
    if magics is not None:
        magics.replica = where


def _no_body(asked: Line) -> Exception:
    from colab_magics.errors import ColabMagicsError

    return ColabMagicsError(
        f"%session {asked.command} takes no cell body." if asked.command else "%%session alone takes no cell body.",
        "Only plan reads one: a recipe.",
        f"Write %session {asked.command or ''}".rstrip() + " on a line of its own, or %%session plan.",
    )
