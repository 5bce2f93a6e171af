"""Registering the magics with a shell, and taking back every trace of them."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from colab_magics.magics import activity, failed_cell
from colab_magics.magics.checkpoint import CheckpointMagics
from colab_magics.magics.compare import CompareMagics
from colab_magics.magics.completion import complete
from colab_magics.magics.export import ExportMagics
from colab_magics.magics.finetune import FinetuneMagics
from colab_magics.magics.generate import GenerateMagics
from colab_magics.magics.panel import PanelMagics
from colab_magics.magics.report import ReportMagics
from colab_magics.magics.session import SessionMagics
from colab_magics.magics.vram import VramMagics

_MAGICS = {
    "finetune": FinetuneMagics,
    "checkpoint": CheckpointMagics,
    "panel": PanelMagics,
    "session": SessionMagics,
    "vram": VramMagics,
    "generate": GenerateMagics,
    "compare": CompareMagics,
    "export": ExportMagics,
    "report": ReportMagics,
}
_HOOKS = (*activity.HOOKS.items(), *failed_cell.HOOKS.items())
_NAMES = {kind.__name__ for kind in _MAGICS.values()}
_COMPLETED = (
    "%finetune",
    "%%finetune",
    "finetune",
    "%checkpoint",
    "checkpoint",
    "%panel",
    "panel",
    "%session",
    "%%session",
    "session",
    "%vram",
    "%%vram",
    "vram",
    "%generate",
    "%%generate",
    "generate",
    "%compare",
    "%%compare",
    "compare",
    "%export",
    "export",
    "%report",
    "report",
)


def load(shell: Any) -> None:
    """Register the magics and their completion; a second time changes nothing."""
    unload(shell)
    shell.register_magics(*_MAGICS.values())
    for word in _COMPLETED:
        shell.set_hook("complete_command", complete, str_key=word)
    for event, hook in _HOOKS:
        shell.events.register(event, hook)
    watch = sys.modules.get("colab_magics.magics.vram_watch")
    if watch is not None:
        watch.WATCH.go_on(shell)


def unload(shell: Any) -> None:
    """Remove all that `load` registered. IPython has no call for it."""
    background = sys.modules.get("colab_magics.magics.background")
    if background is not None:  # it is imported with the first run
        background.leave_all()
    watch = sys.modules.get("colab_magics.magics.vram_watch")
    if watch is not None:  # it is imported when it is first switched on
        watch.WATCH.leave(shell)
    manager = shell.magics_manager
    # by their names: after %reload_ext the classes are others
    for magics in manager.magics.values():
        for name, kind in _MAGICS.items():
            owner = getattr(magics.get(name), "__self__", None)
            if type(owner).__name__ == kind.__name__:
                del magics[name]
    for name in _NAMES:
        manager.registry.pop(name, None)
    shell.configurables[:] = [one for one in shell.configurables if type(one).__name__ not in _NAMES]
    _unhook(shell)
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


def _unhook(shell: Any) -> None:
    for event, hook in _HOOKS:
        called = shell.events.callbacks[event]
        called[:] = [one for one in called if _named(one) != _named(hook)]


def _named(function: Any) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
