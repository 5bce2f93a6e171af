"""The card of an export: of a merge what was added to what, and by which recipe; of none where the base lay here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from colab_magics.errors import ColabMagicsError, redact
from colab_magics.magics.checkpoint_show import loading
from colab_magics.magics.parcel import MARK
from colab_magics.run import Run


def merged_card(run: Run, made: Mapping[str, Any], step: int | None) -> str:
    """A README.

    Parameters
    ----------
    made : what the process that merged has told: `base`, `revision`, `dtype`, `untied`
    step : of the checkpoint, where it is not the run's result
    """
    base = str(made["base"])
    head = ["---", f"base_model: {base}", "library_name: transformers", "pipeline_tag: text-generation"]
    at = f" at commit `{made['revision']}`" if made.get("revision") else ""
    of = f"the checkpoint of step {step:,} of" if step is not None else "the result of"
    body = [
        *[*head, "tags:", "- colab_magics", "- merged", "---", "", MARK, "", f"# {run.name}", ""],
        f"The adapter that is {of} `{run.name}`, added to `{base}`{at}: in fp32, rounded once to {made['dtype']}.",
        *(["Input and output no longer share a table: the adapter changes one of them."] if made.get("untied") else []),
        *["", "```python", *loading("path/of/this/folder", adapter=False), "```"],
    ]
    try:
        body += ["", "## Recipe", "", "```yaml", run.recipe.to_yaml().rstrip(), "```"]
    except (OSError, ColabMagicsError):  # a run from elsewhere may have none
        body += ["", "Its recipe is not known."]
    return without_folders(redact("\n".join(body) + "\n"))


def without_folders(card: str) -> str:
    """The card of a model whose base is a folder, by that folder's name: elsewhere its path says nothing, or too much.

    The recipe at its end stays as it was written.
    """
    found = re.search(r"^base_model: (?P<path>[/~.].*)\n", card, re.MULTILINE)
    if found is None:
        return card
    told, recipe, rest = card.replace(found[0], "", 1).partition("\n## Recipe\n")
    return told.replace(found["path"], PurePath(found["path"]).name) + recipe + rest
