"""A torchao that peft cannot work with is made invisible, instead of asking the user to remove it."""

from __future__ import annotations

import sys
from importlib import metadata

_OLDEST = (0, 16)


def hide_old_torchao() -> str | None:
    """Make this process behave as if a torchao older than 0.16 were not installed.

    Stock Colab has 0.10.0, and peft raises an ImportError when it finds it, though nothing here uses torchao.
    A None in `sys.modules` is Python's own way to say that a module is absent: `find_spec` and `import` both honour it.

    Returns
    -------
    The version that was hidden, or None.
    """
    try:
        version = metadata.version("torchao")
    except metadata.PackageNotFoundError:
        return None
    parts = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if parts >= _OLDEST:
        return None
    imported = sys.modules.get("torchao")
    sys.modules["torchao"] = None  # type: ignore[assignment]
    if imported is not None:
        # A notebook that uses its torchao keeps it; peft asks once, and remembers the answer.
        from peft.import_utils import is_torchao_available

        is_torchao_available()
        sys.modules["torchao"] = imported
    return version
