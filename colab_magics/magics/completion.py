"""Tab completion of `%finetune` and `%%finetune`: subcommands, options, keys of the recipe, runs."""

from __future__ import annotations

from typing import Any

from colab_magics.magics.options import OWN, PANELS, SUBCOMMANDS

_NAMES_A_RUN = ("recipe", "status", "attach", "detach", "stop")


def complete(shell: Any, event: Any) -> list[str]:
    """What could stand at the cursor; called by IPython with the line so far. Never raises."""
    try:
        return _candidates(shell, event.text_until_cursor, event.symbol)
    except Exception:  # a completer that raises takes the whole completion with it
        return []


def _candidates(shell: Any, text: str, symbol: str) -> list[str]:
    before = text[: len(text) - len(symbol)].split()[1:]
    if symbol.startswith("-"):
        from colab_magics.recipe.fields import rules

        return [f"--{name.replace('_', '-')}" for name in (*OWN, *rules())]
    if before and before[-1] == "--panel":
        return list(PANELS)
    if not before:
        return [*SUBCOMMANDS, *_runs(shell)]
    if before[0] in _NAMES_A_RUN or before[-1] == "--fork":
        return _runs(shell)
    return []


def _runs(shell: Any) -> list[str]:
    from colab_magics.magics.finetune import configured_root
    from colab_magics.run import list_runs, runs_root

    return [run.name for run in list_runs(runs_root(configured_root(shell)))]
