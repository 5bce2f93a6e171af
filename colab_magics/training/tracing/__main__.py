"""Trace one training, as a process of its own: a request in JSON on stdin, what came of it in JSON on stdout.

Libraries say what they like on the way: their words go to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Device
from colab_magics.recipe import Recipe


def main() -> None:
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = _answer(request)
    except ColabMagicsError as error:
        answer = {"error": error.to_dict()}
    except Exception as error:  # a model's code may raise anything on tensors without numbers
        first = str(error).strip().partition("\n")[0]
        answer = {"untraceable": f"{type(error).__name__}: {first}"[:300]}
    json.dump(answer, answers)
    answers.close()
    os._exit(0)  # some libraries' threads would hold up the interpreter's end


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from colab_magics.training.torchao import hide_old_torchao

    hide_old_torchao()
    from transformers.utils import logging

    logging.set_verbosity_error()
    import numpy as np

    from colab_magics.training.source import ModelSource, read_model_config
    from colab_magics.training.tracing.answer import answer

    recipe = Recipe.from_yaml(request["recipe"])
    folder, cache = Path(request["folder"]), request["cache"]
    config = read_model_config(recipe.model, folder, recipe)
    return answer(
        ModelSource(recipe.model, folder, None, config, int(request["weight_bytes"])),
        recipe,
        [Device(**device) for device in request["devices"]],
        np.array(request["lengths"], np.int32),
        compare=bool(request["compare"]),
        cache=Path(cache) if cache else None,
    )


if __name__ == "__main__":
    main()
