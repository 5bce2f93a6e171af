"""Tab completion of the magics: subcommands, options, keys of the recipe, runs, steps."""

from __future__ import annotations

from typing import Any

from colab_magics.magics.checkpoint_line import ALWAYS, COMMANDS
from colab_magics.magics.options import OWN, PANELS, SUBCOMMANDS, TAKES
from colab_magics.magics.panel import OPTIONS as PANEL_OPTIONS

_NAMES_A_RUN = ("recipe", "status", "attach", "detach", "stop")


def complete(shell: Any, event: Any) -> list[str]:
    """What could stand at the cursor; called by IPython with the line so far. Never raises."""
    try:
        text, symbol = event.text_until_cursor, event.symbol
        magic, *before = text[: len(text) - len(symbol)].split()
        if magic.lstrip("%") == "checkpoint":
            return _of_checkpoint(shell, before, symbol)
        if magic.lstrip("%") == "panel":
            return _of_panel(shell, before, symbol)
        if magic.lstrip("%") == "session":
            return _of_session(shell, before, symbol)
        if magic.lstrip("%") == "vram":
            return _of_vram(shell, before, symbol)
        if magic.lstrip("%") in ("generate", "compare"):
            return _of_asking(shell, magic.lstrip("%"), before, symbol)
        if magic.lstrip("%") == "export":
            return _of_export(shell, before, symbol)
        if magic.lstrip("%") == "report":
            return _of_report(shell, before, symbol)
        return _of_finetune(shell, before, symbol)
    except Exception:  # a completer that raises takes the whole completion with it
        return []


def _of_finetune(shell: Any, before: list[str], symbol: str) -> list[str]:
    if symbol.startswith("-"):
        from colab_magics.recipe.fields import rules
        from colab_magics.recipe.search import SETTINGS

        if before and before[0] in SUBCOMMANDS and before[0] not in ("recipe", "data"):
            return [f"--{name}" for name in (*sorted(TAKES[before[0]]), "help")]
        return [f"--{name.replace('_', '-')}" for name in (*OWN, *rules(), *SETTINGS)]
    if before and before[-1] == "--panel":
        return list(PANELS)
    if not before:
        return [*SUBCOMMANDS, *_runs(shell)]
    if before == ["best"]:
        return _trials(shell)
    if before[0] in _NAMES_A_RUN or before[-1] == "--fork":
        return _runs(shell)
    return []


def _of_panel(shell: Any, before: list[str], symbol: str) -> list[str]:
    if symbol.startswith("-"):
        return [f"--{name}" for name in (*PANEL_OPTIONS, "help")]
    match before[-1] if before else "":
        case "--panel":
            return list(PANELS)
        case "--root":
            return []  # a path: IPython completes files itself
    return _runs(shell)


def _of_checkpoint(shell: Any, before: list[str], symbol: str) -> list[str]:
    if not before:
        return list(COMMANDS)
    command, last = before[0], before[-1]
    if command not in COMMANDS:
        return []
    grammar = COMMANDS[command]
    if symbol.startswith("-"):
        return [f"--{name.replace('_', '-')}" for name in (*grammar.options, *ALWAYS)]
    match {**grammar.options, **ALWAYS}.get(last.removeprefix("--")) if last.startswith("--") else None:
        case "STEP":
            return _steps(shell, before)
        case "KIND":
            return list(PANELS)
        case str(kind) if kind:
            return []  # a path or a new name: IPython completes files itself
    plain = [word for word in before[1:] if not word.startswith("-")]
    offered = _runs(shell) if "RUN" in grammar.words else []
    if "STEP" in grammar.words:
        offered += _steps(shell, before)
    if command == "export" and not plain:
        return []  # its path comes first
    return offered


def _of_session(shell: Any, before: list[str], symbol: str) -> list[str]:
    from colab_magics.magics.session_line import COMMANDS as SESSION

    match before:
        case []:
            return list(SESSION)
        case ["set"] | ["unset"]:
            return _settings(given=before == ["unset"])
        case ["set", "platform" | "session.platform"]:
            return list(_table().platforms)
        case ["setup", *_] if symbol.startswith("-"):
            return ["--out"]
        case ["plan" | "cost"]:
            return _runs(shell)
    return []


def _of_vram(shell: Any, before: list[str], symbol: str) -> list[str]:
    from colab_magics.magics.vram_line import COMMANDS as VRAM

    match before:
        case [] if symbol.startswith("-"):
            return ["--watch", "--help"]
        case []:
            return list(VRAM)
        case ["--watch"]:
            return ["off"]
        case ["free", *_] if symbol.startswith("-"):
            return ["--all"]
        case ["free", *named]:
            return [name for name in _variables(shell) if name not in named]
        case ["why" | "estimate"]:
            return _runs(shell)
    return []


def _of_asking(shell: Any, magic: str, before: list[str], symbol: str) -> list[str]:
    from colab_magics.inference.sampling import FLAGS as DRAW
    from colab_magics.inference.sampling import OPTIONS
    from colab_magics.magics import compare_line, generate_line

    line = generate_line if magic == "generate" else compare_line
    if symbol.startswith("-"):
        return [f"--{name.replace('_', '-')}" for name in (*line.VALUES, *line.FLAGS, *DRAW, *OPTIONS, "help")]
    match before[-1] if before else "":
        case "--run" | "--with":
            return _runs(shell)
        case "--checkpoint" | "--checkpoints":
            return _steps(shell, ["", *before])
        case "--on":
            return ["cuda", "cpu"]
        case "--prompts" | "--data":
            return _variables(shell)
        case "--score":
            return [name for name, one in shell.user_ns.items() if name[0] != "_" and callable(one)]
    return []


def _of_export(shell: Any, before: list[str], symbol: str) -> list[str]:
    from colab_magics.magics.export_line import DTYPES, GGUF, OPTIONS

    if symbol.startswith("-"):
        return [f"--{name}" for name in (*OPTIONS, "help")]
    match before[-1] if before else "":
        case "--dtype":
            return list(DTYPES)
        case "--gguf":
            return [*GGUF, *_runs(shell)]
        case "--checkpoint":
            return _steps(shell, ["export", *before])
        case str(last) if OPTIONS.get(last.removeprefix("--")):
            return []  # a path or a name: IPython completes files itself
    return _runs(shell)


def _of_report(shell: Any, before: list[str], symbol: str) -> list[str]:
    from colab_magics.magics.report_line import OPTIONS

    if symbol.startswith("-"):
        return [f"--{name}" for name in (*OPTIONS, "help")]
    return [] if before and before[-1].removeprefix("--") in OPTIONS else _runs(shell)


def _variables(shell: Any) -> list[str]:
    """The user's own variables; functions, classes and modules hold memory too seldom to be offered."""
    from types import FunctionType, ModuleType

    from colab_magics.memory.kept import OWN_NAMES

    kinds = (FunctionType, ModuleType, type)
    return [
        name
        for name, one in shell.user_ns.items()
        if not name.startswith("_") and not OWN_NAMES.fullmatch(name) and type(one) not in kinds
    ]


def _settings(*, given: bool) -> list[str]:
    """The keys that can be set, or that are."""
    from colab_magics.session.settings import keys_of

    table = _table()
    if not given:
        return list(keys_of(table))
    return [".".join(path).removeprefix("session.").removeprefix("platforms.") for path in table.own]


def _table() -> Any:
    from colab_magics.session.settings import user_file
    from colab_magics.session.table import load_table

    return load_table(user_file())


def _trials(shell: Any) -> list[str]:
    from colab_magics.magics.trials_kept import kept_names
    from colab_magics.magics.vram import runs_of

    return kept_names(runs_of(shell))


def _runs(shell: Any) -> list[str]:
    from colab_magics.magics.vram import runs_of
    from colab_magics.run import list_runs

    return [run.name for run in list_runs(runs_of(shell))]


def _steps(shell: Any, before: list[str]) -> list[str]:
    """Steps of the run that the line names, else of the one that is meant without a name."""
    from colab_magics.checkpoints.verify import entries
    from colab_magics.magics.vram import runs_of
    from colab_magics.run import find_run

    runs = set(_runs(shell))
    named = next((word for word in before[1:] if word in runs), None)
    return [str(entry.step) for entry in entries(find_run(named, runs_of(shell)).folder / "checkpoints")]
