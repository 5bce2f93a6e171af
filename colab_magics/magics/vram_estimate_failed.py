"""Of a module whose step has raised while it was traced: whether that is the user's mistake, and in what words."""

from __future__ import annotations

import re
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.hub import first_line
from colab_magics.magics.vram_estimate_line import Asked

# what torch says of sizes and types that would not do with numbers either
_OF_SHAPES = re.compile(
    r"shapes? (?:cannot|mismatch|'|do not)|size mismatch|must match|must have same|must be equal|incompatible"
    r"|same (?:dtype|size)|should be the same|expected (?:input|m1|\S+ to have|scalar type|all)|scalar types"
    r"|invalid for input of size|index out of range|to have \d+ channels|normalized_shape",
    re.IGNORECASE,
)
# what it says of tensors without numbers
_OF_FAKES = re.compile(
    r"fake|meta tensor|data.?dependent|data.?(?:ptr|pointer)|subclass|symbolic|not.?implemented|cuda", re.IGNORECASE
)
_STAGES = {"forward": "forward", "loss": "loss", "backward": "backward", "optimizer": "optimizer's step"}


def refusal(asked: Asked, failed: Any) -> ColabMagicsError | None:
    """What to refuse with, where numbers would not have helped; None where only the trace has failed.

    Parameters
    ----------
    failed : `training.tracing.module.Failed`
    """
    stage, error = failed.stage, failed.error
    first, loss = first_line(error), asked.recipe.get("loss")
    told = f"{type(error).__name__}: {first}"
    # a text by itself says nothing of its origin: of torch's own kinds of error the words tell
    theirs = isinstance(error, TypeError | ValueError) and not _OF_FAKES.search(f"{type(error).__name__} {first}")
    if not theirs and not _OF_SHAPES.search(first):
        return None
    match stage:
        case "loss" if loss is not None:
            return ColabMagicsError(
                f"--loss {loss} cannot be called with what {asked.name} gives.",
                told,
                f"It is called as {loss}(output, batch), with the output of {asked.name} and {asked.batch} as it is.",
                "For a loss of torch's own write a function: def f(output, batch): ...",
            )
        case "loss":
            return ColabMagicsError(
                f"There is no loss in what {asked.name} returns.", told, "Write --loss f, called as f(output, batch)."
            )
        case "optimizer":
            return ColabMagicsError(
                f"--optimizer {asked.optimizer or 'adamw'} cannot take a step on the weights of {asked.name}.",
                told,
                "Write --optimizer with one that was made of its parameters, or a name: adamw, adam, sgd.",
            )
    return ColabMagicsError(
        f"{asked.name} cannot be called with {asked.batch}.",
        told,
        "The batch is a tensor, a tuple of the arguments, or a dict of them by name.",
    )


def untraced(failed: Any) -> str:
    """Where it has failed and at what, where that is no mistake of the user's."""
    told = f"{type(failed.error).__name__}: {first_line(failed.error)}"[:200]
    return f"Its {_STAGES[failed.stage]} could not be traced ({told})"
