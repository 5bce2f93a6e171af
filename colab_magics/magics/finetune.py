"""`%finetune` and `%%finetune`, the face that IPython sees."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Unicode

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light
from colab_magics.magics.options import SUBCOMMANDS, TAKES, Options, read_line

HELP = """\
%%finetune [NAME] [options]      fine-tune a model; the cell's body is the recipe, in YAML
%finetune NAME --model M --data D [--any-recipe-key VALUE]    the same on one line

  model: meta-llama/Llama-3.2-1B-Instruct    a Hub id, a folder, or demo
  data: train.jsonl                          a file, a notebook variable, or a Hub id

Options
  --preset NAME       start from a preset; the body and the line override it
  --out VAR           bind the run to this variable
  --background        return as soon as the data and the plan have been checked
  --again             train a finished run once more, under a new name
  --override          go on with an unfinished run although the recipe changed
  --fork NAME         make a new run NAME that begins at its newest checkpoint
  --deadline TIME     this machine ends in TIME (11h, 90min): save and stop before
  --root DIR          where runs are kept (else COLAB_MAGICS_ROOT, else ./runs)
  --panel KIND        auto, widget, html, text or off
  --quiet             no panel, no remarks, no result shown
  --traceback         where in the worker an error came from
  --allow-pickle      load weights that are not safetensors

Trials: learning_rate: [1e-4, 2e-4, 5e-4] in the body tries each for a short while, one after another (docs/trials.md)
  %finetune best [NAME]           train the best of them in full
  --called FULL       ... and call that run FULL; else it is NAME
Preferences: method: dpo, kto or orpo learns from prompt, chosen and rejected (docs/preferences.md)

Without training
  %finetune recipe    the complete recipe, with the reason of everything that was chosen (also %%finetune recipe)
  %finetune data      what was found in the data, and one sample with the trained part marked (also %%finetune data)

Runs, also from another notebook or a terminal: python -m colab_magics ...
  %finetune list                  all of them
  %finetune status [RUN]          where it is
  %finetune attach [RUN]          show it until it ends
  %finetune detach [RUN]          end the cell that shows it; it trains on
  %finetune save [RUN]            take a checkpoint now
  %finetune stop [RUN] [--now]    finish the step, save, and end; %checkpoint resume goes on

%panel [RUN] shows a run without waiting for it.
%generate and %compare ask a run's result; %export and %report deliver it; %vram shows what fills the memory.
%checkpoint --help: list, save, resume, verify, export, fetch, …
"""


@magics_class
class FinetuneMagics(Magics):  # type: ignore[misc]
    """Fine-tune a language model from one cell."""

    # a trait of its own kind would be refused by %config in a logged line, while Run All goes on
    panel = Unicode("auto", help="How a run is shown, by %panel and %checkpoint resume too.").tag(config=True)
    root = Unicode("", help="Where runs are kept; else COLAB_MAGICS_ROOT, else ./runs.").tag(config=True)

    # no_var_expand: a {name} is the recipe's to look up, and a DataFrame is no text for a line
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def finetune(self, line: str, cell: str | None = None) -> Any:
        """Fine-tune a language model."""
        options = read_line(line, _recipe_keys)
        if options.help or (cell is None and options == Options()):
            print(HELP if options.command is None else usage(options.command), end="")
            return None
        from colab_magics.errors import Interrupted

        try:
            return self._run(options, cell)
        except KeyboardInterrupt:
            # before the worker is there, an interrupt is the kernel's own
            raise Interrupted("stopped before anything was trained; nothing was kept.") from None

    def _run(self, options: Options, body: str | None) -> Any:
        if options.command is not None and body is not None and not SUBCOMMANDS[options.command]:
            raise ColabMagicsError(
                f"{options.command} is a subcommand and takes no cell body.",
                "Only recipe and data read one.",
                f"Write %finetune {options.command} on a line, or give the run another name.",
            )
        match options.command:
            case None if body is None and not options.recipe and options.preset is None:
                raise _no_command(options)
            case None:
                from colab_magics.magics.cell import train

                run = train(self._cell(options, body))
                return None if options.quiet else run
            case "recipe" | "data":
                return self._report(options, body)
            case "attach":
                from colab_magics.magics.commands import attach

                run = attach(self._cell(options, body))
                return None if options.quiet else run
            case "best":
                from colab_magics.magics.trials_best import train_best

                run = train_best(self._cell(options, body))
                return None if options.quiet else run
            case command:
                return self._command(command, options)

    def _report(self, options: Options, body: str | None) -> None:
        from IPython.display import display

        from colab_magics.magics.reports import data_report, recipe_report

        if options.command == "recipe":
            print(recipe_report(self._cell(options, body)), end="")
        else:
            display(data_report(self._cell(options, body)), raw=True)

    def _command(self, command: str, options: Options) -> None:
        from colab_magics.magics import commands, durable
        from colab_magics.run import runs_root

        root = durable.rooms(runs_root(options.root or self.root)).root
        if command == "status":
            self._screen(options).finish(commands.status(options.name, root))
        elif command == "list":
            print(commands.listing(root))
        elif command == "save":
            from colab_magics.magics.checkpoint_commands import save
            from colab_magics.magics.checkpoint_line import Line

            print(save(Line("save", run=options.name), root))
        elif command == "stop":
            print(commands.stop(options.name, root, now=options.now))
        else:
            print(commands.detach(options.name, root))

    def _cell(self, options: Options, body: str | None) -> Any:
        from colab_magics.magics import durable
        from colab_magics.magics.cell import Cell
        from colab_magics.magics.checkpoint import configured_replica
        from colab_magics.run import runs_root

        rooms = durable.rooms(runs_root(options.root or self.root))
        return Cell(
            options=options,
            body=body or "",
            namespace=self.shell.user_ns,
            root=rooms.root,
            screen=self._screen(options),
            replica=rooms.copies or configured_replica(self.shell),
            note=rooms.said,
        )

    def _screen(self, options: Options) -> Any:
        from colab_magics.magics.checkpoint import configured_panel
        from colab_magics.magics.display import screen_for

        kind = "off" if options.quiet else options.panel or configured_panel(self.shell)
        in_kernel = getattr(self.shell, "kernel", None) is not None
        return screen_for(kind, in_kernel=in_kernel, free=options.background)


def usage(command: str) -> str:
    """The lines of `HELP` that are about one subcommand, and about the options that it takes."""
    lines = HELP.splitlines(keepends=True)
    what = [line.strip(" ") for line in lines if line.startswith(f"  %finetune {command} ")]
    options = [f"--{name} " for name in sorted(TAKES[command])]
    return "".join([*what, *(line for line in lines if line.strip(" ").startswith(tuple(options)))])


def _no_command(options: Options) -> Exception:
    close = nearest(str(options.name), SUBCOMMANDS)
    return ColabMagicsError(
        f"{options.name} is no subcommand of %finetune, and a line that trains needs --model and --data.",
        f"The subcommands are {', '.join(SUBCOMMANDS)}.",
        f"Did you mean %finetune {close}?" if close else f"%finetune status {options.name} shows a run.",
    )


def configured_root(shell: Any) -> str:
    """What `%config FinetuneMagics.root` says."""
    magics = shell.magics_manager.registry.get("FinetuneMagics")
    return str(magics.root) if magics is not None else ""


def _recipe_keys() -> frozenset[str]:
    from colab_magics.recipe.spellings import known_keys

    return known_keys()
