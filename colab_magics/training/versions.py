"""What an attempt runs on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata

from colab_magics.version import __version__


def versions() -> dict[str, str]:
    """What the attempt runs on, for whoever reads it later: library -> version; importing nothing."""
    found = {"python": platform.python_version(), "colab_magics": __version__}
    for library in ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "trl"):
        with suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found
