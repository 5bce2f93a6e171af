"""What the libraries say while they load a model: their progress becomes ours, and their small talk stays out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Counted = Callable[[int, int | None], None]
"""Called with the tensors loaded and the tensors in all."""


@contextmanager
def quiet_libraries(counted: Counted | None = None) -> Iterator[None]:
    """Keep progress bars, deprecations among libraries, and kernels that are optional out of the output.

    Where a run dies, the end of its log is what the user is shown; it must be about his run.

    Parameters
    ----------
    counted : told how far transformers is in loading weights; what it raises ends the loading
    """
    from transformers.utils import logging as transformers_logging

    def hook(factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if counted is not None and arguments and options.get("desc") == "Loading weights":
            arguments = (_counting(arguments[0], counted), *arguments[1:])
        return factory(*arguments, **options)

    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    bars = transformers_logging.is_progress_bar_enabled()
    bitsandbytes.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    # older releases of transformers 5 have no such hook: their loading is then one phase without a bar
    set_hook = getattr(transformers_logging, "set_tqdm_hook", None)
    before = set_hook(hook) if set_hook is not None else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if set_hook is not None:
            set_hook(before)
        bitsandbytes.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _counting(items: Any, counted: Counted) -> Iterator[Any]:
    total = len(items) if hasattr(items, "__len__") else None
    for done, item in enumerate(items):
        counted(done, total)
        yield item
    counted(total or 0, total)
