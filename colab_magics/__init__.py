"""One notebook cell fine-tunes a language model on a free GPU: `%load_ext colab_magics`, then `%%finetune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colab_magics.version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from colab_magics.errors import ColabMagicsError
    from colab_magics.magics.scale import scale
    from colab_magics.magics.track import track
    from colab_magics.recipe import Recipe
    from colab_magics.run import Run

__all__ = [
    "ColabMagicsError",
    "Recipe",
    "Run",
    "__version__",
    "load_ipython_extension",
    "scale",
    "track",
    "unload_ipython_extension",
]

# Looked up when asked for: %load_ext must not pay for what a cell may never use.
_HOMES = {
    "ColabMagicsError": "colab_magics.errors",
    "Recipe": "colab_magics.recipe",
    "Run": "colab_magics.run",
    "scale": "colab_magics.magics.scale",
    "track": "colab_magics.magics.track",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; prints nothing, imports nothing heavy."""
    from colab_magics.magics.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take back all that `load_ipython_extension` registered."""
    from colab_magics.magics.extension import unload

    unload(shell)
