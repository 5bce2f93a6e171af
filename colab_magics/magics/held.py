"""What this notebook itself holds of the GPU on which a run is about to train."""

from __future__ import annotations

import sys
from collections.abc import Callable

from colab_magics.sizes import size

_WORTH_SAYING = 2**28  # bytes


def held_by_kernel(say: Callable[[str], None]) -> int:
    """Bytes of the GPU that this process holds; who holds them is said, with what gives them back.

    What colab_magics keeps there itself it lets go of first: the run comes before the next %generate. Nothing is
    imported for it: a kernel that has no torch holds nothing.
    """
    if "torch" not in sys.modules:
        return 0
    from IPython import get_ipython

    from colab_magics.memory.allocator import held_here
    from colab_magics.memory.release import release_ours
    from colab_magics.memory.report import holders

    for name in release_ours():
        say(f"Let go of {name}: the run may need the room.")
    held = held_here()
    if held >= _WORTH_SAYING:
        names = holders(get_ipython())
        said = f" ({names})" if names else ""
        say(f"This notebook holds {size(held)} of the GPU itself{said}. %vram free gives back what no variable holds.")
    return held
