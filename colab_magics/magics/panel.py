"""`%panel`: a run's panel anywhere, without waiting for the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class

from colab_magics.magics.docstring import helped

HELP = """\
%panel [RUN] [options]      show a run, without waiting for it; without RUN the living one, else the newest

  A run that trains is shown by a panel that moves while no cell runs, with Stop and Save.
  One that has ended is shown as it was at its end.

  --panel KIND    auto, html (no buttons), widget, text or off
  --root DIR      where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)
"""
OPTIONS = {"panel": "KIND", "root": "DIR"}


@dataclass(frozen=True)
class Asked:
    """One line of `%panel`, read."""

    run: str | None = None
    panel: str | None = None
    root: str | None = None
    help: bool = False


@magics_class
class PanelMagics(Magics):  # type: ignore[misc]
    """Show a run's panel anywhere."""

    @line_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    def panel(self, line: str) -> None:
        """Show a run's panel without waiting for it."""
        asked = read_line(line)
        if asked.help:
            print(HELP, end="")
            return
        from colab_magics.magics import durable
        from colab_magics.magics.checkpoint import configured_panel
        from colab_magics.magics.display import screen_for
        from colab_magics.magics.finetune import configured_root
        from colab_magics.run import runs_root

        root = durable.rooms(runs_root(asked.root or configured_root(self.shell))).root
        in_kernel = getattr(self.shell, "kernel", None) is not None
        kind = asked.panel or configured_panel(self.shell)
        show(asked.run, root, screen_for(kind, in_kernel=in_kernel, free=True))


def show(name: str | None, root: Path, screen: Any) -> None:
    """Show the run on the screen: moving if it is alive and the screen can move, else as it is now.

    Raises
    ------
    ColabMagicsError
        There is no such run, or several are alive and none is named.
    """
    import time

    from colab_magics import worker
    from colab_magics.magics import background, commands
    from colab_magics.magics.display import Panel
    from colab_magics.magics.follow import Follower
    from colab_magics.magics.moments import now_at
    from colab_magics.panel.state import PanelState

    place = commands.find(name, root, "%panel")
    if worker.is_alive(place.folder):
        attempt = int((worker.read_info(place.folder) or {}).get("attempt", 1))
        state = PanelState(name=place.run.name)
        follower = Follower(place.run.folder, attempt, starting=place.starting, state=state)
        follower.read()
        follower.state = follower.state.put_aside(time.time())
        panel = Panel(screen)
        panel.update(follower.state)
        if not background.go_on(follower, panel, asked=True):
            follower.close()
            screen.finish(follower.state, replace(now_at(follower.state), now=None, idle=None))
    else:
        screen.finish(commands.status(place.run.name, root))


def read_line(line: str) -> Asked:
    """What the line asks for.

    Raises
    ------
    ColabMagicsError
        An unclosed quote, an unknown option (names the nearest), a missing value, a second name.
    """
    from colab_magics.errors import ColabMagicsError, nearest
    from colab_magics.magics.line import split
    from colab_magics.magics.options import check_panel

    words = split(line)
    asked = Asked()
    while words:
        word = words.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        if word in ("-h", "-?", "--help"):
            asked = replace(asked, help=True)
        elif word.startswith("--") and option in OPTIONS:
            if not equals and (not words or words[0].startswith("-")):
                raise ColabMagicsError(
                    f"--{option} needs a value.",
                    "The line ends, or another option follows it.",
                    f"Write --{option} {OPTIONS[option]}.",
                )
            given: dict[str, Any] = {option: value if equals else words.pop(0)}
            asked = replace(asked, **given)
        elif word.startswith("-"):
            close = nearest(word.lstrip("-").partition("=")[0], (*OPTIONS, "help"))
            raise ColabMagicsError(
                f"There is no option {word.partition('=')[0]}.",
                "%panel takes --panel, --root and --help.",
                f"Did you mean --{close}?" if close else "%panel --help shows what they do.",
            )
        elif asked.run is not None:
            raise ColabMagicsError(
                "%panel takes one run.", f"{asked.run} and {word} are two.", "Name one of them, or one a cell."
            )
        else:
            asked = replace(asked, run=word)
    if asked.panel is not None:
        check_panel(asked.panel)
    return asked
