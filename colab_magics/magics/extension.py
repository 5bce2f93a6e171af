"""Registering the magics with a shell, and taking back every trace of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from colab_magics.magics.completion import complete
from colab_magics.magics.finetune import FinetuneMagics

_COMPLETED = ("%finetune", "%%finetune", "finetune")


def load(shell: Any) -> None:
    """Register `%finetune`, `%%finetune` and their completion; a second time changes nothing."""
    unload(shell)
    shell.register_magics(FinetuneMagics)
    for word in _COMPLETED:
        shell.set_hook("complete_command", complete, str_key=word)


def unload(shell: Any) -> None:
    """Remove all that `load` registered. IPython has no call for it."""
    manager = shell.magics_manager
    for kind in ("line", "cell"):
        owner = getattr(manager.magics[kind].get("finetune"), "__self__", None)
        if type(owner).__name__ == "FinetuneMagics":
            del manager.magics[kind]["finetune"]
    manager.registry.pop("FinetuneMagics", None)
    shell.configurables[:] = [one for one in shell.configurables if type(one).__name__ != "FinetuneMagics"]
    hooks = shell.strdispatchers.get("complete_command")
    for word in _COMPLETED:
        chain = hooks.strs.get(word) if hooks is not None else None
        if chain is None:
            continue
        chain.chain[:] = [
            (order, hook) for order, hook in chain.chain if getattr(hook, "__func__", hook) is not complete
        ]
        if not chain.chain:
            with suppress(KeyError):
                del hooks.strs[word]
